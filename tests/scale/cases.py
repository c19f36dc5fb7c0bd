"""Runs of training that several processes have to do as one does; torchrun starts this file.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/scale/cases.py DATA CLIP DINO
OUT
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tiny_encoders import tiny_config

from ssrseg.config import Config
from ssrseg.data.open import open_labelled
from ssrseg.processes import started
from ssrseg.training import TrainResult, train

LITERAL = (
    "optim.schedule=joint",
    "cmpa.map_order=project_then_pool",
    "cmpa.bg_prototypes=none",
    "cam.readout=gradcam",
)


@dataclass(frozen=True)
class Case:
    """Settings of a run, and of how many images the masks are scored meanwhile."""

    name: str
    overrides: tuple[str, ...]
    supervision: str = "labels"
    monitored: int = 0

    def config(self, clip: Path, dino: Path) -> Config:
        """The settings."""
        small = ("optim.batch=4", "optim.cmpa_iterations=3", "optim.iterations=4")
        return tiny_config(clip, dino, *small, "cmpa.update_every=2", *self.overrides)


CASES = (
    Case("staged from crops", (), monitored=3),
    Case("staged from cached features", ("optim.features=cached",)),
    Case("full supervision", ("cam.mode=clip", "decoder.dropout=0.5"), "full"),
    Case("micro-batches", ("optim.micro_batch=1", "optim.cmpa_iterations=1")),
    Case("joint", ("optim.schedule=joint", "cmpa.cam_source=cmpa")),
    Case("joint and literal", LITERAL),
    Case("joint and literal, micro-batches", (*LITERAL, "optim.micro_batch=2", "cmpa.depth=2")),
    Case("literal, staged, no background", (*LITERAL[1:], "cmpa.bg_pairs=0", "optim.iterations=1")),
    Case("WeCLIP's affinity loss", ("cam.mode=clip", "optim.affinity_weight=1.0")),
)


def run(case: Case, data: Path, clip: Path, dino: Path, out: Path) -> TrainResult:
    """Train in ``out``, which all processes share."""
    images = open_labelled(data)
    watched = replace(images, samples=images.samples[: case.monitored])
    return train(
        images,
        out / case.name,
        case.config(clip, dino),
        supervision=case.supervision,
        monitor=watched if case.monitored else None,
        device="cpu",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    places = [Path(each) for each in sys.argv[1:5]]
    with started("cpu"):
        for each in CASES:
            if not sys.argv[5:] or each.name in sys.argv[5:]:
                run(each, *places)
