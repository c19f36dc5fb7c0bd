"""Recipes of :mod:`.pretrain_clip`: for rendered scenes, and for photographs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that changes the result."""

    seed: int = 0
    views: int = 832_000
    batch: int = 128
    width: int = 128
    depth: int = 6
    heads: int = 4
    text_width: int = 96
    text_depth: int = 2
    dim: int = 96
    patch: int = 8
    grid: int = 16
    windows: tuple[int, int] = (6, 12)
    """Side of the windows in patches: first, and at the end."""
    late_share: float = 0.1
    """Share of the steps that see the large windows."""
    loss_weights: tuple[float, float, float] = (0.1, 0.3, 0.6)
    """CLS, mean over patches, patches weighted by the text."""
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 100
    bfloat16: bool = True
    """Mixed precision: faster on a CPU with AVX-512 bf16, slower on one without."""
    pool: int = 2048
    fresh: int = 8
    """Scenes of the pool that are rendered anew at every step."""
    start: str = ""
    """CLIP whose image tower is the start, of the same shape; none = random."""
    average: float = 0.0
    """Momentum of the moving average of the weights that is exported; 0 = the last weights."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return math.ceil(self.views / self.batch)

    def window(self, step: int) -> int:
        """Side of the windows at a step, in patches."""
        return self.windows[step >= (1 - self.late_share) * self.steps]


PHOTOGRAPHS = PretrainConfig(
    views=168_000, batch=96, width=160, heads=5, windows=(8, 12), late_share=0.15, lr=1e-3,
    average=0.998,
)  # fmt: skip
"""The recipe for a few thousand photographs; ``pool`` and ``fresh`` mean nothing there."""

FROM_SCENES = replace(
    PHOTOGRAPHS, start="ssrseg:demo/weights/clip", views=96_000, width=128, heads=4, lr=5e-4
)
"""The same from the demo world's image tower, which has seen endless scenes and no photograph."""


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, then cosine to a hundredth."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
