"""A small DINO-style ViT and what it learns from: images only, no labels.

The student sees windows of pictures whose patches are independently corrupted; a teacher, the
moving average of the student, sees them clean. Two terms teach the student:

* ``denoise``: rebuild the clean pixels of every patch. The best estimator averages patches of the
  same part.
* ``relation``: the attention of a patch in the last two layers must equal the resemblance of the
  teacher's description of the clean image (``relations``). It trains the attention map itself.

Self-distillation from a momentum teacher is DINO's; its prototype losses on views and patches are
left out: in the short pilots of ``weights/DINO_CARD.md`` they did not look useful.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

from encoders.objective import Objective, SceneRecipe
from ssrseg.networks.dino import PIXEL_MEAN, PIXEL_STD


@dataclass(frozen=True, kw_only=True)
class DinoRecipe(SceneRecipe):
    """Recipe of a DINO-style ViT; the defaults are the demo world's."""

    log_every = 100
    views: int = 150_000
    batch: int = 32
    width: int = 96
    depth: int = 4
    heads: int = 3
    warmup: int = 60
    pool: int = 1500
    fresh: int = 1
    window: int = 10
    """Side of the windows in patches."""
    full_share: float = 0.02
    """Share of the steps, at the end, that see whole pictures instead of windows."""
    relation: float = 1.0
    """Weight of the relation term beside the denoising term."""


class PictureSource(Protocol):
    """Rendered scenes; ``name`` is ``.Objective.pictures``."""

    name: str

    def draw(
        self, step: int, count: int, generator: torch.Generator
    ) -> UInt8[Tensor, "batch 3 side side"]:
        """Draw ``count`` pictures of the model's size with replacement."""


def sincos_positions(grid: int, dim: int, scale: float = 0.5) -> Float[Tensor, "1 patches_cls dim"]:
    """Fixed 2-D sine-cosine rows as a start for the learned position table; the CLS row is 0."""
    quarter = dim // 4
    omega = 1.0 / 100.0 ** (torch.arange(quarter) / quarter)
    angle = torch.arange(grid).float()[:, None] * omega
    wave = torch.cat([angle.sin(), angle.cos()], 1)
    rows = torch.cat([wave.repeat_interleave(grid, 0), wave.repeat(grid, 1)], 1)
    return scale * torch.cat([torch.zeros(1, dim), F.pad(rows, (0, dim - rows.shape[1]))])[None]


def encode_patches(
    model: ViTModel,
    patches: Float[Tensor, "batch words pixels"],
    places: Int[Tensor, "batch words"],
) -> tuple[Float[Tensor, "batch tokens dim"], list[Float[Tensor, "batch words words"]]]:
    """Run the ViT on patches that lie at ``places`` of its grid, row-major.

    The library's own forward only knows whole pictures.

    Returns:
        Tokens after the last layer norm, CLS first, and per layer the head-averaged attention
        between patches, CLS row and column dropped (rows sum to at most 1).
    """
    projection = model.embeddings.patch_embeddings.projection
    rows = model.embeddings.position_embeddings[0]
    cls = (model.embeddings.cls_token[0] + rows[:1]).expand(len(patches), 1, -1)
    embedded = F.linear(patches, projection.weight.flatten(1), projection.bias)
    tokens = torch.cat([cls, embedded + rows[1 + places]], 1)
    maps = []
    for layer in model.layers:
        attention = layer.attention
        inner = layer.layernorm_before(tokens)
        shape = (*inner.shape[:2], -1, attention.head_dim)
        inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = (project(inner).view(shape).transpose(1, 2) for project in inputs)
        weights = (query @ key.transpose(2, 3) * attention.scaling).softmax(-1)
        maps.append(weights[:, :, 1:, 1:].mean(1))
        tokens = tokens + attention.o_proj((weights @ value).transpose(1, 2).flatten(2))
        tokens = tokens + layer.mlp(layer.layernorm_after(tokens))
    return model.layernorm(tokens), maps


def random_views(
    pictures: UInt8[Tensor, "batch 3 height width"], side: int, generator: torch.Generator
) -> Float[Tensor, "batch 3 side side"]:
    """Random crop, scale, flip and colour change of each picture, normalised like DINO's input.

    The crop's edge is 0.8 to 1.3 times ``side`` where the picture is large enough.
    """
    count, _, height, _ = pictures.shape
    low, high = min(0.8 * side, height) / height, min(1.3 * side, height) / height
    edge = low + (high - low) * torch.rand(count, generator=generator)
    centre = (1 - edge)[:, None] * (2 * torch.rand(count, 2, generator=generator) - 1)
    flip = 1.0 - 2.0 * (torch.rand(count, generator=generator) < 0.5)
    zero, (across, down) = torch.zeros(count), centre.T
    theta = torch.stack([edge * flip, zero, across, zero, edge, down], 1).view(count, 2, 3)
    grid = F.affine_grid(theta, [count, 3, side, side], align_corners=False)
    pixels = F.grid_sample(pictures.float() / 255, grid, align_corners=False, padding_mode="border")
    gain = 1 + 0.2 * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
    cast = 1 + 0.1 * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)
    shift = 0.08 * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
    pixels = (pixels * gain * cast + shift).clamp(0, 1)
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def to_patches(
    images: Float[Tensor, "batch 3 height width"], patch: int
) -> Float[Tensor, "batch words pixels"]:
    """Cut images into row-major patches, each in the order of the ViT's projection weights."""
    return F.unfold(images, patch, stride=patch).transpose(1, 2)


def corrupt(
    patches: Float[Tensor, "batch words pixels"], generator: torch.Generator
) -> tuple[Float[Tensor, "batch words pixels"], Bool[Tensor, "batch words"]]:
    """Corrupt patches one by one, so that only others can tell what is true; also returns which.

    A fifth of the images stays clean, as at test time; in the others 10 to 90 % of the patches get
    one of: another colour and pixel noise (50 %), the content of a patch of another image (25 %),
    grey (25 %).
    """
    count, words, pixels = patches.shape
    share = 0.1 + 0.8 * torch.rand(count, 1, generator=generator)
    share = share * (torch.rand(count, 1, generator=generator) > 0.2)
    which = torch.rand(count, words, generator=generator) < share
    kind = torch.rand(count, words, 1, generator=generator)
    strength = 0.4 + 1.2 * torch.rand(count, 1, 1, generator=generator)
    shift = torch.randn(count, words, 3, 1, generator=generator).expand(-1, -1, -1, pixels // 3)
    noise = torch.randn(patches.shape, generator=generator)
    recoloured = patches + strength * (shift.flatten(2) + 0.4 * noise)
    other = torch.randperm(count * words, generator=generator)
    swapped = patches.flatten(0, 1)[other].view_as(patches)
    wrong = torch.where(kind < 0.5, recoloured, torch.where(kind < 0.75, swapped, 0.0))
    return torch.where(which[..., None], wrong, patches), which


def describe(
    features: Float[Tensor, "batch words dim"], patches: Float[Tensor, "batch words pixels"]
) -> Float[Tensor, "batch words described"]:
    """Teacher features of about unit length, then twice the mean colour of the clean patch."""
    units = F.normalize(features.float() - features.float().mean((0, 1)), dim=-1)
    return torch.cat([units, 2 * patches.unflatten(2, (3, -1)).mean(-1)], -1)


def relations(
    features: Float[Tensor, "batch words dim"], temperature: float = 0.1, ridge: float = 0.02
) -> Float[Tensor, "batch words words"]:
    """Which patches of an image resemble each other: softmax of the cosine of cleaned features.

    Cleaning takes away what all patches of an image share (its light), then whitens: a few
    directions hold nearly all of the variance and would hide the others. ``ridge`` is the share of
    the total variance that is added to that of every direction. Rows sum to 1.
    """
    free = features.float() - features.float().mean(1, keepdim=True)
    flat = free.flatten(0, 1)
    variance, axes = torch.linalg.eigh(flat.T @ flat / len(flat))
    scale = (variance.clamp_min(0) + ridge * variance.sum()).rsqrt()
    units = F.normalize(free @ axes * scale, dim=-1)
    return (units @ units.mT / temperature).softmax(-1)


def relation_loss(
    maps: list[Float[Tensor, "batch words words"]], target: Float[Tensor, "batch words words"]
) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence from ``target`` to the attention of each layer, averaged.

    Rows of ``target`` sum to 1; those of the attention are brought to it.
    """
    entropy = (target * target.clamp_min(1e-9).log()).sum(-1).mean()
    losses = []
    for attention in maps:
        rows = attention.float() / attention.float().sum(2, keepdim=True)
        losses.append(entropy - (target * rows.clamp_min(1e-6).log()).sum(-1).mean())
    return torch.stack(losses).mean()


def draw_windows(
    recipe: DinoRecipe, source: PictureSource, step: int
) -> tuple[Float[Tensor, "windows words pixels"], Int[Tensor, "windows words"], torch.Generator]:
    """Clean patches of the step's windows, their grid places, and the step's generator.

    Odd steps cut windows and give them a random place in the position table; even steps take as
    many single patches from whole pictures, so that attention over long ways is trained at the
    same cost; the last steps use the whole grid.
    """
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    whole = step >= (1 - recipe.full_share) * recipe.steps
    side = recipe.window if step % 2 and not whole else recipe.grid
    pictures = source.draw(step, recipe.batch, generator)
    clean = to_patches(random_views(pictures, side * recipe.patch, generator), recipe.patch)
    corner = torch.randint(recipe.grid - side + 1, (len(pictures), 2, 1), generator=generator)
    row, column = (corner + torch.arange(side)).unbind(1)
    places = (row[:, :, None] * recipe.grid + column[:, None, :]).flatten(1)
    if side == recipe.grid and not whole:
        order = torch.rand(places.shape, generator=generator).argsort(1)
        chosen = order[:, : recipe.window**2]
        places = places.gather(1, chosen)
        clean = clean.gather(1, chosen[:, :, None].expand(-1, -1, clean.shape[2]))
    return clean, places, generator


class DinoObjective(Objective):
    """Self-supervised pretraining: both terms of the module's docstring."""

    folder, processor, mean, std = "dino", "ViTImageProcessor", PIXEL_MEAN, PIXEL_STD

    def __init__(self, recipe: DinoRecipe, source: PictureSource) -> None:
        self.recipe, self.source, self.pictures = recipe, source, source.name

    def build_model(self) -> nn.ModuleDict:
        """A random ViT with sine-cosine positions, and a linear decoder of tokens to pixels."""
        recipe = self.recipe
        encoder = ViTModel(
            ViTConfig(
                hidden_size=recipe.width,
                num_hidden_layers=recipe.depth,
                num_attention_heads=recipe.heads,
                intermediate_size=4 * recipe.width,
                image_size=recipe.side,
                patch_size=recipe.patch,
                hidden_act="gelu",
                initializer_range=0.06,  # the default, 0.02, is meant for eight times this width
            ),
            add_pooling_layer=False,
        )
        with torch.no_grad():
            start = sincos_positions(recipe.grid, recipe.width)
            encoder.embeddings.position_embeddings.copy_(start)
        decoder = nn.Linear(recipe.width, 3 * recipe.patch**2)
        return nn.ModuleDict({"encoder": encoder, "decoder": decoder})

    def losses(self, model: nn.ModuleDict, average: nn.ModuleDict, step: int) -> dict[str, Tensor]:
        """Teach the student, ``model``, by the teacher, ``average``."""
        clean, places, generator = draw_windows(self.recipe, self.source, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            corrupted, which = corrupt(clean, generator)
            tokens, maps = encode_patches(model["encoder"], corrupted, places)
            rebuilt = model["decoder"](tokens[:, 1:])
            error = F.smooth_l1_loss(rebuilt, clean, reduction="none", beta=0.5)
            with torch.no_grad():
                truth, _ = encode_patches(average["encoder"], clean, places)
                target = relations(describe(truth[:, 1:], clean))
            # what is not corrupted could be copied from the input, so it counts little
            denoise = (error.mean(-1) * (0.1 + 0.9 * which)).mean()
            relation = relation_loss(maps[-2:], target)
        total = denoise + self.recipe.relation * relation
        return {"loss": total, "denoise": denoise, "relation": relation}

    def momentum(self, step: int) -> float:
        """From 0.9 to 0.9985 in the first thousand steps."""
        return min(0.9985, 0.9 + 0.0985 * step / 1000)

    def constrain(self, model: nn.ModuleDict) -> None:
        """Every weight is allowed."""

    def export(self, model: nn.ModuleDict, folder: Path) -> None:
        """Write the ViT without the decoder."""
        super().export(model["encoder"], folder)
