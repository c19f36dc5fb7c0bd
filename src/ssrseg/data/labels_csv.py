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
import io
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from ssrseg.data.classes import NO_CLASS, class_faults
from ssrseg.data.text import fault_report, nearest, read_text
from ssrseg.data.walk import SUFFIXES
from ssrseg.errors import LabelsError

IMAGE_FOLDERS = ("JPEGImages", "images")


@dataclass(frozen=True)
class LabelRow:
    """One line of the file: its number from 1, an image and its class indices, ascending.

    The path is below the folder of the file, ``/`` between folders, as found on disk.
    """

    line: int
    image: str
    labels: tuple[int, ...]


def read_labels_csv(
    path: Path, *, classes: tuple[str, ...] | None, source: str = "the class list"
) -> tuple[tuple[str, ...], list[LabelRow]]:
    """Read and check a label file; images are looked up, not opened.

    Semicolons as column separators (European Excel), quotation marks, a byte order mark, Windows
    line ends and blank lines are accepted.

    Args:
        classes: Names allowed; None = those that occur, sorted.
        source: Where ``classes`` come from, for messages.

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
    faults += _label_faults(entries, classes, source)
    images, misplaced = _find_images(path.parent, entries)
    faults = sorted(faults + misplaced, key=lambda fault: fault[0])
    if faults:
        raise LabelsError(fault_report(path, [f"line {line}: {text}" for line, text in faults]))
    if not entries:
        raise LabelsError(f'{path} names no image. Add lines such as "images/a.jpg,cat;dog".')
    names = classes or tuple(sorted({w for entry in entries for w in entry.words} - {NO_CLASS}))
    if not names:
        raise LabelsError(
            f'{path} names no class: every label is "{NO_CLASS}". Name the classes of some images.'
        )
    index = {name: number for number, name in enumerate(names)}
    rows = [
        LabelRow(entry.line, image, tuple(sorted({index[w] for w in entry.words if w != NO_CLASS})))
        for entry, image in zip(entries, images, strict=True)
    ]
    return names, rows


class _Entry(NamedTuple):
    line: int
    image: str
    words: list[str]


_Fault = tuple[int, str]  # line, and what is wrong there


def _entries(path: Path) -> tuple[list[_Entry], list[_Fault]]:
    """Split the file into lines and cells."""
    lines = list(io.StringIO(read_text(path), newline=None))
    head = next((n for n, line in enumerate(lines) if line.strip(" \t\n,;")), None)
    if head is None:
        cure = 'Write the header "image,labels" and one line per image.'
        raise LabelsError(f"{path} is empty. {cure}")
    delimiter = next((mark for mark in ",;" if _is_header(lines[head], mark)), None)
    if delimiter is None:
        is_data = any(suffix in lines[head].casefold() for suffix in SUFFIXES)
        raise LabelsError(
            f'{path} line {head + 1} should be the header "image,labels" but reads'
            f' "{lines[head].strip()[:80]}". '
            + ("Add the header above it." if is_data else "Replace it by the header.")
        )
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
        if delimiter == "," and any(cells[2:]):
            found = f'"{",".join(cells)}" has {len(cells)} columns instead of 2.'
            faults.append((line, f'{found} Separate labels by ";".'))
        elif any(cells):
            words = [word.strip() for cell in cells[1:] for word in cell.split(";")]
            entries.append(_Entry(line, cells[0], [word for word in words if word]))
    return entries, faults


def _is_header(line: str, delimiter: str) -> bool:
    # Excel pads short rows with delimiters up to the longest row.
    cells = line.strip(" \t\n,;").split(delimiter)
    return [cell.strip(' "').casefold() for cell in cells] == ["image", "labels"]


def _label_faults(
    entries: list[_Entry], classes: tuple[str, ...] | None, source: str
) -> list[_Fault]:
    """Unknown, missing and contradictory labels; without a list, labels that can be no classes."""
    faults: list[_Fault] = []
    named: list[_Fault] = []
    for line, image, words in entries:
        if not words:
            text = f'"{image}" has no label. Name its classes, remove the line, or write'
            faults.append((line, f'{text} "{NO_CLASS}" if the image shows none of the classes.'))
        if NO_CLASS in words and set(words) != {NO_CLASS}:
            text = f'"{NO_CLASS}" stands beside other labels ({";".join(words)}).'
            faults.append((line, f"{text} Remove one or the other."))
        for word in words:
            if word == NO_CLASS or word in (classes or ()):
                continue
            if "," in word:
                faults.append((line, f'the label "{word}" contains ",". Separate labels by ";".'))
            elif classes is not None:
                text = f'class "{word}" is not in {source} ({len(classes)} names).'
                faults.append((line, text + nearest(word, (*classes, NO_CLASS), faults)))
            else:
                named.append((line, word))
    return faults + class_faults(named, repeats=True)


def _find_images(root: Path, entries: list[_Entry]) -> tuple[list[str], list[_Fault]]:
    """Look up every image by one listing per folder; missing and repeated ones are faults."""
    listings: dict[PurePosixPath, dict[str, str]] = {}
    seen: dict[str, tuple[str, _Entry]] = {}
    found: list[str] = []
    faults: list[_Fault] = []
    for entry in entries:
        image = PurePosixPath(PureWindowsPath(entry.image).as_posix())
        problem = ""
        if PureWindowsPath(entry.image).anchor or ".." in image.parts:
            problem = f"is not below {root}. Write paths relative to that folder."
        elif (actual := _look_up(root, image, listings)) is None:
            near = nearest(image.name, listings[image.parent], faults)
            problem = f"does not exist in {root}.{near}"
        else:
            found.append(actual)
            first, twin = seen.setdefault(os.path.splitext(actual)[0], (actual, entry))
            if first != actual:
                problem = (
                    f'and "{twin.image}" (line {twin.line}) have the same name up to the suffix,'
                    " under which results are written. Rename or remove one."
                )
            elif twin is not entry:
                problem = f"is already on line {twin.line}. Keep one line with all its classes."
        if problem:
            faults.append((entry.line, f'image "{entry.image}" {problem}'))
    return found, faults


def _look_up(
    root: Path, image: PurePosixPath, listings: dict[PurePosixPath, dict[str, str]]
) -> str | None:
    """The image's path below ``root`` as it is spelled on disk, if it exists."""
    for folder in ("", *IMAGE_FOLDERS):
        parent = PurePosixPath(folder, image.parent)
        if parent not in listings:
            try:
                names = os.listdir(root / parent)
            except OSError:
                names = []
            # macOS writes "ä" as two characters, most programs as one.
            listings[parent] = {unicodedata.normalize("NFC", name): name for name in names}
        name = listings[parent].get(unicodedata.normalize("NFC", image.name))
        if name is not None:
            return (parent / name).as_posix()
    return None
