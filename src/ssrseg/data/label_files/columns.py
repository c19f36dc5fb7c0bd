"""Which columns of a table, or keys of objects in JSON, say what."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssrseg.console import printable
from ssrseg.data.classes import NO_CLASS, class_key
from ssrseg.data.label_files.addresses import is_address, paths_of
from ssrseg.data.label_files.cells import Separator, as_text, is_number, listed, truth
from ssrseg.data.label_files.rows import LabelRows, Row
from ssrseg.data.text import quoted
from ssrseg.data.walk import SUFFIXES
from ssrseg.errors import LabelsError, counted

# without blanks, signs and upper case; the likeliest first
_IMAGE = (
    "filename", "filepath", "imagepath", "imagefilename", "imagefile", "imgpath", "path", "file",
    "files", "image", "images", "img", "imagename", "imgname", "photo", "photos", "photograph",
    "picture", "name", "imageid", "imgid", "id", "uri", "url", "imageurl", "imageuri",
)  # fmt: skip
_LABELS = frozenset({
    "label", "labels", "tag", "tags", "class", "classes", "category", "categories", "keyword",
    "keywords", "classname", "classnames", "labelname", "labelnames", "choice", "choices",
    "object", "objects", "objectscategory", "objectscategories",
})  # fmt: skip
_SPLIT = ("split", "subset", "set", "partition", "datasplit")
_FOLDER = ("folder", "directory", "dir", "subfolder", "foldername", "path", "filepath", "imagepath")
_BOX = frozenset({"xmin", "ymin", "xmax", "ymax", "x1", "y1", "x2", "y2", "bbox", "boundingbox"})
_OTHER = frozenset({
    "", "id", "index", "imageid", "width", "height", "imagewidth", "imageheight", "area", "size",
    "annotator", "annotationid", "leadtime", "createdat", "updatedat", "completedby", "fold",
    "difficult", "truncated", "occluded", "iscrowd", "isvalid", "istrain", "istest", "score",
    "confidence", "source", "comment", "comments", "note", "notes", "date", "time", "sentiment",
    *_BOX,
})  # fmt: skip
_LABEL_STUDIO = frozenset({"annotationid", "leadtime"})
_UNLABELLED = ("unlabeled", "unlabelled")  # Roboflow's column for images that nobody has looked at


@dataclass(frozen=True)
class Line:
    """A line of a table, or an object: where it stands, and a value for each column."""

    place: str
    cells: Sequence[Any]


@dataclass(frozen=True)
class Columns:
    """Which column holds the image, the labels, yes and no for a class each, and the split.

    ``folder`` is a column beside that of the image that says in which folder it lies.
    """

    image: int
    folder: int | None
    labels: tuple[int, ...]
    classes: tuple[int, ...]
    split: int | None
    passed_over: tuple[int, ...]


def plain(head: str) -> str:
    """A heading without blanks, signs and upper case."""
    return re.sub(r"[\W_]+", "", head.casefold())


def has_image(heads: Sequence[str], first: Sequence[Any] = ()) -> bool:
    """True if a heading is one of those of image files, or an image stands in the first line."""
    return any(plain(head) in _IMAGE for head in heads) or any(map(is_image, first))


def is_image(cell: Any) -> bool:
    """True if a cell ends like the name of an image file."""
    return as_text(cell).strip().lower().endswith(SUFFIXES)


def may_be_labels(heads: Sequence[str], first: Sequence[Sequence[Any]]) -> bool:
    """True if a table looks like labels, by its headings and its first lines."""
    names = [plain(head) for head in heads]
    is_manifest = {"mask", "madeby"} <= set(names)  # one of ours
    if is_manifest or not has_image(heads, first[0] if first else ()):
        return False
    words = any(map(is_labels, heads))
    pairs = (pair for cells in first for pair in zip(names, cells, strict=False))
    marks = any(_may_be_class(name) and truth(cell) is not None for name, cell in pairs)
    return words or marks or set(names) >= _LABEL_STUDIO


def is_labels(head: str) -> bool:
    """True if a heading is one of those of labels."""
    return _family(plain(head)) in _LABELS


def _may_be_class(name: str) -> bool:
    return (
        name not in _OTHER
        and name not in _IMAGE
        and name not in _SPLIT
        and not name.startswith("unnamed")  # pandas' index
    )


def _family(name: str) -> str:
    """``label`` of ``label2``: several columns for the labels of an image."""
    return re.sub(r"\d+$", "", name)


def find_columns(heads: Sequence[str], lines: Sequence[Line], known: Collection[str]) -> Columns:
    """What each column is for.

    Args:
        heads: The headings.
        lines: Those below.
        known: Keys of the classes, if there is a list.

    Raises:
        LabelsError: If the image or the labels cannot be told; a clause and the cure.
    """
    names = [plain(head) for head in heads]

    def values(column: int) -> list[Any]:
        cells = (line.cells[column] for line in lines if column < len(line.cells))
        return [cell for cell in cells if as_text(cell).strip()]

    image = _image_column(names, values)
    split = next((names.index(name) for name in _SPLIT if name in names), None)
    if split is not None and not any(as_text(each).strip().isalpha() for each in values(split)):
        split = None
    folder = next((names.index(each) for each in _FOLDER if each in names), None)
    folder = None if folder == image else folder
    rest = [number for number in range(len(heads)) if number not in (image, folder, split)]
    labels = [number for number in rest if _family(names[number]) in _LABELS]
    wordy = [number for number in labels if not all(is_number(as_text(v)) for v in values(number))]
    if wordy:  # beside names, numbers are ids
        labels = wordy
    if not labels and set(names) >= _LABEL_STUDIO:  # where the column is called by its control
        labels = [each for each in rest if _may_be_class(names[each]) and values(each)]
    if len({_family(names[number]) for number in labels}) > 1:
        several = " and ".join(quoted(heads[number]) for number in labels[:4])
        raise LabelsError(
            f"has several columns that may be the labels: {several}. Remove all but one, or rename"
            " the others."
        )
    classes = () if labels else _class_columns(heads, rest, values, known)
    if not labels and not classes:
        shown = ", ".join(quoted(heads[number]) for number in rest[:5] if names[number])
        raise LabelsError(
            "has no column of labels"
            + (f" ({shown} may be anything)" if shown else "")
            + '. Call that of the labels "labels", or write a column of 0 and 1 for each class.'
        )
    for number in rest:
        if labels and names[number] == "confidence" and _has_zero(values(number)):
            raise LabelsError(
                f"has 0 in the column {quoted(heads[number])}, as OpenImages marks labels that are"
                " not there. Remove those rows, or that column if it means something else."
            )
    used = {image, folder, split, *labels, *classes}
    left = tuple(number for number in rest if number not in used and names[number])
    return Columns(image, folder, tuple(labels), tuple(classes), split, left)


def _image_column(names: Sequence[str], values: Any) -> int:
    """The likeliest heading below which files stand, or of all; or the only column of files."""
    found = [names.index(name) for name in _IMAGE if name in names]
    for number in found:
        if is_image(next(iter(values(number)), "")):
            return number
    if found:
        return found[0]
    files = [n for n in range(len(names)) if values(n) and all(map(is_image, values(n)))]
    if len(files) != 1:
        raise LabelsError('has no column that is plainly that of the images. Call it "image".')
    return files[0]


def _class_columns(
    heads: Sequence[str], rest: Sequence[int], values: Any, known: Collection[str]
) -> tuple[int, ...]:
    """Columns of yes and no: those where that is most of what stands there.

    Beside one of them, so is a column with a 0: of counts or of scores, which is refused rather
    than left out, since its images would seem to show nothing.
    """
    found, zeros = [], []
    for number in rest:
        name, cells = plain(heads[number]), values(number)
        marks = sum(truth(cell) is not None for cell in cells)
        is_listed = class_key(heads[number]) in known
        if is_listed or (_may_be_class(name) and 2 * marks >= len(cells) > 0):
            found.append(number)
        elif _may_be_class(name) and _has_zero(cells):
            zeros.append(number)
    return tuple(sorted(found + zeros)) if found else ()


def _has_zero(cells: Sequence[Any]) -> bool:
    return any(as_text(cell).strip() in ("0", "0.0") for cell in cells)


def rows_of_table(
    source: Path,
    heads: Sequence[str],
    lines: Sequence[Line],
    *,
    known: Collection[str],
    faults: Sequence[tuple[int, str]] = (),
) -> LabelRows:
    """The rows of a table whose headings are known.

    Args:
        source: The file.
        heads: The headings.
        lines: Those below.
        known: Keys of the classes, if there is a list.
        faults: What was wrong before, by number of the line before which it stands.

    Raises:
        LabelsError: If image or labels cannot be told among the columns; a clause.
    """
    columns = find_columns(heads, lines, known)
    notices = []
    if columns.passed_over:
        shown = ", ".join(quoted(heads[number][:40]) for number in columns.passed_over[:6])
        more = ", ..." if columns.passed_over[6:] else ""
        many = columns.passed_over[1:]
        notices.append(
            f"{printable(source.name)}: the column{'s' if many else ''} {shown}{more}"
            f" {'are' if many else 'is'} passed over."
        )
    merge = not _BOX.isdisjoint(map(plain, heads))
    if columns.labels:
        rows, more_notices = _rows_of_words(source, len(heads), columns, lines, known)
        return LabelRows(
            source, rows, tuple(faults), merge=merge, notices=(*notices, *more_notices)
        )
    return _rows_of_marks(source, heads, columns, lines, faults, notices)


def _cell(line: Line, column: int | None) -> Any:
    return line.cells[column] if column is not None and column < len(line.cells) else ""


def _row(line: Line, columns: Columns, words: Sequence[str], **more: Any) -> Row:
    split = as_text(_cell(line, columns.split)).strip()
    image = as_text(_cell(line, columns.image)).strip()
    if is_address(image):
        more |= {"also": paths_of(image), "loose": True}
    elif folder := as_text(_cell(line, columns.folder)).strip():
        more |= {"also": (folder if is_image(folder) else f"{folder}/{image}", image)}
    return Row(line.place, image, tuple(words), split=split or None, **more)


def _rows_of_words(
    source: Path, width: int, columns: Columns, lines: Sequence[Line], known: Collection[str]
) -> tuple[tuple[Row, ...], list[str]]:
    """Rows of a table whose cells hold the names of classes; and how they are separated."""

    def cells(line: Line) -> list[Any]:
        """Those of labels, and what stands behind the last column, as Excel splits at ";"."""
        return [*(_cell(line, number) for number in columns.labels), *line.cells[width:]]

    read = [[listed(cell) for cell in cells(line)] for line in lines]
    texts = [
        as_text(cell)
        for line, lists in zip(lines, read, strict=True)
        for cell, found in zip(cells(line), lists, strict=True)
        if found is None
    ]
    separator = Separator(texts, known)
    rows = []
    for line, lists in zip(lines, read, strict=True):
        words: list[str] = []
        for cell, found in zip(cells(line), lists, strict=True):
            words += separator.split(as_text(cell)) if found is None else found
        rows.append(_row(line, columns, [word for word in words if word]))
    example = next((text for text in texts if separator.sign in text), "")
    if separator.sign == ";" or not example:
        return tuple(rows), []
    return tuple(rows), [
        f"{printable(source.name)}: labels in a cell are separated by"
        f" {quoted(separator.sign)}, as in {quoted(example.strip()[:60])}."
    ]


def _rows_of_marks(
    source: Path,
    heads: Sequence[str],
    columns: Columns,
    lines: Sequence[Line],
    faults: Sequence[tuple[int, str]],
    notices: list[str],
) -> LabelRows:
    """Rows of a table with a column of yes and no for each class."""
    unlabelled = [n for n in columns.classes if plain(heads[n]) in _UNLABELLED]
    named = [number for number in columns.classes if number not in unlabelled]
    cells = (_cell(line, number) for line in lines for number in named)
    blanks_mean_no = all(truth(cell) is not False for cell in cells)
    rows: list[Row] = []
    wrong: list[tuple[int, str]] = []
    waiting, left, empty = list(faults), 0, 0
    for number, line in enumerate(lines):
        while waiting and waiting[0][0] <= number:
            wrong.append((len(rows), waiting.pop(0)[1]))
        words = []
        for column in named:
            cell = _cell(line, column)
            on = truth(cell)
            if on is None and not (blanks_mean_no and not as_text(cell).strip()):
                found = quoted(as_text(cell)[:40]) if as_text(cell).strip() else "nothing"
                wrong.append(
                    (
                        len(rows),
                        f"{line.place}: the column {quoted(heads[column])} has {found}, but 0 or 1"
                        " (or yes or no) is expected. Correct it, or remove the column if it is no"
                        " class.",
                    )
                )
            words += [heads[column].strip()] if on else []
        if not words and any(truth(_cell(line, column)) for column in unlabelled):
            left += 1
            continue
        empty += not words
        rows.append(_row(line, columns, words, shows_none=not words))
    wrong += [(len(rows), text) for _, text in waiting]
    if left:
        notices.append(
            f"{printable(source.name)}: {counted(left, 'image', 'images')} left out, which"
            f" {quoted(heads[unlabelled[0]])} marks."
        )
    if empty:
        notices.append(
            f"{printable(source.name)}: {counted(empty, 'image shows', 'images show')} none of the"
            " classes, by a row without a mark."
        )
    classes = tuple(heads[number].strip() for number in named if heads[number] != NO_CLASS)
    shown = ", ".join(map(quoted, classes[:10])) + (", ..." if classes[10:] else "")
    notices.append(f"{printable(source.name)}: the columns of yes and no are classes: {shown}.")
    return LabelRows(source, tuple(rows), tuple(wrong), classes, notices=tuple(notices))
