"""A DINO-style ViT on Lite0's first eleven blocks, learned without a label.

As in ``encoders.dino``, two terms teach it. The student sees the stem's channels corrupted,
patch by patch:

* ``denoise``: rebuild the clean channels, and those of Lite0's last blocks, which it never sees;
* ``relation``: the attention of a patch in the last two layers must equal the resemblance of the
  clean channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTConfig, ViTModel

from encoders.dino import encode_patches, relation_loss, sincos_positions
from encoders.lite0 import PIXEL_MEAN, PIXEL_STD
from encoders.objective import Objective, Recipe
from encoders.photos import GRID, MID, TOP, Photo, StemViews, fingerprint, fold_stem, join, places


@dataclass(frozen=True, kw_only=True)
class PhotoDinoRecipe(Recipe):
    """Recipe of the photo DINO."""

    log_every = 250
    views: int = 9_600
    batch: int = 32
    width: int = 96
    depth: int = 2
    heads: int = 3
    patch: int = 16
    grid: int = 24
    lr: float = 1e-3
    warmup: int = 60
    kept: int = 6
    """Views of each photograph whose features are kept."""
    temperature: float = 0.2
    """Of the resemblance."""


def corrupt(
    channels: Float[Tensor, "views patches channels"], generator: torch.Generator
) -> tuple[Float[Tensor, "views patches channels"], Bool[Tensor, "views patches"]]:
    """Corrupt patches one by one, so that only others can tell what is true; also returns which.

    A fifth of the views stays clean, as at test time; in the others 10 to 80 % of the patches
    become the mean of all photographs (40 %), a patch of another view (30 %), or noisy (30 %).
    """
    count, patches, _ = channels.shape
    share = 0.1 + 0.7 * torch.rand(count, 1, generator=generator)
    share = share * (torch.rand(count, 1, generator=generator) > 0.2)
    which = torch.rand(count, patches, generator=generator) < share
    kind = torch.rand(count, patches, 1, generator=generator)
    other = torch.randperm(count * patches, generator=generator)
    swapped = channels.flatten(0, 1)[other].view_as(channels)
    noisy = channels + torch.randn(channels.shape, generator=generator)
    wrong = torch.where(kind < 0.4, 0.0, torch.where(kind < 0.7, swapped, noisy))
    return torch.where(which[..., None], wrong, channels), which


def resemblance(
    channels: Float[Tensor, "views patches channels"], temperature: float
) -> Float[Tensor, "views patches patches"]:
    """Which patches of a view are alike: softmax of the cosine, what all of them share taken away.

    Rows sum to 1.

    Args:
        channels: The stem's, whitened.
        temperature: Of the softmax; the smaller, the more alike patches must be.
    """
    units = functional.normalize(channels - channels.mean(1, keepdim=True), dim=-1)
    return (units @ units.mT / temperature).softmax(-1)


class PhotoDinoObjective(Objective):
    """Both terms of the module's docstring."""

    folder, processor, mean, std = "dino", "ViTImageProcessor", PIXEL_MEAN, PIXEL_STD
    fused = True

    def __init__(self, recipe: PhotoDinoRecipe, photos: Sequence[Photo], cache: Path) -> None:
        """Keep features of views in ``cache``."""
        self.recipe, self.pictures = recipe, fingerprint(photos)
        self._views = StemViews(cache, photos, recipe.kept, recipe.seed)
        self._mean, self._deviation = self._views.moments(recipe.seed)

    def _config(self, **stem: object) -> ViTConfig:
        recipe = self.recipe
        return ViTConfig(
            hidden_size=recipe.width,
            num_hidden_layers=recipe.depth,
            num_attention_heads=recipe.heads,
            intermediate_size=4 * recipe.width,
            image_size=recipe.side,
            patch_size=recipe.patch,
            hidden_act="gelu",
            initializer_range=0.05,  # the default, 0.02, is meant for six times this width
            **stem,
        )

    def build_model(self) -> nn.ModuleDict:
        """A random ViT on the stem's whitened channels, and a linear decoder to all of them."""
        width = self.recipe.width
        encoder = ViTModel(self._config(), add_pooling_layer=False)
        embedding = nn.Conv2d(MID, width, 1)
        nn.init.normal_(embedding.weight, std=MID**-0.5)
        nn.init.zeros_(embedding.bias)
        encoder.embeddings.patch_embeddings.projection = embedding
        with torch.no_grad():
            start = sincos_positions(self.recipe.grid, width, scale=0.3)
            encoder.embeddings.position_embeddings.copy_(start)
        return nn.ModuleDict({"encoder": encoder, "decoder": nn.Linear(width, MID + TOP)})

    def losses(self, model: nn.ModuleDict, average: nn.ModuleDict, step: int) -> dict[str, Tensor]:
        """Teach the ViT by whole views."""
        recipe, rng = self.recipe, np.random.default_rng([self.recipe.seed, step])
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        index = rng.choice(len(self._views.photos), recipe.batch, replace=False)
        features = self._views[rng.integers(recipe.kept, size=recipe.batch), index]
        clean = ((join(features) - self._mean) / self._deviation).flatten(2).mT
        corrupted, which = corrupt(clean[..., :MID], generator)
        where = places(features.boxes, GRID, recipe.grid).flatten(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            tokens, maps = encode_patches(model["encoder"], corrupted, where)
            rebuilt = model["decoder"](tokens[:, 1:]).float()
        error = functional.smooth_l1_loss(rebuilt, clean, reduction="none", beta=0.5).mean(-1)
        # what is not corrupted is easier
        denoise = (error * (0.3 + 0.7 * which)).mean()
        relation = relation_loss(maps[-2:], resemblance(clean[..., :MID], recipe.temperature))
        return {"loss": 2 * denoise + relation, "denoise": denoise, "relation": relation}

    def momentum(self, step: int) -> float:
        """At most 0.995."""
        return min(0.995, (1 + step) / (10 + step))

    def constrain(self, model: nn.ModuleDict) -> None:
        """Every weight is allowed."""

    def export(self, model: nn.ModuleDict, folder: Path) -> None:
        """Write the ViT without the decoder; the stem becomes its patch embedding."""
        config = self._config(stem="efficientnet-lite0", stem_blocks=11)
        place = "embeddings.patch_embeddings.projection"
        mean, deviation = self._mean[:MID], self._deviation[:MID]
        super().export(fold_stem(model["encoder"], config, place, mean, deviation), folder)
