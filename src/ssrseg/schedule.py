"""How long a run trains, by its number of images, and in which iterations a loss is active."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from ssrseg.config import Config

Supervision = Literal["labels", "full"]

LEAST = 500
"""Iterations that a decoder wants from however few images [decision 0037]."""

VOC = (10_582, 30_000)
COCO = (82_081, 80_000)
"""Training images and iterations of the paper."""


def iterations_for(images: int) -> int:
    """Iterations with L_seg where ``optim.iterations`` is null [decision 0037].

    Up to VOC's 10,582 images as many passes over them as the paper's 30,000 iterations are there
    (45 in batches of 16), but at least ``LEAST`` iterations; beyond, in proportion to a power of
    the number, through the paper's 80,000 for COCO.

    Args:
        images: Training images, at least 1.
    """
    if images <= VOC[0]:
        return max(LEAST, round(VOC[1] * images / VOC[0]))
    # 0 for VOC's number, 1 for COCO's
    share = math.log(images / VOC[0]) / math.log(COCO[0] / VOC[0])
    return round(VOC[1] * (COCO[1] / VOC[1]) ** share)


def resolved(config: Config, images: int) -> Config:
    """The settings with numbers in place of null where they follow the number of images."""
    optim = config.optim
    if optim.iterations is None:
        optim = replace(optim, iterations=iterations_for(images))
    if optim.save_every is None:
        assert optim.iterations is not None
        optim = replace(optim, save_every=max(1, min(1000, optim.iterations // 10)))
    return replace(config, optim=optim)


@dataclass(frozen=True)
class Schedule:
    """Iterations in which each loss is active, and those that need crops."""

    align: range
    segment: range
    crops: range

    @property
    def total(self) -> int:
        """Iterations in all."""
        return max(self.align.stop, self.segment.stop)


def plan(config: Config, supervision: Supervision) -> Schedule:
    """Staged: L_proto, then L_seg. Joint: both in every iteration, as Eq. 12 has it.

    Args:
        config: ``resolved``.
    """
    optim = config.optim
    assert optim.iterations is not None
    aligned = supervision == "labels" and config.cam.mode == "cmpa"
    if not aligned:
        align, segment = range(0), range(optim.iterations)
    elif optim.schedule == "joint":
        align = segment = range(optim.iterations)
    else:
        align = range(optim.cmpa_iterations)
        segment = range(optim.cmpa_iterations, optim.cmpa_iterations + optim.iterations)
    needs_crops = aligned and config.cmpa.map_order == "project_then_pool"
    return Schedule(align, segment, range(0 if needs_crops else segment.start, segment.stop))
