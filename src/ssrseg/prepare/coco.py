"""COCO 2014: labels and true masks from its annotations, in whatever layout the images lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch

from ssrseg.config import Config
from ssrseg.console import CheckResult
from ssrseg.data import coco
from ssrseg.data.class_ids import read_class_ids, write_class_ids
from ssrseg.data.coco_masks import semantic_mask
from ssrseg.data.files import has_content, user_path
from ssrseg.data.find_masks import find_masks
from ssrseg.data.naming import match_masks
from ssrseg.data.open import open_labelled
from ssrseg.errors import DataError
from ssrseg.prepare import steps
from ssrseg.prepare.archives import COCO_ANNOTATIONS, COCO_IMAGES
from ssrseg.prepare.workers import run_all

PUBLISHED = {"train": (82_081, 82_783), "val": (40_137, 40_504)}
"""Images with an instance, and all images, of each split."""

_LOOKED_AT = 200  # masks of other origin whose ids are held against the labels


def prepare_coco(
    root: str | Path,
    *,
    config: Config | None = None,
    download: bool | str = False,
    superpixels: str | Path | None = None,
    split: str | None = None,
    workers: int = 1,
) -> steps.Prepared:
    """Complete a COCO 2014 tree as far as possible, and say what it lacks.

    Makes the tables of image-level labels, and the true masks where there are none. The lists
    published for this task are the images with at least one instance; they are derived. The
    arguments are those of ``ssrseg.prepare.voc.prepare_voc``; ``split`` is ``train``, ``val``
    or a list of one's own, None = both.

    Raises:
        DataError: If the folder is a wrong one, an archive cannot be had, a file is damaged, or
            masks that lie there are not made for these labels.
        LabelsError: If annotations are faulty.
    """
    root = user_path(root, "a data set")
    own, inner = ("annotations", "train2014", "images"), ("coco", "COCO", "coco2014", "COCO2014")
    steps.check_root(root, "COCO 2014", own=own, inner=inner, may_be_new=bool(download))
    mirror = download if isinstance(download, str) else None
    source = steps.ArchiveSource(root / "downloads", bool(download), mirror)
    files = [coco.instances_file(root, part) for part in coco.SPLITS]
    if not all(file.is_file() for file in files):
        source.unpack(COCO_ANNOTATIONS, root / COCO_ANNOTATIONS.top)
    names = [file.name for file in files]
    there = [file.name for file in files if file.is_file()]
    missing = steps.missing_files("annotations", names, there, COCO_ANNOTATIONS)
    if missing:
        return steps.Prepared(root, tuple(steps.report_missing(missing, source)))
    tables = {part: coco.read_label_table(coco.instances_file(root, part)) for part in coco.SPLITS}
    checks = [_labels(part, table) for part, table in tables.items()]
    missing = [each for part in coco.SPLITS for each in _complete(root, part, tables[part], source)]
    checks += steps.report_missing(missing, source)
    checks += _write_masks(root, tables, workers)
    if not missing:
        if (root / "labels.csv").is_file():
            checks.append(CheckResult("labels.csv", "is there and wins over the annotations"))
            parts: Sequence[str | None] = [split]
        else:
            parts = [split] if split else coco.SPLITS
        opened = [open_labelled(root, split=part) for part in parts]
        if superpixels is not None:
            checks.append(steps.store_superpixels(opened, Path(superpixels), config, workers))
    return steps.Prepared(root, tuple(checks))


def _labels(part: str, table: coco.LabelTable) -> CheckResult:
    count = sum(len(labels) for labels in table.labels.values())
    text = f"{len(table.labels):,} of {table.images:,} images show an instance,"
    text += f" {count:,} classes in them"
    if (len(table.labels), table.images) != PUBLISHED[part]:
        text += "; the published list has {:,} of {:,}".format(*PUBLISHED[part])
    return CheckResult(part, text)


def _complete(
    root: Path, part: str, table: coco.LabelTable, source: steps.ArchiveSource
) -> list[steps.MissingFiles]:
    """Unpack the images of a split if any are missing; those that still are."""
    archive, file = COCO_IMAGES[part], coco.instances_file(root, part)

    def missing() -> list[steps.MissingFiles]:
        found = coco.find_images(root, file, table.labels)
        there = {name for name, path in found.items() if has_content(root / path)}
        return steps.missing_files(f"images of {part}", table.labels, there, archive)

    folders = (root / folder.format(part) for folder in coco.IMAGE_FOLDERS)
    folder = next((each for each in folders if each.is_dir()), root / f"{part}2014")
    found = missing()
    return missing() if found and source.unpack(archive, folder) else found


def _write_masks(
    root: Path, tables: Mapping[str, coco.LabelTable], workers: int
) -> Iterator[CheckResult]:
    """Masks of the images that have none yet, under the names of the samples."""
    folder = root / "SegmentationClass"
    masks = {name: path for name, path in find_masks(folder).items() if has_content(path)}
    files = {part: coco.instances_file(root, part) for part in tables}
    names = {
        part: coco.sample_names(root, files[part], table.labels) for part, table in tables.items()
    }
    everyone = {name for each in names.values() for name in each.values()}
    for part, table in tables.items():
        there, _ = match_masks(names[part].values(), masks, lambda: everyone)
        by_file = {file: there[name] for file, name in names[part].items() if name in there}
        _check_ids(by_file, table)
        bare = {file: name for file, name in names[part].items() if name not in there}
        if bare and find_spec("pycocotools") is None:
            yield CheckResult(
                f"true masks of {part}",
                f"{len(bare):,} of {len(table.labels):,} missing",
                "they are made by pycocotools, which is not installed: pip install pycocotools."
                " Without masks nothing can be scored; training from labels needs none.",
            )
            continue
        if bare:
            found = coco.instances_by_image(coco.read_instances(files[part]))
            todo = ((image, bare[image.file_name]) for image in found if image.file_name in bare)
            work = partial(_write_mask, folder=folder)
            total = len(table.labels)
            run_all(work, todo, workers, f"Masks of {part}", total, total - len(bare))
        written = f"{len(table.labels):,}, {len(bare):,} written now"
        yield CheckResult(f"true masks of {part}", written)


def _write_mask(named: tuple[coco.ImageInstances, str], *, folder: Path) -> str:
    image, name = named
    write_class_ids(folder / f"{name}.png", semantic_mask(image))
    return name


def _check_ids(there: Mapping[str, Path], table: coco.LabelTable) -> None:
    """Refuse masks that hold COCO's category ids (1 .. 90), as some converters write them."""
    for name, path in islice(sorted(there.items()), _LOOKED_AT):
        expected = [label + 1 for label in table.labels[name]]
        ids = set(torch.unique(read_class_ids(path)).tolist()) - {0, 255}
        if not ids <= set(expected):
            raise DataError(
                f"{path} holds class ids {sorted(ids)}, but the annotations of the image say"
                f" {expected} (1 + class index). Such masks often hold COCO's category ids, which"
                f" have gaps. Move {path.parent} away; the same command makes the masks anew."
            )
