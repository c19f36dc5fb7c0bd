"""The demo's report: figures beside the paper's, pictures of every step, the training curve."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from ssrseg import __version__
from ssrseg.config import Config
from ssrseg.data.images import read_image, read_truth, voc_palette
from ssrseg.data.open import open_labelled
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.model import Rectifier
from ssrseg.overlay import heat_overlay, ids_overlay, target_overlay, upsample
from ssrseg.paper.page import (
    Chart,
    Curve,
    Picture,
    PictureRow,
    Report,
    ReportTable,
    Section,
    TableRow,
    write_page,
)
from ssrseg.paper.published import PAPER
from ssrseg.paper.results import spread
from ssrseg.paper.rows import READOUTS
from ssrseg.pseudo_masks import rectify_photo

SCENES_SHOWN = 8

_PRINTED = [(each.ours, each.cells) for number in (3, 4) for each in PAPER[number].rows]
PAPER_MAIN = {row: f"{cells[-1]}" for row, cells in _PRINTED} | {
    each.ours: f"{each.cells[0]}" for each in PAPER[1].rows
}
"""The paper's figures on VOC 2012 (Tables 1, 3, 4): another world, other encoders."""

PAPER_LOSSES = {each.name: f"{each.cells[0]}" for each in PAPER[4].rows}


def write_report(
    page: Path,
    folder: Path,
    rectifier: Rectifier,
    figures: dict[str, list[float]],
    groups: dict[str, tuple[str, ...]],
    facts: tuple[tuple[str, str], ...],
) -> None:
    """Write report.html.

    Args:
        page: The file.
        folder: Scenes and runs of the first seed, for the pictures and the curve.
        rectifier: With the trained heads of that seed.
        figures: By row, one mIoU in percent per seed.
        groups: Rows of each table: ``main``, ``controls``, ``masks``, ``losses``.
        facts: Shown under the title.
    """
    seeds = len(next(iter(figures.values())))
    report = Report(
        "SSR on the demo world",
        "Image-level labels in, masks out: every step of the method, on scenes that the encoders"
        " have never seen, measured against true masks that the training never opened.",
        (*facts, ("seeds", str(seeds)), ("ssrseg", __version__)),
        (
            Section("What came out", "", tables=(_main_table(figures, groups),)),
            Section("The paper's ablations", "", tables=_small_tables(figures, groups)),
            _pictures(folder, rectifier),
            Section("Training", "", charts=_curves(folder / "ssr" / "log.csv")),
            Section(
                "Do it again",
                "ssrseg demo --seeds 3 repeats all of this on three sets of scenes. The folder"
                " beside this page holds the scenes in VOC's layout, the run with its settings,"
                " log and checkpoint, and the predicted masks.",
            ),
        ),
    )
    write_page(report, page)


def _main_table(figures: dict[str, list[float]], groups: dict[str, tuple[str, ...]]) -> ReportTable:
    return ReportTable(
        "One step at a time",
        ("step", "mIoU %", "paper, VOC 2012"),
        tuple(
            TableRow(name, (spread(figures[name]), PAPER_MAIN.get(name, "")))
            for name in groups["main"]
        )
        + tuple(
            TableRow(name, (spread(figures[name]), ""), kind="control")
            for name in groups["controls"]
        ),
        "CAM seeds are scored on training scenes (labels known, masks unseen in training) at"
        " the background exponent that scores best; the decoder on scenes it has never seen."
        " The three rows from + CLIP attention to + SGC use the paper's weights and square; the"
        " small CLIP's attention is no affinity, so they lose. The preset's row starts from the"
        " CMPA CAM again; + PAR and the decoder build on it. Quiet rows are controls: a gain"
        " counts only against them. An untrained projector keeps CLIP's cosines, so its GradCAM"
        " equals CLIP's by construction.",
    )


def _small_tables(
    figures: dict[str, list[float]], groups: dict[str, tuple[str, ...]]
) -> tuple[ReportTable, ...]:
    return (
        ReportTable(
            "Table 3 in small: who propagates, and from where",
            ("attention", "no mask", "box", "SGC", "box and SGC"),
            tuple(
                TableRow(
                    attention,
                    tuple(
                        spread(figures[f"{attention}, {mask}"])
                        for mask in ("none", "box", "slic", "box_and_slic")
                    ),
                )
                for attention in dict.fromkeys(row.split(", ")[0] for row in groups["masks"])
            ),
            "CMPA CAM, refined; mIoU % of the seeds.",
        ),
        ReportTable(
            "Table 4 in small: the loss of CMPA",
            ("loss", *READOUTS, "paper, VOC 2012"),
            (
                TableRow(
                    "CLIP (no training)",
                    (
                        *(
                            spread(figures[name])
                            for name in ("CLIP CAM", "CLIP, patch", "CLIP, combined")
                        ),
                        "58.6",
                    ),
                ),
                *(
                    TableRow(
                        loss,
                        (
                            *(spread(figures[f"{loss}, {readout}"]) for readout in READOUTS),
                            PAPER_LOSSES.get(loss, ""),
                        ),
                    )
                    for loss in dict.fromkeys(row.split(", ")[0] for row in groups["losses"])
                ),
                *(
                    TableRow(
                        control,
                        (*(spread(figures[f"{control}, {x}"]) for x in READOUTS), ""),
                        kind="control",
                    )
                    for control in ("untrained projector", "CLIP at CMPA's temperature")
                ),
            ),
            "Initial CAM, before any propagation, by how it is read: GradCAM as in the paper, the"
            " patches' own probabilities, or their geometric mean with CLIP's GradCAM.",
        ),
    )


def _pictures(folder: Path, rectifier: Rectifier) -> Section:
    config = rectifier.config
    unseen = open_labelled(folder / "scenes", split="val")
    superpixels = SuperpixelCache(
        folder / "superpixels",
        n_segments=config.sgc.n_segments,
        compactness=config.sgc.compactness,
    )
    palette = voc_palette()
    several = [sample for sample in unseen.samples if len(sample.labels) > 1]
    single = [sample for sample in unseen.samples if len(sample.labels) == 1]
    rows, shown = [], set()
    for sample in (several[: SCENES_SHOWN // 2] + single)[:SCENES_SHOWN]:
        photo = read_image(sample.image)
        assert sample.truth is not None
        truth = read_truth(sample.truth).numpy()
        found = rectify_photo(rectifier, photo, sample.labels, superpixels, sample.name)
        predicted = read_truth(folder / "ssr-crf" / "masks" / f"{sample.name}.png").numpy()
        image, size = photo.numpy(), truth.shape
        first = unseen.classes[sample.labels[0]]
        target = found.rectified.target
        assert target is not None
        grid = found.cam.shape[1:]
        target_map = target[0, 0].cpu().view(grid).repeat_interleave(size[0] // grid[0], 0)
        target_map = target_map.repeat_interleave(size[1] // grid[1], 1).numpy()
        shown |= set(sample.labels)
        rows.append(
            PictureRow(
                ", ".join(unseen.classes[index] for index in sample.labels),
                (
                    Picture("image", image),
                    Picture(f"CAM, {first}", heat_overlay(image, _full(found.cam[0], size))),
                    Picture(f"target regions, {first}", target_overlay(image, target_map)),
                    Picture(
                        f"refined CAM, {first}",
                        heat_overlay(image, _full(found.refined_cam[0], size)),
                    ),
                    Picture("pseudo mask", ids_overlay(image, found.pseudo_mask.numpy(), palette)),
                    Picture("prediction", ids_overlay(image, predicted, palette)),
                    Picture("truth", ids_overlay(image, truth, palette)),
                ),
            )
        )
    red, green, blue = 0, 1, 2
    legend = tuple(
        (
            unseen.classes[index],
            tuple(int(palette[index + 1][channel]) for channel in (red, green, blue)),
        )
        for index in sorted(shown)
    )
    return Section(
        "Unseen scenes, step by step",
        "CAM, target regions and pseudo mask know the labels of the image; the prediction does not."
        " Maps are those of the class named under them, the first of the image. CLIP's GradCAM"
        " takes the sky for sheep and boats; so do all masks that are made from it.",
        rows=tuple(rows),
        legend=(*legend, ("undecided", (255, 255, 255))),
    )


def _full(cam: torch.Tensor, size: tuple[int, ...]) -> np.ndarray:
    return upsample(cam.numpy(), (size[0], size[1]))


def _curves(log: Path) -> tuple[Chart, ...]:
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    step = tuple(float(row["iteration"]) for row in rows)

    def curve(name: str, field: str) -> Curve:
        active = [
            (x, float(row[field])) for x, row in zip(step, rows, strict=True) if float(row[field])
        ]
        return Curve(name, tuple(x for x, _ in active), tuple(y for _, y in active))

    return (
        Chart(
            "Loss by iteration: CMPA first, then the decoder",
            "iteration",
            "loss",
            (curve("L_proto", "proto"), curve("L_seg", "seg")),
        ),
    )


def demo_facts(config: Config, scenes: int, unseen: int) -> tuple[tuple[str, str], ...]:
    """What a reader wants to know first."""
    return (
        ("training scenes", f"{scenes}, image-level labels only"),
        ("unseen scenes", str(unseen)),
        ("encoders", f"{config.backbones.clip}, {config.backbones.dino}"),
    )
