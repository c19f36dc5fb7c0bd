"""A small CLIP and what it learns: which caption belongs to which window of a picture.

Three readings of the image tower are contrasted with the captions: CLS as in CLIP; the mean over
patches, which is what SSR's CAM differentiates; and, for each caption, the patches it points at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from encoders.dino import sincos_positions
from encoders.objective import Objective, SceneRecipe
from ssrseg.networks.clip import PIXEL_MEAN, PIXEL_STD, FrozenCLIP


@dataclass(frozen=True, kw_only=True)
class ClipRecipe(SceneRecipe):
    """Recipe of a CLIP; the defaults are the demo world's."""

    log_every = 250
    views: int = 832_000
    batch: int = 128
    width: int = 128
    depth: int = 6
    heads: int = 4
    warmup: int = 100
    pool: int = 2048
    fresh: int = 8
    text_width: int = 96
    text_depth: int = 2
    dim: int = 96
    windows: tuple[int, int] = (6, 12)
    """Side of the windows in patches: first, and at the end."""
    late_share: float = 0.1
    """Share of the steps that see the large windows."""
    loss_weights: tuple[float, float, float] = (0.1, 0.3, 0.6)
    """CLS, mean over patches, patches weighted by the text."""

    def window(self, step: int) -> int:
        """Side of the windows at a step, in patches."""
        return self.windows[step >= (1 - self.late_share) * self.steps]


def clip_config(recipe: Any, tokenizer: CLIPTokenizer, **vision: object) -> CLIPConfig:
    """The library's configuration of both towers.

    Args:
        recipe: With ``text_width``, ``text_depth`` and ``dim``, beside what every recipe has.
        tokenizer: Its special tokens, and the length of its longest text.
        vision: More about the image tower.
    """
    return CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": recipe.text_width,
            "intermediate_size": 4 * recipe.text_width,
            "num_hidden_layers": recipe.text_depth,
            "num_attention_heads": 4,
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": recipe.width,
            "intermediate_size": 4 * recipe.width,
            "num_hidden_layers": recipe.depth,
            "num_attention_heads": recipe.heads,
            "image_size": recipe.side,
            "patch_size": recipe.patch,
            **vision,
        },
        projection_dim=recipe.dim,
    )


class CaptionBatch(NamedTuple):
    """Windows of pictures, captions (repeats allowed), and which caption is true of which window.

    Pixels are normalised as CLIP's input; places are those of the patches in the model's grid,
    row-major.
    """

    pixels: Float[Tensor, "windows 3 side side"]
    places: Int[Tensor, "windows patches"]
    captions: list[str]
    right: Bool[Tensor, "windows captions"]


class CaptionSource(Protocol):
    """Rendered scenes; ``name`` is ``.Objective.pictures``."""

    name: str

    def tokenizer(self) -> CLIPTokenizer:
        """One in which every word that a caption can hold is one token."""

    def batch(self, step: int) -> CaptionBatch:
        """The batch of a step; depends on the seed and the step alone."""

    def evaluate(self, clip: FrozenCLIP) -> dict[str, float]:
        """Figures for the log, on pictures that are not trained on; by name, always the same."""


def normalise(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """CLIP's normalisation of RGB in [0, 1]."""
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    return (images - mean[:, None, None]) / std[:, None, None]


def encode_windows(
    model: CLIPModel,
    pixels: Float[Tensor, "batch 3 side side"],
    places: Int[Tensor, "batch patches"],
) -> Float[Tensor, "batch tokens dim"]:
    """Project every token of windows whose patches lie at ``places`` of the model's grid.

    The library's own forward only knows whole pictures.
    """
    vision = model.vision_model
    embedded = vision.embeddings.patch_embedding(pixels).flatten(2).mT
    rows = vision.embeddings.position_embedding.weight
    cls = (vision.embeddings.class_embedding + rows[0]).expand(len(pixels), 1, -1)
    hidden = vision.pre_layrnorm(torch.cat([cls, embedded + rows[1:][places]], 1))
    for block in vision.encoder.layers:
        hidden = block(hidden, None)
    return model.visual_projection(vision.post_layernorm(hidden))


def contrast(
    cosines: Float[Tensor, "images texts"], right: Bool[Tensor, "images texts"], scale: Tensor
) -> Tensor:
    """CLIP's symmetric loss; other captions that are right for an image share its target."""
    logits = scale * cosines
    target = right.float()
    rows = -(logits.log_softmax(1) * target / target.sum(1, keepdim=True)).sum(1).mean()
    columns = -(logits.log_softmax(0) * target / target.sum(0, keepdim=True)).sum(0).mean()
    return (rows + columns) / 2


def clip_loss(
    tokens: Float[Tensor, "batch tokens dim"],
    texts: Float[Tensor, "texts dim"],
    right: Bool[Tensor, "batch texts"],
    scale: Tensor,
    weights: tuple[float, float, float],
) -> Tensor:
    """Contrast texts with CLS, with the mean patch and with the patches each text points at."""
    texts = functional.normalize(texts, dim=-1)
    cls = functional.normalize(tokens[:, 0], dim=-1) @ texts.T
    mean = functional.normalize(tokens[:, 1:].mean(1), dim=-1) @ texts.T
    nearness = functional.normalize(tokens[:, 1:], dim=-1) @ texts.T
    pointed = ((scale.detach() * nearness).softmax(1) * nearness).sum(1)
    losses = [contrast(cosines, right, scale) for cosines in (cls, mean, pointed)]
    return torch.stack([w * value for w, value in zip(weights, losses, strict=True)]).sum()


class ClipObjective(Objective):
    """Image-text pretraining."""

    folder, processor, mean, std = "clip", "CLIPImageProcessor", PIXEL_MEAN, PIXEL_STD
    fused = True

    def __init__(self, recipe: ClipRecipe, source: CaptionSource) -> None:
        self.recipe, self.source, self.pictures = recipe, source, source.name
        self.tokenizer = source.tokenizer()

    def build_model(self) -> CLIPModel:
        """A random CLIP with sine-cosine positions."""
        recipe = self.recipe
        model = CLIPModel(clip_config(recipe, self.tokenizer))
        # plain attention: the fused kernel's backward pass is many times slower in bf16 on a CPU
        model.set_attn_implementation("eager")
        with torch.no_grad():
            table = model.vision_model.embeddings.position_embedding.weight
            table.copy_(sincos_positions(recipe.grid, recipe.width, scale=0.2)[0])
        return model

    def losses(self, model: CLIPModel, average: CLIPModel, step: int) -> dict[str, Tensor]:
        """One value, ``clip_loss``; a text that several captions share is encoded once."""
        batch = self.source.batch(step)
        texts = list(dict.fromkeys(batch.captions))
        index = torch.tensor([texts.index(text) for text in batch.captions])
        words = self.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            tokens = encode_windows(model, batch.pixels, batch.places)
            encoded = model.text_projection(model.text_model(**words).pooler_output)
        captions = encoded.float()[index]
        scale = model.logit_scale.exp()
        weights = self.recipe.loss_weights
        return {"loss": clip_loss(tokens.float(), captions, batch.right, scale, weights)}

    def momentum(self, step: int) -> float:
        """The last weights are exported."""
        return 0.0

    def constrain(self, model: CLIPModel) -> None:
        """At most 100 times the cosine, as in CLIP."""
        model.logit_scale.clamp_(max=math.log(100))

    def export(self, model: CLIPModel, folder: Path) -> None:
        """Write model and tokenizer."""
        super().export(model, folder)
        self.tokenizer.save_pretrained(folder)

    def evaluate(self, average: CLIPModel, folder: Path) -> dict[str, float]:
        """The temperature, and the source's figures of the exported model."""
        scale = average.logit_scale.exp().item()
        return {"logit_scale": scale, **self.source.evaluate(FrozenCLIP.load(folder))}
