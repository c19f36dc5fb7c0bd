"""COCO 2014: image-level labels and true masks from its instance annotations."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from ssrseg.data.classes import COCO_CLASSES, check_classes
from ssrseg.data.files import atomic_write
from ssrseg.data.ignored_warnings import IgnoredWarnings
from ssrseg.data.walk import SUFFIXES
from ssrseg.errors import DataError, LabelsError

SPLITS = ("train", "val")
IMAGE_FOLDERS = ("{}2014", "images/{}2014", "JPEGImages/{}2014", "JPEGImages/{}", "images/{}")
"""Where the images of a split are looked for; the first is where we unpack them."""

_SPELLED = {
    "motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa",
    "potted plant": "pottedplant", "dining table": "diningtable", "tv": "tvmonitor",
}  # fmt: skip
_NUMPY_QUIET = IgnoredWarnings((DeprecationWarning, ""))  # of pycocotools' use of NumPy
_RULE = 1  # of _derive; a table made by another one is made anew


@dataclass(frozen=True)
class LabelTable:
    """Image-level labels of one instances file."""

    classes: tuple[str, ...]
    """Names by ascending category id; class index i has id i + 1 in masks."""
    images: int
    """How many images the file lists."""
    labels: Mapping[str, tuple[int, ...]]
    """Class indices, ascending, by file name, ascending; only images with an instance."""


def instances_file(root: Path, split: str) -> Path:
    """Where the annotations of ``train`` or ``val`` lie."""
    return root / "annotations" / f"instances_{split}2014.json"


def is_coco(root: Path) -> bool:
    """True if one of the instances files is there."""
    return any(instances_file(root, split).is_file() for split in SPLITS)


def read_label_table(path: Path) -> LabelTable:
    """Image-level labels of an instances file, from category ids alone: no mask is looked at.

    An image shows a class if it has an instance or a crowd of it; images with neither are left out.
    The file has hundreds of megabytes, so the table is kept beside it as ``NAME.labels.csv``,
    under the file's hash: a changed file is read anew.

    Raises:
        LabelsError: If it is missing or no instances file, or its categories can be no classes.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    except OSError as error:
        raise LabelsError(
            f"{path} cannot be read ({error.strerror}). It comes with COCO's"
            " annotations_trainval2014.zip."
        ) from error
    key = f"{_RULE}-{digest.hexdigest()}"
    stored = path.with_suffix(".labels.csv")
    table = _load(stored, key)
    if table is None:
        table = _derive(read_instances(path), path)
        with suppress(OSError):  # a shared, read-only data set: slower, not wrong
            _save(stored, key, table)
    return table


def read_instances(path: Path) -> dict[str, Any]:
    """The whole instances file; 448 MB of text become about 3 GB of memory.

    The JSON is read without pycocotools, an optional package that only masks need.

    Raises:
        LabelsError: If it is missing, cut short, or no instances file.
    """
    try:
        found = json.loads(path.read_bytes())
        for part, keys in (
            ("images", {"id", "file_name", "height", "width"}),
            ("annotations", {"image_id", "category_id", "segmentation", "area"}),
            ("categories", {"id", "name"}),
        ):
            if not all(keys <= entry.keys() for entry in found[part]):
                raise ValueError(f"an entry of {part} lacks one of {', '.join(sorted(keys))}")
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise LabelsError(
            f"{path} is no instances file of COCO, or cut short ({type(error).__name__}: {reason})."
            " Unpack annotations_trainval2014.zip again."
        ) from error
    return dict(found)


def find_images(root: Path, split: str, names: Iterable[str]) -> dict[str, Path]:
    """Paths by file name, of those images that are there; one listing, no look at each image.

    ``names`` are file names as the annotations have them; on disk, the twelve digits are enough.
    """
    folder = image_folder(root, split)
    if folder is None:
        return {}
    there = {
        image_key(Path(name).stem): name
        for name in os.listdir(folder)
        # macOS leaves ._x.jpg beside x.jpg, detectors keep x.txt there
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    }
    keys = ((name, image_key(Path(name).stem)) for name in names)
    return {name: folder / there[key] for name, key in keys if key in there}


def find_masks(folder: Path) -> dict[str, Path]:
    """Masks below a folder (which need not exist) by ``image_key``, from listings alone."""
    paths = sorted(folder.rglob("*.png"))
    return {image_key(path.stem): path for path in paths if not path.name.startswith(".")}


def image_folder(root: Path, split: str) -> Path | None:
    """The folder with the images of ``train`` or ``val``, if there is one."""
    folders = (root / folder.format(split) for folder in IMAGE_FOLDERS)
    return next((folder for folder in folders if folder.is_dir()), None)


def image_key(stem: str) -> str:
    """What an image and its mask have in common: COCO's twelve digits, else the whole name."""
    digits = stem[-12:]
    return digits if len(digits) == 12 and digits.isdecimal() else stem


@dataclass(frozen=True)
class ImageInstances:
    """What is annotated in one image of a height and width.

    Instances are (area, class id, segmentation) as in the file, class ids from 1.
    """

    file_name: str
    size: tuple[int, int]
    instances: tuple[tuple[float, int, Any], ...]


def instances_by_image(found: dict[str, Any]) -> Iterator[ImageInstances]:
    """Annotated images of what ``read_instances`` returns, by ascending file name."""
    ids = sorted(category["id"] for category in found["categories"])
    index = {category: number for number, category in enumerate(ids, 1)}
    grouped = defaultdict(list)
    for entry in found["annotations"]:
        instance = (float(entry["area"]), index[entry["category_id"]], entry["segmentation"])
        grouped[entry["image_id"]].append(instance)
    for image in sorted(found["images"], key=lambda image: str(image["file_name"])):
        if image["id"] in grouped:
            size = (image["height"], image["width"])
            yield ImageInstances(image["file_name"], size, tuple(grouped[image["id"]]))


def semantic_mask(image: ImageInstances) -> UInt8[Tensor, "height width"]:
    """Class ids of an image: instances and crowds, smaller ones over larger ones.

    Overlaps are settled as in coco2voc, the tool that CLIP-ES's successors point to: by the
    annotation's own ``area``, and the earlier of two equal ones is on top. A crowd is its class,
    not ignored (docs/decisions.md, 0020).

    Raises:
        DataError: If pycocotools is not installed or cannot read a segmentation.
    """
    try:
        from pycocotools import mask as coder
    except ImportError as error:
        raise DataError(
            "COCO's masks are made by pycocotools, which is not installed: pip install pycocotools."
        ) from error
    ids = np.zeros(image.size, np.uint8)
    for _, class_id, segmentation in reversed(sorted(image.instances, key=lambda each: each[0])):
        try:
            ids[_decode(coder, segmentation, image.size)] = class_id
        except (ValueError, TypeError, LookupError) as error:
            raise DataError(
                f"The annotations of {image.file_name} hold a segmentation that cannot be read"
                f" ({type(error).__name__}: {error}). Unpack annotations_trainval2014.zip again."
            ) from error
    return torch.from_numpy(ids)


def _decode(coder: Any, segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Polygons (the parts of one object) or run lengths as a map of the image's size.

    Unlike pycocotools' ``annToMask``, which takes a polygon of four numbers for a box and run
    lengths of another size for those of the image.
    """
    if isinstance(segmentation, list):
        # fewer than three points have no area, and pycocotools takes four numbers for a box
        parts = [part for part in segmentation if len(part) >= 6]
        if any(len(part) % 2 for part in parts):
            raise ValueError("a polygon with half a point")
        if not parts:
            return np.zeros(size, bool)
        code = coder.merge(coder.frPyObjects(parts, *size))
    else:
        if tuple(segmentation["size"]) != size:
            raise ValueError(f"size {segmentation['size']} in an image of {list(size)}")
        code = segmentation
        if isinstance(code["counts"], list):
            code = coder.frPyObjects(code, *size)
    with _NUMPY_QUIET:
        return np.asarray(coder.decode(code), bool)


def _derive(found: dict[str, Any], path: Path) -> LabelTable:
    """Labels by file name, from image and category ids."""
    categories = sorted((entry["id"], str(entry["name"])) for entry in found["categories"])
    names = check_classes(path, categories, unit="category", cure="Add its categories.")
    spelled = tuple(_SPELLED.get(name, name) for name in names)
    # other data in COCO's format keep their own names
    classes = spelled if spelled == COCO_CLASSES else names
    index = {category: number for number, (category, _) in enumerate(categories)}
    files = {image["id"]: image["file_name"] for image in found["images"]}
    present: dict[str, set[int]] = defaultdict(set)
    for entry in found["annotations"]:
        image, category = entry["image_id"], entry["category_id"]
        if image not in files or category not in index:
            what = f"image {image}" if image not in files else f"category {category}"
            raise LabelsError(
                f"{path}: annotation {entry.get('id')} is of {what}, which the file does not list."
                " Unpack annotations_trainval2014.zip again."
            )
        present[files[image]].add(index[category])
    labels = {name: tuple(sorted(present[name])) for name in sorted(present)}
    return LabelTable(classes, len(files), labels)


def _save(path: Path, key: str, table: LabelTable) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        head = {"made_from": key, "images": table.images, "classes": table.classes}
        file.write(f"# {json.dumps(head)}\n")
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "labels"])
        for name, labels in table.labels.items():
            rows.writerow([name, ";".join(table.classes[label] for label in labels)])


def _load(path: Path, key: str) -> LabelTable | None:
    """The stored table, or None if it is absent, damaged or of another file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head = json.loads(file.readline().removeprefix("#"))
            if head["made_from"] != key:
                return None
            classes = tuple(head["classes"])
            index = {name: number for number, name in enumerate(classes)}
            labels = {
                row["image"]: tuple(index[word] for word in row["labels"].split(";"))
                for row in csv.DictReader(file)
            }
            return LabelTable(classes, int(head["images"]), labels)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
