"""log.csv: one row per iteration, for people to plot."""

from __future__ import annotations

import csv
from pathlib import Path

from ssrseg.data.files import atomic_write

FIELDS = ("iteration", "loss", "proto", "seg", "temperature", "purity", "lr", "pseudo_miou")


class Log:
    """Appends rows; those after the iteration a run resumes from are dropped."""

    def __init__(self, path: Path, first: int) -> None:
        """Open ``path``, keeping rows up to iteration ``first``."""
        self.path = path
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

    def write(self, row: dict[str, float]) -> None:
        """Append; an interrupted run loses no row."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, FIELDS).writerow(
                {key: f"{value:.9g}" for key, value in row.items()}
            )
