"""Windows of rendered scenes and their captions, for :mod:`.pretrain_clip`."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTokenizer

from encoders.captions import build_tokenizer, caption
from encoders.clip_recipe import PretrainConfig
from encoders.gate import evaluate, held_out, normalise
from encoders.pairs import Pairs
from ssrseg.demo.scenes import Scene, render_scene
from ssrseg.networks.clip import FrozenCLIP

FIRST_SCENE = 10_000_000
"""First training seed; far from the seeds of tests, demo and gate."""


class ScenePool:
    """A slowly changing stock of scenes; what it holds depends on the step alone."""

    def __init__(self, config: PretrainConfig) -> None:
        self._config = config
        self._scenes: list[Scene] = []
        self._rendered = 0

    def at(self, step: int) -> list[Scene]:
        """Scenes number ``fresh * step`` and the ``pool - 1`` that follow it."""
        first = self._config.fresh * step
        end = first + self._config.pool
        for number in range(max(self._rendered, first), end):
            seed = FIRST_SCENE * (1 + self._config.seed) + number
            density = "crowded" if number % 10 < 3 else "voc"
            self._scenes.append(render_scene(seed, density=density))
        self._rendered = end
        del self._scenes[: -self._config.pool]
        return self._scenes


def draw_batch(
    config: PretrainConfig, scenes: list[Scene], step: int
) -> tuple[Float[Tensor, "batch 3 side side"], Int[Tensor, "batch words"], list[str]]:
    """Windows, the places of their patches in the grid, and their captions."""
    rng = np.random.default_rng([config.seed, step])
    side = config.window(step)
    chosen = rng.integers(len(scenes), size=config.batch)
    corners = rng.integers(config.grid - side + 1, size=(config.batch, 2))
    pixels, captions = [], []
    for index, (top, left) in zip(chosen, corners * config.patch, strict=True):
        window = slice(top, top + side * config.patch), slice(left, left + side * config.patch)
        scene = scenes[index]
        pixels.append(scene.image[window])
        captions.append(caption(scene.truth[window], scene.backdrop[window], rng))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    rows, columns = (corners[:, :, None] + np.arange(side)).transpose(1, 0, 2)
    places = (rows[:, :, None] * config.grid + columns[:, None, :]).reshape(config.batch, -1)
    return normalise(images), torch.from_numpy(places), captions


class ScenePairs:
    """Rendered scenes; implements :class:`encoders.pairs.PairSource`."""

    name = "scenes"

    def __init__(self, config: PretrainConfig, checked: int = 100) -> None:
        """Render ``checked`` held-out scenes; the others come as they are needed."""
        self._config, self._pool = config, ScenePool(config)
        self._held_out = held_out(checked)

    def tokenizer(self) -> CLIPTokenizer:
        """One token for each word of the demo world."""
        return build_tokenizer()

    def pairs(self, step: int) -> Pairs:
        """Windows of the pool's scenes; right are the captions that read the same."""
        pixels, places, captions = draw_batch(self._config, self._pool.at(step), step)
        right = torch.tensor([[one == other for other in captions] for one in captions])
        return Pairs(pixels, places, captions, right)

    def evaluate(self, clip: FrozenCLIP) -> dict[str, float]:
        """The gate's figures."""
        return vars(evaluate(clip, self._held_out))
