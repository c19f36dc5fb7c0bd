"""failures.csv: files that a run could not use, with the reason; the run goes on without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssrseg.data.csv_lines import csv_line, rows_by_name
from ssrseg.data.files import write_text, writing

EXIT_CODE = 3
"""Of a command that finished, though some files failed."""

FILE = "failures.csv"
_SHOWN = 10


@dataclass(frozen=True)
class Failure:
    """One file that failed.

    Attributes:
        name: Of its sample.
        image: The photograph, whatever of it is faulty; text if it is in a store.
        reason: One paragraph that names the file and the cure.
    """

    name: str
    image: Path | str
    reason: str


def write_failures(folder: Path, failures: Sequence[Failure]) -> None:
    """Write ``failures.csv`` into a folder, or remove it if nothing failed.

    Raises:
        OutputError: If it cannot be written.
    """
    path = folder / FILE
    if not failures:
        with writing(path):
            path.unlink(missing_ok=True)
        return
    write_text(path, failures_text(failures))


def failures_text(failures: Sequence[Failure]) -> str:
    """The whole table."""
    rows = [("name", "image", "reason")]
    rows += [(each.name, str(each.image), each.reason) for each in failures]
    return "".join(map(csv_line, rows))


def read_failures(folder: Path) -> tuple[Failure, ...]:
    """What ``write_failures`` has written; nothing if there is no such file.

    Raises:
        DataError: If it is no such table.
    """
    rows = rows_by_name(folder / FILE)
    return tuple(
        Failure(name, Path(row.get("image", "")), row.get("reason", ""))
        for name, row in rows.items()
    )


def describe_failures(folder: Path, failures: Sequence[Failure]) -> list[str]:
    """What to tell at the end of a run; nothing if nothing failed."""
    if not failures:
        return []
    plural = "file" if len(failures) == 1 else "files"
    lines = [f"{len(failures)} {plural} could not be used (all in {folder / FILE}):"]
    lines += [f"  {each.reason}" for each in failures[:_SHOWN]]
    if failures[_SHOWN:]:
        lines.append(f"  ... and {len(failures) - _SHOWN} more.")
    return lines
