"""YOLO's labels: a text file for each image, and ``data.yaml`` with the names of the classes.

    names: [cat, dog]            images/train/a.jpg
    train: images/train          labels/train/a.txt:  1 0.5 0.5 0.2 0.3
    val: images/val

The first number of a line is the class, whatever follows: a box, an outline or nothing. An empty
file says that the image shows none of the classes; images without a file are left out.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from reprlib import repr as brief
from typing import Any

from ssrseg.console import printable
from ssrseg.data.label_files.addresses import without_upload_code
from ssrseg.data.label_files.lookup import as_uploaded
from ssrseg.data.label_files.rows import SPLITS, LabelRows, Row
from ssrseg.data.text import quoted, read_lines
from ssrseg.data.walk import SUFFIXES, list_images
from ssrseg.errors import DataError, LabelsError, counted
from ssrseg.safe_yaml import YamlError, read_yaml

_KEYS = ("train", "val", "test")
_FILE = "Write it as ultralytics does: names: [cat, dog], train: images/train, val: images/val."


def is_yolo(path: Path) -> bool:
    """True if a YAML file names classes and folders of images, as YOLO's do."""
    try:
        table = read_yaml(path)
    except YamlError:
        return False
    return isinstance(table, dict) and isinstance(table.get("names"), (list, dict))


def read_yolo(path: Path, known: Collection[str] = ()) -> LabelRows:
    """Labels of the images that ``data.yaml`` names, from the text files beside them.

    Raises:
        LabelsError: If it is no such file, or no image that it names has labels.
    """
    del known  # classes are numbers
    try:
        table = read_yaml(path)
    except YamlError as error:
        raise LabelsError(f"{path} is not valid YAML: {printable(str(error))}.") from error
    if not isinstance(table, dict) or "names" not in table:
        raise LabelsError(f"{path} has no key names. {_FILE}")
    classes = _names(path, table["names"])
    parts = {key: table[key] for key in _KEYS if table.get(key)}
    notices: list[str] = []
    images: dict[str, str | None] = {}
    for split, value in parts.items():
        for place in value if isinstance(value, list) else [value]:
            found = _images(path, table.get("path"), place)
            if found is None:
                notices.append(
                    f"{printable(path.name)}: {split} is {quoted(str(place)[:80])}, which is not"
                    f" below {path.parent}; left out."
                )
            for image in found or ():
                images.setdefault(image, split)
    if not parts:
        everything = _images(path, table.get("path"), "images") or _images(path, None, ".")
        images = dict.fromkeys(everything or ())
    if not images:
        raise LabelsError(f"{path}: no image is where it says. {_FILE}")
    return _rows(path, classes, images, notices)


def read_yolo_files(path: Path, known: Collection[str] = ()) -> LabelRows:
    """The same without ``data.yaml``: ``path`` is a list of the classes, one a line.

    Images and texts lie in ``images`` and ``labels`` beside it, or all in its folder.

    Raises:
        LabelsError: If no image has labels.
    """
    del known
    classes = tuple(text for _, text in read_lines(path))
    found = _images(path, None, "images") or _images(path, None, ".") or ()
    return _rows(path, classes, {image: _part(image) for image in found}, [])


def _part(image: str) -> str | None:
    """The split of images/train/a.jpg."""
    folders = image.split("/")[1:-1]
    return folders[0] if folders and folders[0].lower() in SPLITS else None


def _names(path: Path, names: Any) -> tuple[str, ...]:
    """Names by class number."""
    table = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(table, dict) or {*table} != {*range(len(table))} or not table:
        raise LabelsError(
            f"{path}: names is {brief(names)}, but a list of names, or one name for each number"
            f" from 0, is expected. {_FILE}"
        )
    return tuple(str(table[number]) for number in range(len(table)))


def _images(path: Path, base: Any, place: Any) -> list[str] | None:
    """Images of a folder or of a list, below the folder of ``path``; None if there is neither."""
    root = path.parent
    for folder in _places(base, place):
        target = root / folder
        if target.is_dir():
            try:
                found = list_images(target).images
            except DataError:  # no image
                found = []
            return [file.relative_to(root).as_posix() for file in found]
        if target.is_file() and target.suffix == ".txt":
            return [*_listed(root, base, target)]
    return None


def _places(base: Any, place: Any) -> Iterator[str]:
    """Paths below the folder of data.yaml that a path in it may mean.

    ``path`` in it is often of another machine, and Roboflow writes ``../train/images`` for
    ``train/images``.
    """
    if not isinstance(place, str) or "\0" in place:
        return
    tail = re.sub(r"^(\.{0,2}/)+", "", place.replace("\\", "/"))
    bases = ["" if not isinstance(base, str) or "\0" in base else base.replace("\\", "/"), ""]
    for folder in bases:
        inner = PurePosixPath(folder, tail)
        if not inner.is_absolute() and ".." not in inner.parts:
            yield inner.as_posix()
    parts = PurePosixPath(tail).parts  # an absolute path of another machine: its end
    yield from ("/".join(parts[n:]) for n in range(1, len(parts)) if ".." not in parts)


def _listed(root: Path, base: Any, file: Path) -> Iterator[str]:
    """Images in a list of paths; those that are not there stay as they are written."""
    for _, line in read_lines(file, errors="surrogateescape"):
        places = [*_places(base, line)]
        yield next((each for each in places if os.path.isfile(root / each)), (places or [line])[0])


def _rows(
    path: Path, classes: tuple[str, ...], images: Mapping[str, str | None], notices: list[str]
) -> LabelRows:
    """A row for each image that has a file of labels."""
    rows: list[Row] = []
    faults: list[tuple[int, str]] = []
    files = {image: _label_file(path.parent, image) for image in images}
    texts = {image: [file] for image, file in files.items() if file.is_file()}
    for image, found in (texts or _uploaded(files)).items():
        split, file = images[image], found[0]
        if found[1:]:
            faults.append(
                (
                    len(rows),
                    f"{printable(found[0].name)} and {printable(found[1].name)} are both of"
                    f" {printable(image)}. Keep one.",
                )
            )
            continue
        place = file.relative_to(path.parent).as_posix()
        try:
            numbers = _numbers(file, place, len(classes))
        except LabelsError as error:
            faults.append((len(rows), str(error)))
            continue
        words = tuple(classes[number] for number in sorted(numbers))
        rows.append(Row(place, image, words, shows_none=not words, split=split))
    if not rows and not faults:
        first = next(iter(images), "images/a.jpg")
        where = _label_file(path.parent, first).relative_to(path.parent).as_posix()
        raise LabelsError(
            f"{path}: none of {counted(len(images), 'image', 'images')} has labels. Those of"
            f" {printable(first)} belong in {printable(where)}."
        )
    left = len(images) - len(rows) - len(faults)
    empty = sum(row.shows_none for row in rows)
    if left:
        notices.append(
            f"{printable(path.name)}: {left:,} of {counted(len(images), 'image', 'images')} left"
            " out, without a file of labels. An empty file says that an image shows none of the"
            " classes."
        )
    if empty:
        notices.append(
            f"{printable(path.name)}: {counted(empty, 'image shows', 'images show')} none of the"
            " classes, by an empty file of labels."
        )
    return LabelRows(path, tuple(rows), tuple(faults), classes, notices=tuple(notices))


def _uploaded(files: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Files of labels by image, by the names that Label Studio gives to uploads: 1a2b3c4d-a.txt."""
    by_name: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for folder in {file.parent for file in files.values()}:
        for file in sorted(folder.glob("*.txt")):
            name = without_upload_code(file.name)
            if name != file.name:
                by_name[folder, as_uploaded(name)].append(file)
    found = {
        image: by_name.get((file.parent, as_uploaded(file.name))) for image, file in files.items()
    }
    return {image: each for image, each in found.items() if each}


def _label_file(root: Path, image: str) -> Path:
    """``labels/train/a.txt`` of ``images/train/a.jpg``, as ultralytics has it."""
    head, _, tail = f"/{image}".rpartition("/images/")
    there = f"{head}/labels/{tail}" if tail != f"/{image}" else f"/{image}"
    stem, suffix = os.path.splitext(there)
    return root / f"{stem if suffix.lower() in SUFFIXES else there}.txt".lstrip("/")


def _numbers(file: Path, place: str, classes: int) -> set[int]:
    """Classes in a file of labels."""
    found = set()
    for line, text in read_lines(file):
        first = text.split()[0]
        if not re.fullmatch(r"[0-9]{1,4}(\.0+)?", first):
            raise LabelsError(
                f"{place} line {line}: {quoted(text[:60])} does not begin with the number of a"
                " class. Write it first, then the box or the outline."
            )
        number = int(first.partition(".")[0])
        if number >= classes:
            raise LabelsError(
                f"{place} line {line}: class {number}, but the names go from 0 to {classes - 1}."
                " Correct the number, or add the name."
            )
        found.add(number)
    return found
