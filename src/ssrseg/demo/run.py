"""The whole pipeline on scenes nobody has seen: train, segment, score, report.

Everything here goes through the public verbs, as a user's own script would.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ssrseg.config import Config, load_config
from ssrseg.data.open import open_labelled
from ssrseg.demo.report import demo_facts, write_report
from ssrseg.demo.scenes import CLASSES, write_dataset
from ssrseg.model import load_rectifier
from ssrseg.paper.cam_seeds import ALPHAS
from ssrseg.paper.experiments import Bench
from ssrseg.paper.results import spread
from ssrseg.paper.rows import (
    AS_SET,
    CENTRE_PRIOR,
    CLIP_CAM,
    CLIP_READ,
    CONTROLS,
    DECODER,
    DECODER_CRF,
    FULL_DECODER,
    FULL_DECODER_CRF,
    GRID,
    LOSSES,
    STEPS,
    TEMPERATURE,
    UNTRAINED,
    WITH_PAR,
)
from ssrseg.paper.run_experiments import load_heads, measure, variant

TRAIN_SCENES, VAL_SCENES = 400, 100
SCORED_SCENES, QUICK_SCENES = 200, 60
"""Training scenes whose CAMs are scored: when seeds are compared, and in a single quick run."""

FIRST_SCENE = 2_000_000_000
"""Scene numbers of the demo begin here; the encoders were trained on smaller ones."""

PRESET = "preset demo: DINO attention alone, one step, SGC"
MAIN_ROWS = (CLIP_CAM, *STEPS, replace(AS_SET, name=PRESET), WITH_PAR)
"""Table 3's steps with the paper's weights and CLIP-ES's square, then what the demo's preset does.

CAM seeds of training scenes: labels known, masks unseen.
"""

_RENAMED = {
    "the preset without CMPA": "preset demo without CMPA",
    "the preset without a mask": "preset demo without SGC's mask",
}
_SHOWN = (
    CENTRE_PRIOR.name,
    *("CLIP CAM, SGC without propagation", "CMPA CAM, SGC without propagation"),
    *_RENAMED,
    "CLIP CAM + PAR (nothing of SSR)",
    *("colour-position kernel, no mask", "colour-position kernel + SGC"),
)
_CONTROLS = {row.name: row for row in CONTROLS}
CONTROL_ROWS = tuple(replace(_CONTROLS[name], name=_RENAMED.get(name, name)) for name in _SHOWN)
MASK_ROWS = tuple(row for row in GRID if not row.name.startswith("no attention"))
SEGMENTATION_ROWS = (DECODER, DECODER_CRF, FULL_DECODER, FULL_DECODER_CRF)

GROUPS = {
    "main": tuple(row.name for row in (*MAIN_ROWS, *SEGMENTATION_ROWS)),
    "controls": tuple(row.name for row in (*CONTROL_ROWS, *CLIP_READ, *UNTRAINED, *TEMPERATURE)),
    "masks": tuple(row.name for row in MASK_ROWS),
    "losses": tuple(row.name for row in LOSSES),
}
"""Rows of each table of the report."""

ROWS = (
    *MAIN_ROWS,
    *CONTROL_ROWS,
    *MASK_ROWS,
    *CLIP_READ,
    *UNTRAINED,
    *TEMPERATURE,
    *LOSSES,
    *SEGMENTATION_ROWS,
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        figures: By row, one mIoU in percent per seed.
        page: The report.
        table: The figures as text.
    """

    figures: dict[str, list[float]]
    page: Path
    table: str


def run_demo(out: Path, *, seeds: int = 1, device: str = "cpu") -> DemoResult:
    """Train SSR from image-level labels, segment unseen scenes, score everything, write a report.

    Args:
        out: Folder for scenes, runs and report.html; a finished seed is not run again.
        seeds: Repetitions, each on fresh scenes and with fresh random numbers.
        device: ``cpu`` or ``cuda``.
    """
    start = time.monotonic()
    scored = SCORED_SCENES if seeds > 1 else QUICK_SCENES
    with _one_thread():
        found = [_one_seed(out / f"seed-{seed}", seed, scored, device) for seed in range(seeds)]
    figures = {row: [each[row] for each in found] for row in found[0]}
    page = out / "report.html"
    config = demo_config(0)
    base = load_rectifier(config, CLASSES, device=device)
    minutes = (time.monotonic() - start) / 60
    facts = (
        *demo_facts(config, TRAIN_SCENES, VAL_SCENES),
        ("time of the last call", f"{minutes:.1f} minutes"),
    )
    heads = load_heads(base, out / "seed-0" / "ssr")
    write_report(page, out / "seed-0", variant(base, config, heads), figures, GROUPS, facts)
    return DemoResult(figures, page, _table(figures))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small matrices gain nothing from a second thread.

    On a busy machine two threads that wait for each other were seen to take forty times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def demo_config(seed: int, *overrides: str) -> Config:
    """Preset ``demo`` with a seed."""
    return load_config("demo", overrides=(f"optim.seed={seed}", *overrides))


def _one_seed(folder: Path, seed: int, scored: int, device: str) -> dict[str, float]:
    first = FIRST_SCENE + seed * 10_000
    root = folder / "scenes"
    if not (root / "labels.csv").is_file():
        write_dataset(
            root,
            train=range(first, first + TRAIN_SCENES),
            val=range(first + TRAIN_SCENES, first + TRAIN_SCENES + VAL_SCENES),
        )
    scenes = open_labelled(root, split="train")
    bench = Bench(
        folder,
        demo_config(seed),
        train=scenes,
        seeds=replace(scenes, samples=scenes.samples[:scored]),
        val=open_labelled(root, split="val"),
        device=device,
        jobs=2,
        alphas=ALPHAS,
        command="ssrseg demo",
        runs="{name}",
        predictions="{name}",
    )
    return {each.row: 100 * (each.figures["miou"] or 0.0) for each in measure(ROWS, bench)}


def _table(figures: dict[str, list[float]]) -> str:
    width = max(map(len, figures))
    several = len(next(iter(figures.values()))) > 1
    lines = ["mIoU in %" + (", mean ± standard deviation over seeds" if several else "")]
    order = (*GROUPS["main"], *GROUPS["controls"])
    rest = [name for name in figures if name not in order]
    return "\n".join(
        lines + [f"{name:{width}}  {spread(figures[name])}" for name in (*order, *rest)]
    )
