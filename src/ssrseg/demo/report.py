"""The demo's report: pictures of every step, a chart of what each brings, figures, controls."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ssrseg import __version__
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.files import atomic_write
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.demo.rows import GROUPS, MAIN_ROWS, PAPERS_WEIGHTS, SHORT
from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.model import SSR
from ssrseg.overlay import heat_overlay, ids_overlay, mask_palette, target_overlay, upsample
from ssrseg.paper.published import PAPER
from ssrseg.paper.results import spread, summary
from ssrseg.paper.rows import CMPA_CAM, MASKS, READOUTS
from ssrseg.photo_masks import PhotoMask, rectify_photo
from ssrseg.report.page import (
    Bar,
    BarChart,
    Picture,
    PictureRow,
    Report,
    ReportTable,
    Section,
    TableRow,
    plain_text,
    write_page,
)
from ssrseg.report.run import training_charts

SCENES_SHOWN, SCENES_FOLDED = 3, 5
PICTURE_SIDE = 512

Figures = dict[str, list[float]]
"""By row, one mIoU in percent per seed."""

PAPER_MAIN = {
    row: f"{each.cells[column]}"
    for number, column in ((3, -1), (4, 0), (1, 0))
    for each in PAPER[number].rows
    for row in each.ours
}
"""The paper's figures on VOC 2012 (Tables 1, 3, 4): another world, other encoders."""

PAPER_LOSSES = {each.name: f"{each.cells[0]}" for each in PAPER[4].rows}

TERMS = (
    ("CAM (class activation map)", "where CLIP finds a class that the image is labelled with."),
    (
        "CMPA (cross-modal prototype alignment)",
        "two small heads, trained with image-level labels alone, that bring CLIP's image and text"
        " features together, so that the CAM covers the class and less of anything else.",
    ),
    (
        "SGC (superpixel-guided correction)",
        "regions of one colour that the CAM fills well are its target regions; only from there"
        " does it spread, to patches that the encoders' attention holds for the same thing.",
    ),
    (
        "PAR (pixel-adaptive refinement)",
        "moves the borders of the mask to where colours change. A decoder then learns from these"
        " masks to segment images without labels.",
    ),
    ("The paper", "https://arxiv.org/abs/2512.01701"),
)


def write_report(
    page: Path,
    folder: Path,
    model: SSR,
    figures: Figures,
    facts: tuple[tuple[str, str], ...],
    photographs: tuple[Section, Section],
) -> None:
    """Write report.html.

    Args:
        page: The file.
        folder: Scenes and runs of the first seed, for the pictures and the curve.
        model: With the trained heads of that seed.
        figures: All rows.
        facts: Shown at the end, as (what, value).
        photographs: Masks of photographs: those to show, and those to fold away.
    """
    shown, more = _scenes(folder, model)
    seeds = len(next(iter(figures.values())))
    dots = f", mean of {seeds} seeds (dots)" if seeds > 1 else ""
    bars = tuple(
        Bar(row.name, tuple(figures[row.name]), group)
        for group, rows in MAIN_ROWS.items()
        for row in rows
    )
    chart = BarChart("Every step against true masks", f"mIoU in %{dots}", bars)
    controls = ReportTable(
        "mIoU of the controls",
        ("control", "mIoU %"),
        _rows(figures, GROUPS["controls"]),
        "An untrained projector keeps CLIP's cosines, so its GradCAM is CLIP's by construction.",
    )
    sections = (
        replace(
            shown,
            title="From labels to masks, step by step",
            text="The first of the unseen scenes, not chosen by hand. The steps know which classes"
            " a scene shows; the prediction does not. The demo's CLIP takes the sky for sheep and"
            " boats, and so do all masks made from its CAM. Click a picture to enlarge it.",
        ),
        *((replace(more, folded=True),) if more.rows else ()),
        *photographs,
        Section("What each step brings", charts=(chart,), terms=TERMS),
        _why_they_fall(figures),
        Section("Figures", tables=(_main_table(figures),)),
        Section("Controls: what each gain has to be held against", folded=True, tables=(controls,)),
        Section("The paper's ablations in small", folded=True, tables=_small_tables(figures)),
        Section("Training", folded=True, charts=training_charts(folder / "ssr" / "log.csv")[:1]),
        Section(
            "Do it again",
            "ssrseg demo --seeds 3 repeats all of this on three sets of scenes. The folder beside"
            " this page holds the scenes in VOC's layout, the run with its settings, log and"
            " checkpoint, and the predicted masks; figures.csv holds every figure.",
            folded=True,
        ),
    )
    lead = (
        "Image-level labels in, masks out, on drawn scenes that neither the encoders nor the"
        " training have seen. True masks serve for scoring, and for one control: full supervision."
    )
    facts = (*facts, ("seeds", str(seeds)), ("ssrseg", __version__))
    write_page(Report("SSR on the demo world", lead, facts, sections), page)


def write_figures(path: Path, figures: Figures) -> None:
    """Write every row as CSV: group, name, mean, standard deviation, one column per seed."""
    seeds = len(next(iter(figures.values())))
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("group", "row", "miou_mean", "miou_sd", *range(seeds)))
        for group, names in GROUPS.items():
            for name in names:
                found = summary(figures[name])
                assert found is not None
                sd = "" if found.sd is None else f"{found.sd:.3f}"
                values = (f"{value:.3f}" for value in found.values)
                table.writerow((group, name, f"{found.mean:.3f}", sd, *values))


def short_table(figures: Figures) -> str:
    """What preset demo does, for the terminal."""
    seeds = len(next(iter(figures.values())))
    over = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    table = ReportTable(f"Demo world, {over}", ("step", "mIoU %"), _rows(figures, SHORT))
    return plain_text(table)


def _rows(figures: Figures, names: Iterable[str]) -> tuple[TableRow, ...]:
    return tuple(TableRow(name, (spread(figures[name]),)) for name in names)


def _why_they_fall(figures: Figures) -> Section:
    cmpa, clip, dino, sgc = (spread(figures[row.name]) for row in (CMPA_CAM, *PAPERS_WEIGHTS))
    return Section(
        "Why the three rows with the paper's weights fall here",
        f"With the paper's weights the CMPA CAM goes from {cmpa} to {clip} (+ CLIP attention),"
        f" {dino} (+ DINO attention, 0.4 : 0.6) and {sgc} (+ SGC); in the paper each of these rows"
        " gains. All three spread the CAM along CLIP's attention. The small CLIP of this demo has"
        " learned from drawn scenes, and its attention is no affinity: it does not join the patches"
        " of one thing, so the CAM flows onto other things and the background."
        "\n\n"
        "Preset demo therefore spreads along the DINO-style encoder's attention alone, one step"
        " instead of two. It starts from the CMPA CAM again, not from the three rows above it; PAR"
        " and the decoder build on it.",
    )


def _main_table(figures: Figures) -> ReportTable:
    rows = _rows(figures, GROUPS["main"])
    return ReportTable(
        "mIoU of the steps",
        ("step", "mIoU %", "paper, VOC 2012"),
        tuple(replace(row, cells=(*row.cells, PAPER_MAIN.get(row.name, ""))) for row in rows),
        "CAMs are scored on training scenes (labels known, masks unseen) at the background exponent"
        " that scores best, the decoder on unseen scenes. The paper's figures are of photographs"
        " and of large encoders.",
    )


def _small_tables(figures: Figures) -> tuple[ReportTable, ReportTable]:
    def cells(row: str, columns: Iterable[str]) -> tuple[str, ...]:
        return tuple(spread(figures[f"{row}, {column}"]) for column in columns)

    clip = tuple(spread(figures[name]) for name in ("CLIP CAM", "CLIP, patch", "CLIP, combined"))
    attentions = dict.fromkeys(row.split(", ")[0] for row in GROUPS["masks"])
    losses = dict.fromkeys(row.split(", ")[0] for row in GROUPS["losses"])
    controls = ("untrained projector", "CLIP at CMPA's temperature")
    by_mask = ReportTable(
        "Table 3 in small: who propagates, and from where",
        ("attention", "no mask", "box", "SGC", "box and SGC"),
        tuple(TableRow(row, cells(row, MASKS)) for row in attentions),
        "CMPA CAM, refined; mIoU in %.",
    )
    by_loss = ReportTable(
        "Table 4 in small: the loss of CMPA",
        ("loss", *READOUTS, "paper, VOC 2012"),
        (
            TableRow("CLIP (no training)", (*clip, "58.6")),
            *(TableRow(x, (*cells(x, READOUTS), PAPER_LOSSES.get(x, ""))) for x in losses),
            *(TableRow(x, (*cells(x, READOUTS), ""), kind="control") for x in controls),
        ),
        "Initial CAM, before any propagation, by how it is read: GradCAM as in the paper, the"
        " patches' own probabilities, or their geometric mean with CLIP's GradCAM; mIoU in %.",
    )
    return by_mask, by_loss


def _scenes(folder: Path, model: SSR) -> tuple[Section, Section]:
    """The scenes to show and those to fold away, each with the colours of its masks."""
    unseen = open_labelled(folder / "scenes", split="val")
    sgc = model.config.sgc
    superpixels = SuperpixelCache.of(folder / "superpixels", sgc)

    def section(samples: Sequence[Sample]) -> Section:
        rows: list[PictureRow] = []
        ids: set[int] = set()
        for sample in samples:
            assert sample.truth is not None
            photo = read_image(sample.image)
            found = rectify_photo(model, photo, sample.labels, superpixels)
            predicted = read_class_ids(folder / "ssr-crf" / "masks" / f"{sample.name}.png")
            masks = {
                "pseudo mask (PAR)": found.pseudo_mask.numpy(),
                "prediction, labels unknown": predicted.numpy(),
                "true mask": read_class_ids(sample.truth).numpy(),
            }
            ids |= set(np.unique([*masks.values()]).tolist())
            names = [unseen.classes[index] for index in sample.labels]
            pictures = _step_pictures(photo.numpy(), found, masks, names[0])
            rows.append(PictureRow(", ".join(names), pictures))
        legend = tuple(
            (unseen.classes[value - 1], tuple(mask_palette()[value].tolist()))
            for value in sorted(ids - {0, IGNORE})
        )
        return Section("More scenes", "", (*legend, ("undecided", None)), tuple(rows))

    several = [sample for sample in unseen.samples if len(sample.labels) > 1]
    single = [sample for sample in unseen.samples if len(sample.labels) == 1]
    # one of a single class to two of several
    mixed = several[:2] + single[:1] + several[2:5] + single[1:]
    return section(mixed[:SCENES_SHOWN]), section(mixed[SCENES_SHOWN:][:SCENES_FOLDED])


def _step_pictures(
    photo: UInt8[np.ndarray, "height width 3"],
    found: PhotoMask,
    masks: Mapping[str, UInt8[np.ndarray, "height width"]],
    name: str,
) -> tuple[Picture, ...]:
    """The steps for the first class, ``name``, and the masks: enlarged, so that lines are thin."""
    height, width = photo.shape[:2]
    times = max(1, round(PICTURE_SIDE / max(height, width)))
    size = (width * times, height * times)
    large = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))

    def nearest(ids: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))

    way = found.rectification
    clip_cam, target = way.initial.clip_cam, way.target
    assert clip_cam is not None and target is not None  # preset demo has both
    sending = nearest(target[0, 0].cpu().reshape(found.cam.shape[1:]).numpy())

    def heat(what: str, cam: Tensor) -> Picture:
        values = upsample(cam.cpu().numpy(), size[::-1])
        return Picture(f"{what}: {name}", heat_overlay(large, values))

    return (
        Picture("scene", large),
        heat("CLIP's CAM", clip_cam[0, 0]),
        heat("CAM after CMPA", found.cam[0]),
        Picture(f"target regions (SGC): {name}", target_overlay(large, sending)),
        heat("refined CAM (SGC)", found.refined_cam[0]),
        *(Picture(what, ids_overlay(large, nearest(ids))) for what, ids in masks.items()),
    )
