"""The whole pipeline on scenes nobody has seen: train, segment, score, report.

Everything here goes through the public verbs, as a user's own script would.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ssrseg.config import Config, load_config
from ssrseg.console import note
from ssrseg.data.files import only_writer, user_path
from ssrseg.data.open import open_labelled
from ssrseg.demo.photographs import photograph_sections
from ssrseg.demo.report import Figures, short_table, write_figures, write_report
from ssrseg.demo.rows import ROWS
from ssrseg.demo.scenes import write_dataset
from ssrseg.device import pick_device
from ssrseg.model import SSR
from ssrseg.paper.cam_seeds import ALPHAS
from ssrseg.paper.run_experiments import run_experiments
from ssrseg.paper.workspace import Workspace

TRAIN_SCENES, VAL_SCENES = 400, 100
SCORED_SCENES, QUICK_SCENES = 200, 60
"""Training scenes whose CAMs are scored: when seeds are compared, and in a single quick run."""

FIRST_SCENE = 2_000_000_000
"""Scene numbers of the demo begin here; the encoders were trained on smaller ones."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        page: The report.
        table: The main figures as text, and where the others are.
    """

    figures: Figures
    page: Path
    table: str


def run_demo(out: str | Path, *, seeds: int = 1, device: str = "auto") -> DemoResult:
    """Train SSR from image-level labels, segment unseen scenes, score everything, write a report.

    Args:
        out: Folder for scenes, runs, figures.csv and report.html; a finished seed is not run again.
        seeds: Repetitions, each on fresh scenes and with fresh random numbers.
    """
    start, out, device = time.monotonic(), user_path(out, "the demo"), pick_device(device)
    scored = SCORED_SCENES if seeds > 1 else QUICK_SCENES
    for_each = " for each seed" if seeds > 1 else ""
    note(
        f"the demo makes masks of a few photographs, draws {TRAIN_SCENES + VAL_SCENES} scenes,"
        f" trains SSR and its controls on {TRAIN_SCENES} of them and scores {len(ROWS)} rows: 5 to"
        " 10 minutes on two cores"
        f"{for_each}, less what is already in {out}."
    )
    threads = torch.get_num_threads()
    # small matrices gain nothing from a second thread, and on a busy machine two threads that wait
    # for each other were seen to take forty times as long
    torch.set_num_threads(1)
    try:
        with only_writer(out):
            photographs = photograph_sections(out / "photographs", device)
            found = [_one_seed(out / f"seed-{seed}", seed, scored, device) for seed in range(seeds)]
    finally:
        torch.set_num_threads(threads)
    figures = {row: [each[row] for each in found] for row in found[0]}
    minutes = (time.monotonic() - start) / 60
    page, table, first = out / "report.html", out / "figures.csv", out / "seed-0"
    write_figures(table, figures)
    config, data = demo_config(0), open_labelled(first / "scenes", split="val")
    model = SSR.for_data(config, data, first / "ssr", device=device)
    facts = (
        ("training scenes", f"{TRAIN_SCENES}, image-level labels only"),
        ("unseen scenes", str(VAL_SCENES)),
        ("encoders", f"{config.backbones.clip}, {config.backbones.dino}"),
        ("time of the last call", f"{minutes:.1f} minutes"),
    )
    write_report(page, first, model, figures, facts, photographs)
    return DemoResult(figures, page, f"{short_table(figures)}\nAll {len(figures)} rows: {table}")


def demo_config(seed: int, *overrides: str) -> Config:
    """Preset ``demo`` with a seed."""
    return load_config("demo", overrides=(f"optim.seed={seed}", *overrides))


def _one_seed(folder: Path, seed: int, scored: int, device: str) -> dict[str, float]:
    root, first = folder / "scenes", FIRST_SCENE + seed * 10_000
    if not (root / "labels.csv").is_file():
        train, last = range(first, first + TRAIN_SCENES), first + TRAIN_SCENES + VAL_SCENES
        write_dataset(root, train=train, val=range(train.stop, last))
    scenes = open_labelled(root, split="train")
    workspace = Workspace(
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
    found = run_experiments(ROWS, workspace)
    return {each.row: 100 * (each.figures["miou"] or 0.0) for each in found}
