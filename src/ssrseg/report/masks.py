"""report.html of a folder of masks, from what lies in the folder and the photographs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from urllib.parse import quote

import numpy as np
from PIL import Image

from ssrseg.checkpoint import STATE_FILE
from ssrseg.console import track
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.classes import read_classes_txt
from ssrseg.data.csv_lines import rows_by_name
from ssrseg.data.files import user_path
from ssrseg.data.find_images import images_like
from ssrseg.data.images import read_image
from ssrseg.data.levels import Range
from ssrseg.data.naming import name_fault
from ssrseg.data.stamped_mask import MaskState, mask_state
from ssrseg.errors import DataError, SSRError, counted
from ssrseg.kept_cams import cams_path, read_cams
from ssrseg.made_with import settings_file
from ssrseg.manifest import ACCEPTED, REJECTED, confidence_path, decision_on, mask_path
from ssrseg.manifest import FILE as MANIFEST
from ssrseg.report.gallery import Card, Gallery, Layer, Pictures, coloured
from ssrseg.report.page import PAGE, Report, ReportTable, Section, TableRow, write_page
from ssrseg.report.settings import Facts, failure_section, mask_facts
from ssrseg.report.thumbnails import ids_png, map_png, photo_jpeg, thumbnail_size
from ssrseg.review import DOUBTS

_ABSENT = "the mask shows nothing of a label"
_AT_ONCE = 64  # images that wait for a thread: what is left of them when a run is stopped
_THREADS = 8
_CONFIDENCE_SIDE = 64


@dataclass(frozen=True)
class _Row:
    """A line of manifest.csv that has a mask."""

    name: str
    mask: Path
    image: Path | None
    labels: tuple[int, ...]
    reasons: tuple[str, ...]
    score: float
    decision: str


@dataclass(frozen=True)
class _Look:
    """What was found of a row; ``shares`` are those of the classes that its mask shows."""

    row: _Row
    card: Card
    shares: dict[int, float]
    by_person: bool

    @property
    def place(self) -> tuple[bool, float, int, str]:
        """In the order of review: the worst first, a person's last."""
        score = 1.0 if math.isnan(self.row.score) else self.row.score
        return (
            self.by_person or self.row.decision == ACCEPTED,
            score,
            -len(self.row.reasons),
            self.row.name,
        )


def write_masks_report(out: str | Path, *, images: Path | None = None, call: str = "") -> Path:
    """Write report.html into a folder of masks, and many pictures into report/ beside it.

    Args:
        out: Folder of ``make_masks`` or ``predict``; nothing but its files and the photographs is
            read.
        images: Folder of the photographs, if they are not where manifest.csv says.
        call: What the call that made the masks has to say of itself.

    Returns:
        The page.

    Raises:
        DataError: If the folder holds no masks.
        OutputError: If the page cannot be written.
    """
    out = user_path(out, "masks")
    classes, rows = _read_folder(out, images)
    from_labels = settings_file(out, "labels").is_file()
    made_with, value_range = mask_facts(out)
    failures, lost = failure_section(out)
    layers = ("photograph", *(("CAM", "refined CAM") if from_labels else ()), "mask")
    layers += ("confidence",) if (out / confidence_path("")).parent.is_dir() else ()
    kinds = _Kinds(classes, rows)
    pictures = Pictures(out / PAGE, len(rows))
    maker = _Cards(out, classes, kinds, layers, pictures, value_range)
    looks = sorted(maker.of(rows), key=lambda look: look.place)
    gallery = Gallery(
        layers,
        coloured(classes),
        kinds.names,
        [look.card for look in looks],
        layers.index("mask"),
    )
    kind = "masks from labels" if from_labels else "masks of a trained model"
    facts = _facts(looks, classes, lost, call)
    sections = [Section("Summary", terms=facts + made_with)]
    sections += [] if failures is None else [failures]
    sections += [
        Section("Classes", tables=(_class_table(classes, looks),), folded=len(classes) > 30),
        Section("Images", _how_to_read(out, from_labels, looks), gallery=gallery),
    ]
    lead = f"{counted(len(rows), 'mask', 'masks')} of {counted(len(classes), 'class', 'classes')}."
    made = (("ssrseg", version("ssrseg")),)
    write_page(Report(f"{out.resolve().name}: {kind}", lead, made, tuple(sections)), out / PAGE)
    pictures.sweep()
    return out / PAGE


def _read_folder(out: Path, images: Path | None) -> tuple[tuple[str, ...], list[_Row]]:
    """Classes, and the masks that are there."""
    if not (out / MANIFEST).is_file():
        run = (out / STATE_FILE).is_file()
        raise DataError(
            f"{out} holds a training run, whose report `ssrseg train` writes when it ends. The same"
            " command writes it anew."
            if run
            else f"{out} is no folder of masks: it has no {MANIFEST}. Name one that masks or"
            " predict has written."
        )
    classes = read_classes_txt(out / "classes.txt").names
    index = {name: place for place, name in enumerate(classes)}
    lines = rows_by_name(out / MANIFEST)
    found = {} if images is None else images_like(lines, images, skip=out / "masks")
    rows = []
    for name, cells in lines.items():
        mask, where = out / mask_path(name), cells.get("image", "")
        if name_fault(name) or not mask.is_file():
            continue
        labels = [index[label] for label in _words(cells, "labels") if label in index]
        reasons = _words(cells, "reasons")
        if not reasons and _words(cells, "absent"):
            reasons = [_ABSENT]
        photo = found.get(name) or (out / where if where and "\0" not in where else None)
        score = _number(cells.get("score", ""))
        why = tuple(dict.fromkeys(reasons))
        decision = decision_on(mask, cells)
        rows.append(_Row(name, mask, photo, tuple(sorted(labels)), why, score, decision))
    return classes, rows


def _words(cells: Mapping[str, str], column: str) -> list[str]:
    return [word for word in cells.get(column, "").split(";") if word]


def _number(text: str) -> float:
    with suppress(ValueError):
        return float(text)
    return math.nan


class _Kinds:
    """Kinds of reasons: two that differ in the class alone are of one kind."""

    def __init__(self, classes: Sequence[str], rows: Sequence[_Row]) -> None:
        longest_first = sorted(map(re.escape, classes), key=len, reverse=True)
        self._class = re.compile(rf"(?<!\w)({'|'.join(longest_first)})(?!\w)")
        found = (self._kind(reason) for row in rows for reason in row.reasons)
        self.names = tuple(sorted(set(found)))

    def of(self, reasons: Sequence[str]) -> tuple[int, ...]:
        """Indices of the kinds of some reasons."""
        return tuple(sorted({self.names.index(self._kind(reason)) for reason in reasons}))

    def _kind(self, reason: str) -> str:
        return self._class.sub("…", reason)


@dataclass(frozen=True)
class _Cards:
    """Makes the cards of a folder's images."""

    out: Path
    classes: tuple[str, ...]
    kinds: _Kinds
    layers: tuple[str, ...]
    pictures: Pictures
    value_range: Range | None

    def of(self, rows: Sequence[_Row]) -> Iterator[_Look]:
        """The card of each row; a signal waits for a few images at most."""
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            parts = (rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE))
            made = (each for part in parts for each in pool.map(self._card, part))
            yield from track(made, "Report", len(rows))

    def _card(self, row: _Row) -> _Look:
        layers: list[Layer] = []
        notes = [] if math.isnan(row.score) else [f"score {row.score:.2f}"]
        size, shares = (4, 3), {}
        if row.image is None:
            notes.append("nothing says where the photograph is")
        else:
            try:
                photo = read_image(row.image, self.value_range).numpy()
            except SSRError:
                notes.append("the photograph cannot be read any more")
            else:
                layers.append(Layer(0, self.pictures.keep(photo_jpeg(photo), "jpg")))
                size = thumbnail_size(*photo.shape[:2])[::-1]
        layers += self._maps(row)
        ids, by_person = _read_mask(row.mask)
        notes += ["corrected by hand"] if by_person else []
        notes += [row.decision] if row.decision else []
        if ids is None:
            notes.append("the mask cannot be read")
        else:
            pixels = np.bincount(ids.ravel(), minlength=256)[1 : len(self.classes) + 1] / ids.size
            shares = {int(index): float(pixels[index]) for index in np.flatnonzero(pixels)}
            place = self.layers.index("mask")
            layers.append(Layer(place, self.pictures.keep(ids_png(ids), "png")))
            size = size if layers[0].place == 0 else thumbnail_size(*ids.shape)[::-1]
        layers += self._confidence(row)
        labels = tuple(dict.fromkeys((*row.labels, *shares)))
        # what a person has looked at nobody needs to look at
        why = () if by_person or row.decision == ACCEPTED else row.reasons
        link = quote(os.fsencode(row.mask.relative_to(self.out).as_posix()))
        card = Card(
            row.name, size, tuple(layers), labels, self.kinds.of(why), why, ", ".join(notes), link
        )
        return _Look(row, card, shares, by_person)

    def _maps(self, row: _Row) -> Iterator[Layer]:
        """CAM and refined CAM of each class of an image, if they were kept."""
        kept = read_cams(self.out / cams_path(row.name))
        if kept is None:
            return
        for kind, maps in (("CAM", kept.cam), ("refined CAM", kept.refined_cam)):
            for name, values in zip(kept.classes, maps.float().numpy(), strict=True):
                if name in self.classes:
                    source = self.pictures.keep(map_png(values), "png")
                    yield Layer(self.layers.index(kind), source, self.classes.index(name))

    def _confidence(self, row: _Row) -> list[Layer]:
        """The confidence of a mask, made small, if there is one."""
        path = self.out / confidence_path(row.name)
        if not path.is_file():
            return []
        try:
            grey = Image.fromarray(read_image(path).numpy()[..., 0])
        except SSRError:
            return []
        grey.thumbnail((_CONFIDENCE_SIDE, _CONFIDENCE_SIDE), Image.Resampling.BOX)
        content = map_png(np.asarray(grey) / np.float32(255))
        return [Layer(self.layers.index("confidence"), self.pictures.keep(content, "png"))]


def _read_mask(path: Path) -> tuple[np.ndarray | None, bool]:
    """Its ids, if it can be read, and whether a person has made or changed it."""
    with suppress(SSRError):
        state, ids = mask_state(path, "")
        if state is MaskState.CORRECTED:
            return read_class_ids(path).numpy(), True
        return None if ids is None else ids.numpy(), False
    return None, False


def _facts(looks: Sequence[_Look], classes: Sequence[str], failures: int, call: str) -> Facts:
    by_person = sum(look.by_person for look in looks)
    lost = f", {failures} more could not be used" if failures else ""
    facts = [("images", f"{len(looks):,}{lost}"), ("classes", ", ".join(classes))]
    facts += [("corrected by hand", str(by_person))] if by_person else []
    for decision in (ACCEPTED, REJECTED):
        many = sum(look.row.decision == decision for look in looks)
        facts += [(decision, str(many))] if many else []
    facts += [("last call", call)] if call else []
    return tuple(facts)


def _class_table(classes: Sequence[str], looks: Sequence[_Look]) -> ReportTable:
    """Of each class that an image is labelled with or shows."""
    labelled = any(look.row.labels for look in looks)
    scored = _scored(looks)
    columns = ["class", *(["labelled"] if labelled else []), "in the mask of", "mean area %"]
    columns += ["mean score"] if scored else []
    lines = []
    for index, name in enumerate(classes):
        those = [look for look in looks if index in look.row.labels]
        areas = [look.shares[index] for look in looks if index in look.shares]
        if those or areas:
            cells = [f"{len(those):,}"] if labelled else []
            cells += [f"{len(areas):,}", f"{100 * mean(areas):.1f}" if areas else "-"]
            if scored:
                those = those or [look for look in looks if index in look.shares]
                scores = [each for look in those if not math.isnan(each := look.row.score)]
                cells.append(f"{mean(scores):.2f}" if scores else "-")
            lines.append(TableRow(name, tuple(cells)))
    text = "Number of images; area over those whose mask has the class"
    text += ", score over those labelled with it." if labelled and scored else "."
    return ReportTable("Images and areas", tuple(columns), tuple(lines), text)


def _scored(looks: Sequence[_Look]) -> bool:
    return any(not math.isnan(look.row.score) for look in looks)


def _how_to_read(out: Path, from_labels: bool, looks: Sequence[_Look]) -> str:
    scored = _scored(looks)
    order = "The masks that are expected to be worst come first." if scored else "By name."
    if not scored and any(look.row.reasons for look in looks):
        order = "Images to look at come first, then the others by name."
    maps = (
        " CAM: where CLIP finds a class; refined CAM: the same after SGC; click a label to see the"
        " maps of that class."
        if from_labels
        else ""
    )
    check = f" {DOUBTS} lists labels that may be wrong." if (out / DOUBTS).is_file() else ""
    return (
        f"{order}{check}{maps} Undecided pixels are striped. A name leads to the mask itself:"
        " correct it in `ssrseg review` or a paint program, and further calls leave it alone;"
        " `ssrseg report` shows it here."
    )
