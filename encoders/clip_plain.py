"""The other way to a CLIP for photographs: a plain ViT on pixels, distilled from Lite0.

It has the teachers and lessons of ``encoders.clip_photos``, but neither the stem nor what it
gives: the blocks begin at random, and places cannot be imagined, as that is done to the stem's
features. It knows far less (docs/photo-encoders.md) and is not shipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPModel

from encoders.clip import clip_config
from encoders.clip_photos import PhotoClipObjective, PhotoClipRecipe
from encoders.dino import sincos_positions
from encoders.photos import Features, draw_view


@dataclass(frozen=True, kw_only=True)
class PlainClipRecipe(PhotoClipRecipe):
    """Six blocks are 2.8 M parameters, as many as the stem has."""

    views: int = 24_000

    depth: int = 6
    kept: int = 2
    bfloat16: bool = False


class PlainClipObjective(PhotoClipObjective):
    """What the module's docstring says."""

    def _new_clip(self) -> CLIPModel:
        recipe = self.recipe
        clip = CLIPModel(clip_config(recipe, self.tokenizer))
        clip.set_attn_implementation("eager")
        vision = clip.vision_model
        with torch.no_grad():
            table = vision.embeddings.position_embedding.weight
            table.copy_(sincos_positions(recipe.grid, recipe.width, scale=0.2)[0])
            clip.logit_scale.fill_(math.log(20.0))
        return clip

    def _imagine(self, features: Features, rng: np.random.Generator) -> Features:
        return features

    def _seen(
        self,
        views: tuple[Int[np.ndarray, " windows"], Int[np.ndarray, " windows"]],
        channels: Float[Tensor, "windows channels grid grid"],
        down: slice,
        across: slice,
    ) -> Float[Tensor, "windows 3 pixels pixels"]:
        """Normalised pixels of the same windows."""
        photos, patch = self._views.photos, self.recipe.patch
        rows, columns = (slice((s.start or 0) * patch, s.stop * patch) for s in (down, across))
        return torch.stack(
            [
                draw_view(photos[index], view, index, self.recipe.seed)[0][:, rows, columns]
                for view, index in zip(*views, strict=True)
            ]
        )

    def _on_pixels(self, clip: CLIPModel) -> CLIPModel:
        return clip
