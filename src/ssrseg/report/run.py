"""report.html of a training run: its losses, and what it makes of a few of its photographs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from ssrseg.config import Config
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.errors import counted
from ssrseg.report.gallery import Card, Gallery, Layer, Pictures, coloured
from ssrseg.report.page import (
    PAGE,
    Chart,
    Curve,
    Report,
    ReportTable,
    Section,
    TableRow,
    write_page,
)
from ssrseg.report.settings import Facts, failure_section, setting_facts
from ssrseg.report.thumbnails import ids_png, map_png, photo_jpeg, thumbnail_size
from ssrseg.schedule import Schedule, Supervision
from ssrseg.training_log import FIELDS, readable_rows

SHOWN = 6
"""Training photographs in the gallery: the time of so many masks and predictions."""

_POINTS = 300  # of a curve; more are averaged
_CHARTS = (
    ("Loss", "loss", (("L_proto (CMPA)", "proto"), ("L_seg (decoder)", "seg"))),
    ("Learning rate", "rate", (("learning rate", "lr"),)),
    ("How well the prototypes' clusters agree with the classes", "purity", (("purity", "purity"),)),
    ("Temperature of CMPA", "τ", (("temperature", "temperature"),)),
    ("Monitored pseudo masks against true masks", "mIoU", (("mIoU", "pseudo_miou"),)),
)


@dataclass(frozen=True)
class TrainedImage:
    """A training photograph as the finished model sees it.

    Attributes:
        maps: By kind of layer, a map in [0, 1] of each of its classes.
        masks: By kind of layer, class ids.
    """

    name: str
    photo: UInt8[np.ndarray, "height width 3"]
    labels: tuple[int, ...]
    maps: dict[str, Float[np.ndarray, "slots grid_h grid_w"]]
    masks: dict[str, UInt8[np.ndarray, "height width"]]


def run_facts(schedule: Schedule, supervision: Supervision, done: int, seconds: float) -> Facts:
    """What a run learned from and for how long; ``done`` iterations were of the last call."""
    kind = "image-level labels" if supervision == "labels" else "true masks (the control)"
    stages = f"CMPA {len(schedule.align):,}, decoder {len(schedule.segment):,}"
    return (
        ("learned from", kind),
        ("iterations", f"{schedule.total:,} ({stages})"),
        ("last call", f"{counted(done, 'iteration', 'iterations')} in {seconds / 60:.1f} minutes"),
    )


def varied(data: LabelledImages) -> list[Sample]:
    """``SHOWN`` samples that show many classes: in their order, those with a new one first."""
    known: set[int] = set()
    new = []
    for sample in data.samples:
        if not known.issuperset(sample.labels):
            known.update(sample.labels)
            new.append(sample)
    rest = [sample for sample in data.samples if sample.labels and sample not in new[:SHOWN]]
    return (new + rest)[:SHOWN]


def write_run_report(
    run: Path,
    data: LabelledImages,
    config: Config,
    shown: Sequence[TrainedImage],
    facts: Facts,
) -> Path:
    """Write report.html into a run folder, whose log.csv and failures.csv are read.

    Args:
        data: The training images that were used.
        shown: Those of ``varied``, for the gallery; none if the run is not finished.
        facts: ``run_facts``, shown before those of the settings.

    Returns:
        The page.

    Raises:
        OutputError: If it cannot be written.
    """
    (failures, lost), model = failure_section(run), shlex.quote(run.resolve().name)
    name, images = run.resolve().name, counted(len(data), "image", "images")
    summary = (
        ("images", images + (f", {lost} more could not be used" if lost else "")),
        *facts,
        *setting_facts(config),
    )
    sections = [Section("Summary", terms=summary)]
    sections += [] if failures is None else [failures]
    sections.append(Section("Training", charts=training_charts(run / "log.csv")))
    counts = data.labels.sum(0).tolist()
    cells = [(f"{number:,}",) for number in counts]
    table = ReportTable(
        "Images of each class",
        ("class", "labelled"),
        tuple(TableRow(*each) for each in zip(data.classes, cells, strict=True)),
    )
    sections.append(Section("Classes", tables=(table,), folded=len(counts) > 30))
    if shown:
        sections.append(
            Section(
                "What the model makes of training photographs",
                f"{len(shown)} of {images}, chosen so that they show many classes, not by how well"
                " they went. CAM, refined CAM and pseudo mask know the labels; the prediction does"
                " not. No true mask was used.",
                gallery=_gallery(run / PAGE, data.classes, shown),
            )
        )
    sections.append(
        Section(
            "How to go on",
            f"ssrseg predict --model {model} --images FOLDER --out results segments new"
            " photographs, without labels.\n\n"
            f"ssrseg masks --model {model} --data DATA --out masks makes masks of labelled"
            " ones with the trained CMPA; ssrseg evaluate scores masks where true ones are known.",
        )
    )
    lead = f"A segmentation model learned from {images} with image-level labels."
    made = (("ssrseg", version("ssrseg")),)
    write_page(Report(f"{name}: training run", lead, made, tuple(sections)), run / PAGE)
    return run / PAGE


def training_charts(log: Path) -> tuple[Chart, ...]:
    """The curves of log.csv that have a point; of many rows, means of neighbours."""
    rows = [
        dict(zip(FIELDS, map(float, row.split(",")), strict=True))
        for row in readable_rows(log, 10**9)
    ]
    charts = []
    for title, unit, curves in _CHARTS:
        drawn = tuple(
            curve for name, field in curves if (curve := _curve(name, field, rows)) is not None
        )
        if drawn:
            charts.append(Chart(title, "iteration", unit, drawn))
    return tuple(charts)


def _curve(name: str, field: str, rows: Sequence[dict[str, float]]) -> Curve | None:
    """A loss is 0 where it is not active, and other figures are nan where there are none."""
    losses = field in ("proto", "seg")
    points = [
        (row["iteration"], row[field])
        for row in rows
        if math.isfinite(row[field]) and (row[field] or not losses)
    ]
    if not points:
        return None
    parts = np.array_split(np.array(points), min(_POINTS, len(points)))
    means = np.array([part.mean(0) for part in parts])
    return Curve(name, tuple(means[:, 0].tolist()), tuple(means[:, 1].tolist()))


def _gallery(page: Path, classes: tuple[str, ...], shown: Sequence[TrainedImage]) -> Gallery:
    kinds = ("photograph", *shown[0].maps, *shown[0].masks)
    pictures = Pictures(page, len(shown))
    cards = []
    for each in shown:
        layers = [Layer(0, pictures.keep(photo_jpeg(each.photo), "jpg"))]
        for kind, maps in each.maps.items():
            for of, values in zip(each.labels, maps, strict=True):
                source = pictures.keep(map_png(values), "png")
                layers.append(Layer(kinds.index(kind), source, of))
        for kind, ids in each.masks.items():
            layers.append(Layer(kinds.index(kind), pictures.keep(ids_png(ids), "png")))
        size = thumbnail_size(*each.photo.shape[:2])[::-1]
        found = np.bincount(each.masks["prediction"].ravel(), minlength=256)[1 : len(classes) + 1]
        also = [int(index) for index in np.flatnonzero(found) if index not in each.labels]
        note = f"also predicted: {', '.join(classes[index] for index in also)}" if also else ""
        cards.append(Card(each.name, size, tuple(layers), each.labels, note=note))
    return Gallery(kinds, coloured(classes), (), cards, len(kinds) - 1)
