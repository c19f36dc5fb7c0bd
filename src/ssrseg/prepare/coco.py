"""COCO 2014: labels and true masks from its annotations, in whatever layout the images lie."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from ssrseg.config import Config
from ssrseg.console import CheckResult, steps
from ssrseg.data.coco import (
    IMAGE_FOLDERS,
    SPLITS,
    ImageInstances,
    LabelTable,
    find_images,
    find_masks,
    image_folder,
    image_key,
    instances_by_image,
    instances_file,
    read_instances,
    read_label_table,
    semantic_mask,
)
from ssrseg.data.files import has_content
from ssrseg.data.images import read_truth, write_class_ids
from ssrseg.data.open import open_labelled
from ssrseg.errors import DataError
from ssrseg.prepare.archives import COCO_ANNOTATIONS, COCO_IMAGES
from ssrseg.prepare.steps import (
    Gap,
    Origin,
    Prepared,
    check_root,
    obtain,
    report_gaps,
    store_superpixels,
)
from ssrseg.prepare.workers import in_processes

PUBLISHED = {"train": (82_081, 82_783), "val": (40_137, 40_504)}
"""Images with an instance, and all images, of each split."""

_MASKS = "SegmentationClass"
_LOOKED_AT = 200  # masks of other origin whose ids are held against the labels


def prepare_coco(
    root: Path,
    *,
    config: Config | None = None,
    download: bool = False,
    mirror: str | None = None,
    superpixels: Path | None = None,
    split: str | None = None,
    workers: int = 1,
) -> Prepared:
    """Complete a COCO 2014 tree as far as possible, and say what it lacks.

    Makes the tables of image-level labels, and the true masks where there are none. The lists
    published for this task are the images with at least one instance; they are derived.

    Args:
        root: The tree: annotations, and the images in any of the usual layouts.
        config: For superpixels; None = preset ``ssr``.
        download: Fetch the archives that provide what is missing.
        mirror: Address of the archives, instead of the official ones.
        superpixels: Cache folder for superpixels; None = compute none.
        split: ``train``, ``val`` or a list whose images get superpixels; None = both.
        workers: Processes.

    Raises:
        DataError: If the folder is a wrong one, an archive cannot be had, a file is damaged, or
            masks that lie there are not made for these labels.
        LabelsError: If annotations are faulty.
    """
    own, inner = ("annotations", "train2014", "images"), ("coco", "COCO", "coco2014", "COCO2014")
    check_root(root, "COCO 2014", own=own, inner=inner, may_be_new=download)
    origin = Origin(root / "downloads", download, mirror)
    if not all(instances_file(root, part).is_file() for part in SPLITS):
        obtain(COCO_ANNOTATIONS, root / COCO_ANNOTATIONS.top, origin)
    files = [instances_file(root, part) for part in SPLITS]
    bare = tuple(file.name for file in files if not file.is_file())
    if bare:
        gap = Gap("annotations", len(files), bare, COCO_ANNOTATIONS)
        return Prepared(root, tuple(report_gaps([gap], origin)))
    tables = {part: read_label_table(instances_file(root, part)) for part in SPLITS}
    findings = [_labels(part, table) for part, table in tables.items()]
    looked = (_images(root, part, table, origin) for part, table in tables.items())
    gaps = [gap for gap in looked if gap is not None]
    findings += report_gaps(gaps, origin)
    for part, table in tables.items():
        findings.append(_write_masks(root, part, table, workers))
    if not gaps:
        if (root / "labels.csv").is_file():
            findings.append(CheckResult("labels.csv", "is there and wins over the annotations"))
            parts: Sequence[str | None] = [split]
        else:
            parts = [split] if split else SPLITS
        opened = [open_labelled(root, split=part) for part in parts]
        samples = tuple(sample for data in opened for sample in data.samples)
        if superpixels is not None:
            store_superpixels(samples, superpixels, config or Config(), workers=workers)
            findings.append(CheckResult("superpixels", f"{len(samples):,} images in {superpixels}"))
    return Prepared(root, tuple(findings))


def _labels(part: str, table: LabelTable) -> CheckResult:
    found = (len(table.labels), table.images)
    note = ""
    if found != PUBLISHED[part]:
        note = "; the published list has {:,} of {:,}".format(*PUBLISHED[part])
    count = sum(len(labels) for labels in table.labels.values())
    return CheckResult(
        part,
        f"{found[0]:,} of {found[1]:,} images show an instance, {count:,} classes in them{note}",
    )


def _images(root: Path, part: str, table: LabelTable, origin: Origin) -> Gap | None:
    """Images of a split that are still missing after a look into the archives."""
    archive = COCO_IMAGES[part]
    missing = _missing(root, part, table)
    if missing:
        folder = image_folder(root, part) or root / IMAGE_FOLDERS[0].format(part)
        if obtain(archive, folder, origin):
            missing = _missing(root, part, table)
    if not missing:
        return None
    return Gap(f"images of {part}", len(table.labels), tuple(missing), archive)


def _missing(root: Path, part: str, table: LabelTable) -> list[str]:
    """Images that are not there, or empty."""
    found = find_images(root, part, table.labels)
    there = {name for name, path in found.items() if has_content(path)}
    return [name for name in table.labels if name not in there]


def _write_masks(root: Path, part: str, table: LabelTable, workers: int) -> CheckResult:
    """Masks of the images that have none yet, under the names of the images."""
    masks = find_masks(root / _MASKS)
    there = {key: path for key, path in masks.items() if has_content(path)}
    _check_ids(there, table)
    bare = {name for name in table.labels if image_key(Path(name).stem) not in there}
    folder = root / _MASKS / f"{part}2014"
    if bare and find_spec("pycocotools") is None:
        return CheckResult(
            f"true masks of {part}",
            f"{len(bare):,} of {len(table.labels):,} missing",
            "they are made by pycocotools, which is not installed: pip install pycocotools. Without"
            " masks nothing can be scored; training from labels needs none.",
        )
    if bare:
        todo = _annotated(instances_file(root, part), bare)
        with steps(f"Masks of {part}", len(table.labels), done=len(table.labels) - len(bare)) as at:
            for name in in_processes(partial(_write_mask, folder=folder), todo, workers):
                at.advance(name)
    return CheckResult(f"true masks of {part}", f"{len(table.labels):,}, {len(bare):,} written now")


def _annotated(path: Path, names: Collection[str]) -> Iterator[ImageInstances]:
    found = instances_by_image(read_instances(path))
    return (image for image in found if image.file_name in names)


def _write_mask(image: ImageInstances, *, folder: Path) -> str:
    name = Path(image.file_name).stem
    write_class_ids(folder / f"{name}.png", semantic_mask(image))
    return name


def _check_ids(there: Mapping[str, Path], table: LabelTable) -> None:
    """Refuse masks that hold COCO's category ids (1 .. 90), as some converters write them."""
    looked = 0
    for name, labels in table.labels.items():
        path = there.get(image_key(Path(name).stem))
        if path is None:
            continue
        ids = {int(value) for value in torch.unique(read_truth(path))} - {0, 255}
        if not ids <= {label + 1 for label in labels}:
            raise DataError(
                f"{path} holds class ids {sorted(ids)}, but the annotations of the image say"
                f" {[label + 1 for label in labels]} (1 + class index). Such masks often hold"
                f" COCO's category ids, which have gaps. Move {path.parent} away; the same command"
                " makes the masks anew."
            )
        looked += 1
        if looked == _LOOKED_AT:
            return
