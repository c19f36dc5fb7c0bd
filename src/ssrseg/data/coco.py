"""Image-level labels and instances of data in COCO's format, such as COCO 2014."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any, NamedTuple

from ssrseg.console import printable
from ssrseg.data.classes import COCO_CLASSES, check_classes, without_background
from ssrseg.data.files import content_digest, write_text
from ssrseg.data.find_images import ImageFinder
from ssrseg.data.label_files.addresses import is_address, name_in
from ssrseg.data.naming import name_fault, sample_name
from ssrseg.data.text import quoted
from ssrseg.errors import DataError, LabelsError, OutputError
from ssrseg.safe_json import JsonError, read_json

SPLITS = ("train", "val")
IMAGE_FOLDERS = ("{}2014", "images/{}2014", "JPEGImages/{}2014", "JPEGImages/{}", "images/{}")
"""Where the images of a split are looked for; the first is where we unpack them."""

_SPELLED = {
    "motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa",
    "potted plant": "pottedplant", "dining table": "diningtable", "tv": "tvmonitor",
}  # fmt: skip
_RULE = 4  # of _derive; a table made by another one is made anew
_NO_FILE = "Export the annotations again, or copy the file again if it was cut short."


@dataclass(frozen=True)
class LabelTable:
    """Image-level labels of one instances file."""

    classes: tuple[str, ...]
    """Names by ascending category id; class index i has id i + 1 in masks."""
    images: int
    """How many images the file lists."""
    labels: Mapping[str, tuple[int, ...]]
    """Class indices, ascending, by file name, ascending; only images with an instance."""
    notices: tuple[str, ...] = ()
    """What a user should know of how the file was read."""

    @property
    def is_cocos(self) -> bool:
        """True if the classes are those of COCO itself, not of other data in its format."""
        return self.classes == COCO_CLASSES


def instances_file(root: Path, split: str) -> Path:
    """Where the annotations of ``train`` or ``val`` of COCO 2014 lie."""
    return root / "annotations" / f"instances_{split}2014.json"


def instances_files(root: Path) -> dict[str, Path]:
    """Every ``annotations/instances_*.json`` by split.

    A year behind the split is left out (``train`` of instances_train2017.json) in COCO 2014's own
    files and where that names one file alone.
    """
    found = sorted((root / "annotations").glob("instances_*.json"))
    names = {file: _split_and_year(file) for file in found if file.is_file()}
    taken = [split for split, _ in names.values()]
    cocos = [instances_file(root, split) for split in SPLITS]
    return {
        split if file in cocos or taken.count(split) == 1 else split + year: file
        for file, (split, year) in names.items()
    }


def whole_data(root: Path, files: Mapping[str, Path]) -> tuple[list[str], tuple[str, ...]]:
    """The parts that make up a data set, and a notice of others: those of COCO 2014, or all."""
    cocos = [instances_file(root, split) for split in SPLITS]
    parts = [part for part, file in files.items() if file in cocos] or [*files]
    left = [part for part in files if part not in parts]
    if not left:
        return parts, ()
    names = ", ".join(files[part].name for part in left[:5]) + (", ..." if left[5:] else "")
    return parts, (
        f"{root}/annotations: {printable(names)} {'are' if left[1:] else 'is'} not read beside COCO"
        f" 2014's own {' and '.join(files[part].name for part in parts)}; as split"
        f" {printable(left[0])}, {'one' if left[1:] else 'it'} can be opened by itself.",
    )


def is_coco(root: Path) -> bool:
    """True if an instances file is there."""
    return bool(instances_files(root))


def read_label_table(path: Path) -> LabelTable:
    """Image-level labels of an instances file, from category ids alone: no mask is looked at.

    An image shows a class if it has an instance or a crowd of it; images with neither are left out.
    The file may have hundreds of megabytes, so the table is kept beside it as
    ``NAME.labels.cache``, under the file's digest: a changed file is read anew.

    Raises:
        DataError: If it cannot be read.
        LabelsError: If it is no instances file, or its categories can be no classes.
    """
    key = f"{_RULE}-{content_digest(path)}"
    stored = path.with_suffix(".labels.cache")
    table = _load(stored, key)
    if table is None:
        table = _derive(read_instances(path))
        with suppress(OutputError):  # a shared, read-only data set: slower, not wrong
            _save(stored, key, table)
    return table


class Instance(NamedTuple):
    """An annotation: its id for messages, area (None = not given), class id from 1, outline."""

    id: object
    area: float | None
    class_id: int
    segmentation: Any


@dataclass(frozen=True)
class ImageInstances:
    """What is annotated in one image of a height and width; ``file`` is where it says so."""

    file: Path
    file_name: str
    size: tuple[int, int]
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class InstancesFile:
    """A whole instances file, its ids known to be of images and categories that it lists."""

    path: Path
    file_names: Mapping[int | str, str]
    """By image id; ``/`` between folders."""
    categories: tuple[tuple[int, str], ...]
    """Ids and names, in the order of the file."""
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    groups: frozenset[str] = frozenset()
    """Supercategories of the categories."""


def read_instances(path: Path) -> InstancesFile:
    """The whole instances file; 448 MB of text become about 3 GB of memory.

    The JSON is read without pycocotools, an optional package that only masks need. Outlines and
    areas are not looked at.

    Raises:
        LabelsError: If it is missing, cut short, or no instances file; if an id or a file name is
            there twice or of the wrong type, or an annotation is of an image or a category that
            the file does not list.
    """
    try:
        found = read_json(path, nan=True)  # the annotation that holds one is named
    except JsonError as error:
        reason = printable(str(error)[:120])
        raise LabelsError(f"{path} is no JSON, or cut short ({reason}). {_NO_FILE}") from error
    parts = ("images", "annotations", "categories")
    lists = [found.get(part) if isinstance(found, dict) else None for part in parts]
    for part, entries in zip(parts, lists, strict=True):
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise LabelsError(
                f'{path} is no instances file of COCO: it has no list "{part}" of objects.'
                f" {_NO_FILE}"
            )
    images, annotations, categories = lists
    assert images is not None and annotations is not None and categories is not None
    info = found.get("info")
    is_label_studios = isinstance(info, dict) and info.get("contributor") == "Label Studio"
    names = _file_names(path, images, is_label_studios=is_label_studios)
    listed = _categories(path, categories)
    known = {number for number, _ in listed}
    for entry in annotations:
        image, category = entry.get("image_id"), entry.get("category_id")
        # True is 1 to Python, and 1.0 too
        if type(image) not in (int, str) or image not in names:
            what = f"image {brief(image)}"
        elif type(category) is not int or category not in known:
            what = f"category {brief(category)}"
        else:
            continue
        raise LabelsError(
            f"{path}: annotation {brief(entry.get('id'))} is of {printable(what)}, which the file"
            " does not list. Remove the annotation, or add what it is of."
        )
    groups = frozenset(str(entry.get("supercategory")) for entry in categories)
    return InstancesFile(path, names, listed, images, annotations, groups)


def _file_names(
    path: Path, images: list[dict[str, Any]], *, is_label_studios: bool = False
) -> dict[int | str, str]:
    """File names by image id, each once."""
    names: dict[int | str, str] = {}
    first: dict[str, int | str] = {}
    for entry in images:
        number: Any = entry.get("id")
        name: Any = entry.get("file_name")
        problem = ""
        if type(number) not in (int, str):
            problem = f"image {brief(name)} has the id {brief(number)}, which is no number."
        elif number in names:
            problem = f"image id {brief(number)} is there twice, as {quoted(names[number])} and as"
            problem += f" {brief(name)}. Number the images anew, and their annotations with them."
        elif not isinstance(name, str):
            problem = f"image {brief(number)} has the file_name {brief(name)}, which is no text."
        else:
            if is_address(name):  # Label Studio's, of an export without images
                name = name_in(name)
            name = re.sub(r"^(\./)+", "", name.replace("\\", "/"))
            if is_label_studios:  # as seen from the folder it exports from
                name = re.sub(r"^(\.\./)+", "", name)
            if fault := name_fault(name, in_text=True):
                problem = f"image {brief(number)} has the file_name {quoted(name)}, which {fault}."
                problem += " Name files below the folder of the images."
            elif first.setdefault(name, number) != number:
                problem = f"images {brief(first[name])} and {brief(number)} are both"
                problem += f" {quoted(name)}. Keep one, and give it the annotations of both."
        if problem:
            raise LabelsError(f"{path}: {problem}")
        names[number] = name
    return names


def _categories(path: Path, entries: list[dict[str, Any]]) -> tuple[tuple[int, str], ...]:
    """Ids and names of the categories in the order of the file, each id once."""
    found: dict[int, str] = {}
    for entry in entries:
        number, name = entry.get("id"), entry.get("name")
        if type(number) is not int or not isinstance(name, str):
            problem = f"the category {brief(name)} has the id {brief(number)}; a name in text and a"
            problem += " whole number are expected."
        elif number in found:
            problem = f"category id {number} is there twice, as {quoted(found[number])} and as"
            problem += f" {quoted(name)}. Masks and labels would be mixed up: number them anew."
        else:
            found[number] = name
            continue
        raise LabelsError(f"{path}: {problem}")
    return tuple(found.items())


def _named(found: InstancesFile) -> tuple[list[tuple[int, str]], tuple[str, ...]]:
    """Categories that are classes.

    Left out are a background that comes first, as labelme's does, and a group that comes first and
    has no annotation, as Roboflow's does.
    """
    listed = sorted(found.categories)
    dropped: tuple[str, ...] = ()
    is_group = listed[1:] and listed[0][0] == 0 and listed[0][1] in found.groups
    if is_group and not any(entry["category_id"] == 0 for entry in found.annotations):
        dropped = (
            f"{quoted(listed.pop(0)[1])} (category 0) is no class: it is the group of others, and"
            " nothing is annotated with it.",
        )
    named, notices = without_background(listed, "category")
    notices = dropped + notices
    kept = {number for number, _ in named}
    for entry in found.annotations if notices else ():
        if entry["category_id"] not in kept:
            raise LabelsError(
                f"{found.path}: annotation {brief(entry.get('id'))} is of the background (category"
                f" {entry['category_id']}), which is no class. Remove it."
            )
    return named, notices


def _derive(found: InstancesFile) -> LabelTable:
    """Labels by file name, from image and category ids."""
    named, notices = _named(found)
    names = check_classes(found.path, named, unit="category", cure="Add its categories.")
    spelled = tuple(_SPELLED.get(name, name) for name in names)
    # other data in COCO's format keep their own names
    classes = spelled if spelled == COCO_CLASSES else names
    kept = {category for category, _ in named}
    given = [category for category, _ in found.categories if category in kept]
    if classes != COCO_CLASSES and given != list(range(1, len(given) + 1)):
        numbers = [category for category, _ in named]
        ids = [f"{names[n]} (category {each}) = {n + 1}" for n, each in enumerate(numbers[:3])]
        shown = ", ".join(ids) + (", ..." if numbers[3:] else "")
        notices += (f"Class ids in masks count the categories by their ids: {shown}.",)
    index = {category: number for number, (category, _) in enumerate(named)}
    present: dict[str, set[int]] = defaultdict(set)
    for entry in found.annotations:
        present[found.file_names[entry["image_id"]]].add(index[entry["category_id"]])
    labels = {name: tuple(sorted(present[name])) for name in sorted(present)}
    return LabelTable(classes, len(found.file_names), labels, notices)


def instances_by_image(found: InstancesFile) -> Iterator[ImageInstances]:
    """Annotated images by ascending file name; outlines are not looked at yet.

    Raises:
        LabelsError: If the size of an image or the area of an annotation is missing or impossible.
    """
    named, _ = _named(found)
    index = {category: number for number, (category, _) in enumerate(named, 1)}
    grouped: dict[int | str, list[Instance]] = defaultdict(list)
    for entry in found.annotations:
        area = entry.get("area")
        if area is not None and not (type(area) in (int, float) and 0 <= area < 1e18):
            raise LabelsError(
                f"{found.path}: annotation {brief(entry.get('id'))} has the area {brief(area)}, but"
                " a number of pixels is expected. Correct it, or leave it out."
            )
        area = None if area is None else float(area)
        grouped[entry["image_id"]].append(
            Instance(entry.get("id"), area, index[entry["category_id"]], entry.get("segmentation"))
        )
    for image in sorted(found.images, key=lambda image: found.file_names[image["id"]]):
        if image["id"] in grouped:
            name = found.file_names[image["id"]]
            size: tuple[Any, Any] = (image.get("height"), image.get("width"))
            if not all(type(side) is int and 0 < side <= 2**16 for side in size) or (
                size[0] * size[1] > 2**28
            ):
                raise LabelsError(
                    f"{found.path}: image {quoted(name)} has height {brief(size[0])} and width"
                    f" {brief(size[1])}, but two numbers of pixels are expected. Correct them."
                )
            yield ImageInstances(found.path, name, size, tuple(grouped[image["id"]]))


def find_images(root: Path, file: Path, names: Iterable[str]) -> dict[str, str]:
    """Paths below the root by file name, of those images of an instances file that are there.

    ``names`` are file names as the annotations have them; on disk, COCO's twelve digits are enough.
    """
    finder = ImageFinder(root)
    folders = image_folders(root, file)
    found = {}
    for name in names:
        # some programs write paths below the root, or below its images
        places = [*folders, "", "images", "JPEGImages"] if "/" in name else folders
        paths = (finder.find(f"{folder}/{name}".strip("/"), numbered=True) for folder in places)
        if path := next(filter(None, paths), None):
            found[name] = path
    return found


def image_folders(root: Path, file: Path) -> list[str]:
    """The folders below the root that hold the images of an instances file.

    Those named after it or its own folder, or if there are none, the common ones.
    """
    split, year = _split_and_year(file)
    own = [*(folder.replace("2014", year).format(split) for folder in IMAGE_FOLDERS), split]
    if file.parent not in (root, root / "annotations"):  # as Roboflow has it
        folder = file.parent.relative_to(root).as_posix()
        own = [f"{folder}/images", folder, f"images/{folder}"]
    there = [folder for folder in dict.fromkeys(own) if (root / folder).is_dir()]
    return there or ["images", "JPEGImages", ""]


def _split_and_year(file: Path) -> tuple[str, str]:
    """Split and year of instances_train2017.json; the year may be missing."""
    name = file.stem.removeprefix("instances_")
    split = re.sub(r"(?<=.)20[0-9]{2}$", "", name)
    return split, name.removeprefix(split)


def sample_names(root: Path, file: Path, names: Iterable[str]) -> dict[str, str]:
    """Names of samples by file name, also of images that are not there (yet).

    Raises:
        DataError: If two images have one name.
    """
    names = list(names)
    split, year = _split_and_year(file)
    paths = {name: f"{split}{year}/{name}" for name in names} | find_images(root, file, names)
    found = {name: sample_name(path) for name, path in paths.items()}
    check_apart(root, found)
    return found


def check_apart(root: Path, names: Mapping[str, str]) -> None:
    """Raise DataError if two images, by their file names, have one name as samples."""
    first: dict[str, str] = {}
    for image, name in names.items():
        if (twin := first.setdefault(name, image)) != image:
            raise DataError(
                f"{root}: {quoted(twin)} and {quoted(image)} have the same name {quoted(name)}"
                " without suffix, under which results are written. Rename one, in the annotations"
                " too, or remove it."
            )


def _save(path: Path, key: str, table: LabelTable) -> None:
    text = json.dumps(vars(table) | {"labels": dict(table.labels)})
    write_text(path, f"{_seal(key, text)}\n{text}")


def _load(path: Path, key: str) -> LabelTable | None:
    """The stored table, or None if it is absent, damaged or of another file."""
    try:
        seal, _, text = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    if seal != _seal(key, text):
        return None
    found = json.loads(text)  # to the letter as it was written
    labels = {name: tuple(ids) for name, ids in found["labels"].items()}
    return LabelTable(tuple(found["classes"]), found["images"], labels, tuple(found["notices"]))


def _seal(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()
