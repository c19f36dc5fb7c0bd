"""log.csv: one row per iteration, for people to plot."""

from __future__ import annotations

import csv
from pathlib import Path

from torch import Tensor

from ssrseg.data.files import atomic_write

FIELDS = ("iteration", "loss", "proto", "seg", "temperature", "purity", "lr", "pseudo_miou")


EVERY = 10
"""Rows written at once: reading a loss makes the host wait for the device."""


class Log:
    """Appends rows; those after the iteration a run resumes from are dropped.

    Attributes:
        path: The file.
        last: The last row that was written.
    """

    def __init__(self, path: Path, first: int) -> None:
        """Open ``path``, keeping rows up to iteration ``first``."""
        self.path = path
        self._waiting: list[dict[str, float | Tensor]] = []
        rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [
                    row
                    for row in csv.DictReader(file)
                    if row[FIELDS[-1]] and int(row["iteration"]) <= first  # cut short by a kill
                ]
        with (
            atomic_write(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
        self.last = {key: float(value) for key, value in rows[-1].items()} if rows else {}

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *fault: object) -> None:
        """Write what is waiting, also where a fault ends the run."""
        self.flush()

    def add(self, row: dict[str, float | Tensor]) -> None:
        """Take a row whose values may still be on their way; written every ten rows, see flush."""
        self._waiting.append(row)
        if len(self._waiting) >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        rows = [{key: float(value) for key, value in row.items()} for row in self._waiting]
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, FIELDS).writerows(
                {key: f"{value:.9g}" for key, value in row.items()} for row in rows
            )
        self.last = rows[-1] if rows else self.last
        self._waiting.clear()
