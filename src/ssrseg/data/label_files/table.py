"""Tables in text files, as spreadsheets and scripts write them: CSV, TSV and their kin.

    image,labels                     image;cat;dog
    images/a.jpg,cat;dog             images/a.jpg;1;0
    images/b.jpg,none                images/b.jpg;0;0

``none`` says that an image shows none of the classes, as a row of zeros does; an empty label is an
error, because it is what a forgotten image looks like.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from ssrseg.console import printable
from ssrseg.data.csv_lines import plain_cell
from ssrseg.data.label_files.columns import (
    Line,
    has_image,
    is_image,
    is_labels,
    may_be_labels,
    rows_of_table,
)
from ssrseg.data.label_files.rows import LabelRows
from ssrseg.data.text import read_text, split_lines
from ssrseg.errors import LabelsError

_PADDING = " \t\n,;|"  # Excel pads short rows with delimiters up to the longest row
_DELIMITERS = ",;\t|"


def read_table(path: Path, known: Collection[str] = ()) -> LabelRows:
    """The rows of a table.

    Commas, semicolons, tabs or bars as column separators, quotation marks, a byte order mark,
    UTF-16, Windows line ends and blank lines are accepted.

    Args:
        path: The file.
        known: Keys of the classes, if there is a list; their names may hold a separator.

    Raises:
        LabelsError: If it is no text or no table with images and labels.
    """
    if path.is_dir():
        masks = sum(name.lower().endswith(".png") for name in os.listdir(path))
        inside = f" with {masks} .png files (masks?)" if masks else ""
        raise LabelsError(
            f"{path} is a folder{inside}, but a label file is expected here: a text file with the"
            " header image,labels and one line per image. SSR learns from class names only, never"
            " from masks."
        )
    lines = split_lines(read_text(path))
    head, delimiter = _head(lines)
    if head is None:
        cure = 'Write the header "image,labels" and one line per image.'
        raise LabelsError(f"{path} is empty. {cure}")
    heads = _heads(lines[head], delimiter)
    below, faults = _below(lines, head, heads, delimiter)
    first = below[0].cells if below else ()
    if not heads[1:] or any(map(is_image, heads)) or not has_image(heads, first):
        shown = f'should be the header "image,labels" but reads "{_shown(lines[head])}"'
        cure = "Replace it by the header."
        if any(map(is_image, heads)):
            cure = "Add the header above it."
        raise LabelsError(f"{path} line {head + 1} {shown}. {cure}")
    try:
        return rows_of_table(path, heads, below, known=known, faults=faults)
    except LabelsError as error:
        raise LabelsError(f"{path} line {head + 1} {error}") from error


def is_table(path: Path, text: str) -> bool:
    """True if the beginning of a file looks like labels."""
    lines = split_lines(text)
    head, delimiter = _head(lines)
    if head is None:
        return False
    heads = _heads(lines[head], delimiter)
    below, _ = _below(lines[: head + 20], head, heads, delimiter)
    return bool(heads[1:]) and may_be_labels(heads, [line.cells for line in below])


def _head(lines: Sequence[str]) -> tuple[int | None, str]:
    """The number of the line with the header, from 0, and the delimiter of columns."""
    head = next((n for n, line in enumerate(lines) if line.strip(_PADDING)), None)
    if head is None:
        return None, ","
    told = re.fullmatch(r"\s*sep=(.)\s*", lines[head])  # for Excel
    if told:
        head = next((n for n in range(head + 1, len(lines)) if lines[n].strip(_PADDING)), None)
        return head, told[1]
    found = {mark: _heads(lines[head], mark) for mark in _DELIMITERS}
    good = [mark for mark in _DELIMITERS if has_image(found[mark]) and found[mark][1:]]
    return head, max(good or _DELIMITERS, key=lambda mark: len(found[mark]))


def _heads(line: str, delimiter: str) -> list[str]:
    """Headings; without those that pad the line."""
    try:
        row = next(csv.reader([line.rstrip(_PADDING)], delimiter=delimiter), [])
    except csv.Error:
        return []
    return [plain_cell(cell.strip(" \"'")) for cell in row]


def _below(
    lines: Sequence[str], head: int, heads: Sequence[str], delimiter: str
) -> tuple[list[Line], list[tuple[int, str]]]:
    """The lines below the header, split into cells; and faults, before which line each."""
    found: list[Line] = []
    faults: list[tuple[int, str]] = []
    for number, text in enumerate(lines[head + 1 :], head + 2):
        # Line by line, so that a quotation mark left open does not swallow the rest of the file.
        try:
            row = next(csv.reader([text], delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            cure = "Check the quotation marks: a cell has none, or one at either end."
            faults.append(
                (
                    len(found),
                    f"line {number}: {error} in {text.strip()[:80]}. {cure}",
                )
            )
            continue
        cells = [plain_cell(cell.strip()) for cell in row]
        # a cell of labels that were separated by ";", too
        is_split = delimiter == ";" and bool(heads) and is_labels(heads[-1])
        if not is_split and any(cells[len(heads) :]):
            shown = f'"{delimiter.join(cells)[:80]}" has {len(cells)} columns instead of'
            cure = f"""Separate labels by "{"," if delimiter == ";" else ";"}"."""
            faults.append((len(found), f"line {number}: {shown} {len(heads)}. {cure}"))
        elif any(cells):
            found.append(Line(f"line {number}", cells))
    return found, faults


def _shown(line: str) -> str:
    return printable(line.strip()[:80])
