"""The label file ``labels.csv``: an image and its classes per line.

    image,labels
    images/a.jpg,cat;dog
    images/b.jpg,none

Paths are relative to the folder of the file, or to ``JPEGImages`` or ``images`` in it. ``none``
says that the image shows none of the classes; an empty label is an error, because it is what a
forgotten image looks like.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from ssrseg.console import printable
from ssrseg.data.classes import (
    NO_CLASS,
    ClassList,
    class_fault,
    class_key,
    most_frequent,
    respelled,
    too_many,
)
from ssrseg.data.find_images import ImageFinder
from ssrseg.data.naming import IMAGE_FOLDERS, name_fault, sample_name
from ssrseg.data.text import fault_report, nearest, quoted, read_text, split_lines
from ssrseg.data.walk import SUFFIXES
from ssrseg.errors import LabelsError

_IMAGE_HEADS = frozenset({"image", "images", "file", "filename", "file_name", "path", "image_path"})
_LABEL_HEADS = frozenset({"label", "labels", "class", "classes"})
_PADDING = " \t\n,;"  # Excel pads short rows with delimiters up to the longest row


@dataclass(frozen=True)
class LabelRow:
    """One line of the file: its number from 1, an image and its class indices, ascending.

    The path is below the folder of the file, ``/`` between folders, as found on disk.
    """

    line: int
    image: str
    labels: tuple[int, ...]


@dataclass(frozen=True)
class LabelFile:
    """A label file: the classes, its rows, and what a user should know of how it was read."""

    classes: tuple[str, ...]
    rows: list[LabelRow]
    notices: tuple[str, ...]


def read_labels_csv(path: Path, *, classes: ClassList | None = None) -> LabelFile:
    """Read and check a label file; images are looked up, not opened.

    Semicolons or tabs as column separators, quotation marks, a byte order mark, Windows line ends
    and blank lines are accepted. Labels that differ from a class only in upper and lower case or
    in what cannot be seen are that class.

    Args:
        classes: Those allowed; None = those that occur, sorted.

    Raises:
        LabelsError: With all the faults of the file at once.
    """
    if path.is_dir():
        masks = sum(name.lower().endswith(".png") for name in os.listdir(path))
        inside = f" with {masks} .png files (masks?)" if masks else ""
        raise LabelsError(
            f"{path} is a folder{inside}, but a label file is expected here: a text file with the"
            " header image,labels and one line per image. SSR learns from class names only, never"
            " from masks."
        )
    entries, faults = _entries(path)
    faults += _label_faults(entries, classes)
    images, misplaced = _find_images(path.parent, entries)
    faults = sorted(faults + misplaced, key=lambda fault: fault[0])
    if faults:
        raise LabelsError(fault_report(path, [f"line {line}: {text}" for line, text in faults]))
    if not entries:
        raise LabelsError(f'{path} names no image. Add lines such as "images/a.jpg,cat;dog".')
    words = Counter(word for entry in entries for word in entry.words if word != NO_CLASS)
    names = classes.names if classes else most_frequent(words)
    if not names:
        raise LabelsError(
            f'{path} names no class: every label is "{NO_CLASS}". Name the classes of some images.'
        )
    notices = respelled(words, names)
    if classes is None and names[1:]:
        notices += (
            f"Class ids follow the alphabet: {_ids(names)}. A classes.txt beside {path.name} fixes"
            " another order, and keeps ids as they are when classes are added.",
        )
    index = {class_key(name): number for number, name in enumerate(names)}
    rows = [
        LabelRow(
            entry.line,
            image,
            tuple(sorted({index[class_key(word)] for word in entry.words if word != NO_CLASS})),
        )
        for entry, image in zip(entries, images, strict=True)
    ]
    return LabelFile(names, rows, notices)


def _ids(names: tuple[str, ...]) -> str:
    """``cat = 1, dog = 2`` of the first classes."""
    shown = ", ".join(f"{name} = {number}" for number, name in enumerate(names[:3], 1))
    return f"{shown}, ..." if names[3:] else shown


class _Entry(NamedTuple):
    line: int
    image: str
    words: list[str]


_Fault = tuple[int, str]  # line, and what is wrong there


def _entries(path: Path) -> tuple[list[_Entry], list[_Fault]]:
    """Split the file into lines and cells."""
    lines = split_lines(read_text(path))
    head = next((n for n, line in enumerate(lines) if line.strip(_PADDING)), None)
    if head is None:
        cure = 'Write the header "image,labels" and one line per image.'
        raise LabelsError(f"{path} is empty. {cure}")
    delimiter = _read_header(path, lines[head], head + 1)
    entries: list[_Entry] = []
    faults: list[_Fault] = []
    for line, text in enumerate(lines[head + 1 :], head + 2):
        # Line by line, so that a quotation mark left open does not swallow the rest of the file.
        try:
            row = next(csv.reader([text], delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            cure = "Check the quotation marks: a cell has none, or one at either end."
            faults.append((line, f"{error} in {text.strip()[:80]}. {cure}"))
            continue
        cells = [cell.strip() for cell in row]
        if delimiter != ";" and any(cells[2:]):
            found = f'"{delimiter.join(cells)[:80]}" has {len(cells)} columns instead of 2.'
            faults.append((line, f'{found} Separate labels by ";".'))
        elif any(cells):
            words = [word.strip() for cell in cells[1:] for word in cell.split(";")]
            entries.append(_Entry(line, cells[0], [word for word in words if word]))
    return entries, faults


def _read_header(path: Path, text: str, line: int) -> str:
    """The delimiter of columns, if the header names an image and its labels."""
    heads = {mark: _heads(text, mark) for mark in ",;\t"}
    for mark, cells in heads.items():
        if len(cells) == 2 and cells[0] in _IMAGE_HEADS and cells[1] in _LABEL_HEADS:
            return mark
    shown = f'should be the header "image,labels" but reads "{printable(text.strip()[:80])}"'
    cells = max(heads.values(), key=len)
    if cells[0] in _IMAGE_HEADS and len(cells) > 2:
        if cells[1] in _LABEL_HEADS:
            cure = f"Remove the columns behind {quoted(cells[1])}, here and in all lines; a list of"
            cure += " images is a file of its own, such as train.txt."
        else:
            cure = "If there is a column of 0 and 1 for each class, write the names of those with"
            cure += ' 1 into one column instead: "a.jpg,cat;dog".'
    elif any(suffix in text.casefold() for suffix in SUFFIXES):
        cure = "Add the header above it."
    else:
        cure = "Replace it by the header."
    raise LabelsError(f"{path} line {line} {shown}. {cure}")


def _heads(line: str, delimiter: str) -> list[str]:
    cells = line.strip(_PADDING).split(delimiter)
    return [cell.strip(" \"'").casefold() for cell in cells]


def _label_faults(entries: list[_Entry], classes: ClassList | None) -> list[_Fault]:
    """Unknown, missing and contradictory labels; without a list, labels that can be no classes."""
    faults: list[_Fault] = []
    names = classes.names if classes else ()
    known = {class_key(name) for name in names}
    first: dict[str, _Fault] = {}
    for line, image, words in entries:
        if not words:
            text = f'"{image}" has no label. Name its classes, remove the line, or write'
            faults.append((line, f'{text} "{NO_CLASS}" if the image shows none of the classes.'))
        if NO_CLASS in words and set(words) != {NO_CLASS}:
            text = f'"{NO_CLASS}" stands beside other labels ({";".join(words)}).'
            faults.append((line, f"{text} Remove one or the other."))
        for word in words:
            if word == NO_CLASS or class_key(word) in known:
                continue
            first.setdefault(class_key(word), (line, word))
            # a class may have a comma in its name, if a list says so
            if "," in word and not re.fullmatch(r"\[.*\]", word):
                text = f'the label {quoted(word[:80])} contains ",". Separate labels by ";".'
            elif classes is not None:
                text = f"class {quoted(word)} is not in {classes.source} ({len(names)} names)."
                text += nearest(word, (*names, NO_CLASS), faults)
            else:
                text = class_fault(word)
            if text:
                faults.append((line, text))
    return faults + too_many(first.values() if classes is None else ())


def _find_images(root: Path, entries: list[_Entry]) -> tuple[list[str], list[_Fault]]:
    """Look up every image; missing and repeated ones are faults."""
    finder = ImageFinder(root)
    seen: dict[str, tuple[str, _Entry]] = {}
    found: list[str] = []
    faults: list[_Fault] = []
    for entry in entries:
        image = PurePosixPath(PureWindowsPath(entry.image).as_posix())
        fault = name_fault(image.as_posix() if image.name else "", in_text=True)
        actual = None if fault else _look_up(finder, image)
        problem = ""
        if PureWindowsPath(entry.image).anchor or ".." in image.parts:
            problem = f"is not below {root}. Write paths relative to that folder."
        elif fault:
            problem = f"cannot be: the path {fault}. Write it anew."
        elif actual is None:
            near = nearest(
                image.name,
                finder.names(image.parent.as_posix()),
                faults,
            )
            problem = f"does not exist in {root}.{near}"
            if "\\" in entry.image and _look_up(finder, PurePosixPath(entry.image)):
                problem = (
                    'has "\\" in its name on disk, which separates folders here. Rename the file.'
                )
        else:
            found.append(actual)
            name = sample_name(actual)
            first, twin = seen.setdefault(name, (actual, entry))
            if first != actual:
                problem = (
                    f'and "{twin.image}" (line {twin.line}) have the same name "{name}", without'
                    " suffix, under which results are written. Rename or remove one."
                )
            elif twin is not entry:
                problem = f"is already on line {twin.line}. Keep one line with all its classes."
        if problem:
            faults.append((entry.line, f'image "{entry.image}" {problem}'))
    return found, faults


def _look_up(finder: ImageFinder, image: PurePosixPath) -> str | None:
    """The image's path below the root as it is spelled on disk, if it exists."""
    places = (PurePosixPath(folder, image).as_posix() for folder in ("", *IMAGE_FOLDERS))
    return next((found for place in places if (found := finder.find(place))), None)
