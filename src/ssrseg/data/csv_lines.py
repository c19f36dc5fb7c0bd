"""CSV that a spreadsheet may open: a name such as ``=cmd()`` stays a name there."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path

from ssrseg.errors import DataError

# where a formula begins: in a cell, or in what is one for a spreadsheet that splits at ";" or tabs;
# also behind apostrophes, so that reading takes away what writing put
_PLACE = "(?:\\A|(?<=[;\t\r\n]))"
_FORMULA = "(?='*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20])"
_BARE, _GUARDED = re.compile(_PLACE + _FORMULA), re.compile(f"{_PLACE}'{_FORMULA}")
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


def csv_line(cells: Iterable[object]) -> str:
    """One line; a text that a spreadsheet would calculate gets an apostrophe before it.

    So does each of several joined by ";". ``csv_rows`` takes it away again. Numbers stay as they
    are.
    """
    file = io.StringIO()
    # its \r\n makes the writer put cells with a lone \r into quotes
    csv.writer(file, lineterminator="\r\n").writerow(_guarded(str(cell)) for cell in cells)
    return file.getvalue().removesuffix("\r\n") + "\n"


def csv_rows(text: str) -> list[list[str]]:
    """The cells of every line as ``csv_line`` was given them; without blank lines.

    Raises:
        DataError: If a cell is longer than 131,072 characters, as behind a lone quotation mark; a
            clause that says in which line.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        return [[plain_cell(cell) for cell in row] for row in reader if row]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num}: {error}") from error


def rows_by_name(path: Path) -> dict[str, dict[str, str]]:
    """The lines of a table by their column ``name``; none if it is not there.

    Raises:
        DataError: If it is no such table.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
        head, *rows = csv_rows(text) or [["name"]]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    except DataError as error:
        raise DataError(f"{path} is damaged: {error}. Save it as CSV, or delete it.") from error
    if "name" not in head:
        raise DataError(
            f'{path} has no column "name" (a spreadsheet may have saved it in another form). Save'
            " it as CSV in UTF-8, or delete it."
        )
    tables = (dict(zip(head, row, strict=False)) for row in rows)
    return {row["name"]: row for row in tables if "name" in row}


def _guarded(cell: str) -> str:
    return cell if _NUMBER.fullmatch(cell) else _BARE.sub("'", cell)


def plain_cell(cell: str) -> str:
    """A cell without the apostrophes that ``csv_line`` put before what looks like formulas."""
    return _GUARDED.sub("", cell)
