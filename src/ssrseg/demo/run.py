"""The whole pipeline on scenes nobody has seen: train, segment, score, report.

Everything here goes through the public verbs, as a user's own script would.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from ssrseg.config import Config, load_config
from ssrseg.data.cache import SuperpixelCache
from ssrseg.data.files import atomic_write
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.demo.report import demo_facts, spread, write_report
from ssrseg.demo.scenes import CLASSES, write_dataset
from ssrseg.engine.checkpoint import load_checkpoint, load_part
from ssrseg.engine.evaluate import evaluate
from ssrseg.engine.learner import Supervision, build_alignment, untrained_heads
from ssrseg.engine.predict import predict
from ssrseg.engine.rectify import Rectifier, load_rectifier
from ssrseg.engine.seeds import score_seeds
from ssrseg.engine.train import train
from ssrseg.method.cmpa import Alignment

TRAIN_SCENES, VAL_SCENES = 400, 100
SCORED_SCENES, QUICK_SCENES = 200, 60
"""Training scenes whose CAMs are scored: when seeds are compared, and in a single quick run."""

FIRST_SCENE = 2_000_000_000
"""Scene numbers of the demo begin here; the encoders were trained on smaller ones."""

PLAIN = "pseudo.refine=none"
RAW = ("affinity.kind=none", "affinity.mask=none", PLAIN)
SQUARED = ("affinity.power=2", PLAIN)
CLIP_ONLY = ("affinity.clip_weight=1.0", "affinity.dino_weight=0.0", *SQUARED)
DINO_ONLY = ("affinity.clip_weight=0.0", "affinity.dino_weight=1.0", *SQUARED)
FUSED = ("affinity.clip_weight=0.4", "affinity.dino_weight=0.6", *SQUARED)
KERNEL = ("affinity.kind=kernel", PLAIN)

MAIN_ROWS: dict[str, tuple[str, ...]] = {
    "CLIP CAM": ("cam.mode=clip", *RAW),
    "CMPA CAM": RAW,
    "+ CLIP attention": (*CLIP_ONLY, "affinity.mask=box"),
    "+ DINO attention": (*FUSED, "affinity.mask=box"),
    "+ SGC": FUSED,
    "preset demo: DINO attention alone, one step, SGC": (PLAIN,),
    "+ PAR": (),
}
"""Table 3's steps with the paper's weights and CLIP-ES's square, then what the demo's preset does.

CAM seeds of training scenes: labels known, masks unseen.
"""

CONTROL_ROWS: dict[str, tuple[str, ...]] = {
    "CLIP CAM, SGC without propagation": (
        "cam.mode=clip", "affinity.kind=none", "affinity.mask=slic", PLAIN,
    ),
    "CMPA CAM, SGC without propagation": (
        "affinity.kind=none", "affinity.mask=slic", PLAIN,
    ),
    "preset demo without CMPA": ("cam.mode=clip", PLAIN),
    "preset demo without SGC's mask": ("affinity.mask=none", PLAIN),
    "CLIP CAM + PAR (nothing of SSR)": ("cam.mode=clip", *RAW[:2]),
    "colour-position kernel, no mask": (*KERNEL, "affinity.mask=none"),
    "colour-position kernel + SGC": KERNEL,
}  # fmt: skip
"""What each gain has to be held against."""

MASK_ROWS: dict[str, tuple[str, ...]] = {
    f"{name}, {mask}": (*settings, f"affinity.mask={mask}")
    for name, settings in (
        ("CLIP attention", CLIP_ONLY), ("DINO attention", DINO_ONLY), ("fused 0.4 : 0.6", FUSED),
    )
    for mask in ("none", "box", "slic", "box_and_slic")
}  # fmt: skip
"""Table 3 in small: attention x mask."""

LOSS_RUNS = {
    "L_feature": ("cmpa.loss=feature", "cmpa.bg_pairs=0"),
    "L_in_modal": ("cmpa.loss=in_modal", "cmpa.bg_pairs=0"),
    "L_crossmodal": ("cmpa.loss=crossmodal", "cmpa.bg_pairs=0"),
}
"""Table 4 as defined; the preset itself adds background pairs to the cross-modal loss."""

WITH_PAIRS = "L_crossmodal + background pairs"
READOUTS = ("gradcam", "patch", "combined")
"""Table 4 in small: loss of CMPA x how its CAM is read."""

SEGMENTATION_ROWS = {
    "decoder": ("ssr", False),
    "decoder + CRF": ("ssr", True),
    "decoder, full supervision": ("full", False),
    "decoder, full supervision + CRF": ("full", True),
}
"""Run and whether its predictions go through the DenseCRF; unseen scenes."""

GROUPS = {
    "main": (*MAIN_ROWS, *SEGMENTATION_ROWS),
    "controls": (
        *CONTROL_ROWS,
        *(f"untrained projector, {readout}" for readout in READOUTS),
        "CLIP at CMPA's temperature",
    ),
    "masks": tuple(MASK_ROWS),
    "losses": tuple(
        f"{loss}, {readout}" for loss in (*LOSS_RUNS, WITH_PAIRS) for readout in READOUTS
    ),
}
"""Rows of each table of the report."""


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
    facts = (*demo_facts(config, TRAIN_SCENES, VAL_SCENES), ("time", f"{minutes:.1f} minutes"))
    heads = trained_heads(base, out / "seed-0" / "ssr")
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
    done = folder / f"figures-{scored}.json"
    if done.is_file():
        saved: dict[str, float] = json.loads(done.read_text(encoding="utf-8"))
        return saved
    first = FIRST_SCENE + seed * 10_000
    root = folder / "scenes"
    if not (root / "labels.csv").is_file():
        write_dataset(
            root,
            train=range(first, first + TRAIN_SCENES),
            val=range(first + TRAIN_SCENES, first + TRAIN_SCENES + VAL_SCENES),
        )
    scenes, unseen = open_labelled(root, split="train"), open_labelled(root, split="val")
    cache = folder / "superpixels"
    config = demo_config(seed)
    runs: dict[str, tuple[Config, Supervision]] = {"ssr": (config, "labels")}
    runs["full"] = (config, "full")
    for loss, settings in LOSS_RUNS.items():
        runs[loss] = (demo_config(seed, *settings, "optim.iterations=0"), "labels")
    figures: dict[str, float] = {}
    with _two_workers() as pool:
        trained = [
            pool.submit(
                train, scenes, folder / name, each, supervision=kind, cache=cache, device=device
            )
            for name, (each, kind) in runs.items()
        ]
        for job in trained:
            job.result()
        images = [sample.image for sample in unseen.samples]
        predicted = {
            name: pool.submit(
                predict, images, _prediction(folder, run, crf), folder / run, crf=crf, device=device
            )
            for name, (run, crf) in SEGMENTATION_ROWS.items()
        }
        shown = replace(scenes, samples=scenes.samples[:scored])
        figures |= _seed_figures(folder, shown, cache, seed, device)
        for name, (run, crf) in SEGMENTATION_ROWS.items():
            predicted[name].result()
            found = evaluate(_prediction(folder, run, crf), unseen)
            figures[name] = 100 * found.scores.miou
    with atomic_write(done) as temporary:
        temporary.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return figures


def _prediction(folder: Path, run: str, crf: bool) -> Path:
    return folder / f"{run}-{'crf' if crf else 'plain'}"


def _two_workers() -> ProcessPoolExecutor:
    """Runs that need nothing of each other go side by side, a thread each."""
    return ProcessPoolExecutor(2, get_context("spawn"), _quiet_worker)


def _quiet_worker() -> None:
    torch.set_num_threads(1)
    os.environ["TTY_COMPATIBLE"] = "0"  # two live progress bars would overwrite each other


def _seed_figures(
    folder: Path, scenes: LabelledImages, cache: Path, seed: int, device: str
) -> dict[str, float]:
    """CAM seeds of every row, with encoders that are loaded once."""
    base = load_rectifier(demo_config(seed), scenes.classes, device=device)
    heads = trained_heads(base, folder / "ssr")
    untrained = untrained_heads(heads, base.config.cmpa.temperature)
    assert untrained is not None  # the preset's heads are residual
    rows = {**MAIN_ROWS, **CONTROL_ROWS, **MASK_ROWS}
    rectifiers = {
        name: variant(base, demo_config(seed, *settings), heads) for name, settings in rows.items()
    }
    for readout in READOUTS:
        settings = demo_config(seed, f"cam.readout={readout}", *RAW)
        rectifiers[f"untrained projector, {readout}"] = variant(base, settings, untrained)
    scale = 1 / float(heads.temperature.detach())
    rectifiers["CLIP at CMPA's temperature"] = variant(
        base, demo_config(seed, "cam.mode=clip", f"cam.scale={scale}", *RAW), None
    )
    for loss in (*LOSS_RUNS, WITH_PAIRS):
        heads = trained_heads(base, folder / (loss if loss in LOSS_RUNS else "ssr"))
        for readout in READOUTS:
            settings = demo_config(seed, f"cam.readout={readout}", *RAW)
            rectifiers[f"{loss}, {readout}"] = variant(base, settings, heads)
    superpixels = SuperpixelCache(
        cache, n_segments=base.config.sgc.n_segments, compactness=base.config.sgc.compactness
    )
    found = score_seeds(rectifiers, scenes, superpixels)
    return {name: 100 * each.scores.miou for name, each in found.items()}


def variant(base: Rectifier, config: Config, alignment: Alignment | None) -> Rectifier:
    """The same encoders under other settings."""
    return Rectifier(config, base.clip, base.dino, base.vocabulary, alignment)


def trained_heads(base: Rectifier, run: Path) -> Alignment:
    """ISA, TSA and τ of a finished run."""
    checkpoint = load_checkpoint(run)
    heads = build_alignment(checkpoint.config, base.text_features, None)
    load_part(heads, checkpoint, "alignment", run)
    return heads.to(base.device).eval()


def _table(figures: dict[str, list[float]]) -> str:
    width = max(map(len, figures))
    several = len(next(iter(figures.values()))) > 1
    lines = ["mIoU in %" + (", mean ± standard deviation over seeds" if several else "")]
    order = (*GROUPS["main"], *GROUPS["controls"])
    rest = [name for name in figures if name not in order]
    return "\n".join(
        lines + [f"{name:{width}}  {spread(figures[name])}" for name in (*order, *rest)]
    )
