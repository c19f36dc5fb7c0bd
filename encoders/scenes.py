"""Rendered scenes of the demo world: with captions for CLIP, without for DINO."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from transformers import CLIPTokenizer

from encoders.captions import build_tokenizer, caption
from encoders.clip import CaptionBatch, ClipRecipe, normalise
from encoders.dino import DinoRecipe
from encoders.gate import check_clip, held_out_scenes
from encoders.objective import SceneRecipe
from ssrseg.demo.scenes import Scene, render_scene
from ssrseg.networks.clip import FrozenCLIP

CLIP_SEEDS, DINO_SEEDS = 10_000_000, 50_000_000
"""First seeds of the training scenes; far from those of tests, demo and gate."""


class ScenePool:
    """A slowly changing stock of scenes; what it holds depends on the step alone."""

    def __init__(self, recipe: SceneRecipe, first_seed: int, crowded: tuple[int, int]) -> None:
        """Render nothing yet; ``crowded`` = (a, b) makes a of b scenes crowded."""
        self._recipe, self._crowded = recipe, crowded
        self._first_seed = first_seed + 10_000_000 * recipe.seed
        self._scenes: dict[int, Scene] = {}

    def at(self, step: int) -> list[Scene]:
        """Scenes number ``fresh * step`` and those that follow; scene n has index n % ``pool``."""
        first, size = self._recipe.fresh * step, self._recipe.pool
        wanted = range(first, first + size)
        self._scenes = {
            n: self._scenes.get(n) or self._render(self._first_seed + n) for n in wanted
        }
        return [self._scenes[first + (index - first) % size] for index in range(size)]

    def _render(self, seed: int) -> Scene:
        some, of = self._crowded
        density = "crowded" if seed % of < some else "voc"
        return render_scene(seed, density=density, size=self._recipe.side)


class ScenePictures:
    """Scenes for DINO; implements ``encoders.dino.PictureSource``."""

    name = "scenes"

    def __init__(self, recipe: DinoRecipe) -> None:
        """Keep a pool whose scenes CLIP does not see."""
        self._pool = ScenePool(recipe, DINO_SEEDS, crowded=(1, 3))

    def draw(
        self, step: int, count: int, generator: torch.Generator
    ) -> UInt8[Tensor, "batch 3 side side"]:
        """Draw ``count`` scenes of the step's pool with replacement."""
        scenes = self._pool.at(step)
        chosen = torch.randint(len(scenes), (count,), generator=generator).tolist()
        images = torch.from_numpy(np.stack([scenes[index].image for index in chosen]))
        return images.permute(0, 3, 1, 2).contiguous()


def caption_windows(recipe: ClipRecipe, scenes: list[Scene], step: int) -> CaptionBatch:
    """Windows of a pool's scenes and their captions; right are those that read the same."""
    rng = np.random.default_rng([recipe.seed, step])
    side = recipe.window(step)
    chosen = (recipe.fresh * step + rng.integers(len(scenes), size=recipe.batch)) % len(scenes)
    corners = rng.integers(recipe.grid - side + 1, size=(recipe.batch, 2))
    images, captions = [], []
    for index, (top, left) in zip(chosen, corners * recipe.patch, strict=True):
        window = slice(top, top + side * recipe.patch), slice(left, left + side * recipe.patch)
        scene = scenes[index]
        images.append(scene.image[window])
        captions.append(caption(scene.truth[window], scene.backdrop[window], rng))
    pixels = normalise(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255)
    rows, columns = (corners[:, :, None] + np.arange(side)).transpose(1, 0, 2)
    places = (rows[:, :, None] * recipe.grid + columns[:, None, :]).reshape(recipe.batch, -1)
    right = torch.tensor([[one == other for other in captions] for one in captions])
    return CaptionBatch(pixels, torch.from_numpy(places), captions, right)


class CaptionedScenes:
    """Scenes for CLIP; implements ``encoders.clip.CaptionSource``."""

    name = "scenes"

    def __init__(self, recipe: ClipRecipe, checked: int = 100) -> None:
        """Render ``checked`` held-out scenes; the others come as they are needed."""
        self._recipe = recipe
        self._pool = ScenePool(recipe, CLIP_SEEDS, crowded=(3, 10))
        self._held_out = held_out_scenes(checked)

    def tokenizer(self) -> CLIPTokenizer:
        """One token for each word of the demo world."""
        return build_tokenizer()

    def batch(self, step: int) -> CaptionBatch:
        """Windows of the step's pool."""
        return caption_windows(self._recipe, self._pool.at(step), step)

    def evaluate(self, clip: FrozenCLIP) -> dict[str, float]:
        """The gate's figures."""
        return check_clip(clip, self._held_out)
