"""manifest.csv: which labels a pseudo mask was made for, and which of them it does not show."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ssrseg.data.files import atomic_write
from ssrseg.data.sample import Sample
from ssrseg.errors import DataError

COLUMNS = ("name", "labels", "absent", "mask")


class Manifest:
    """A line per mask, appended when the mask is there: one for other labels is not skipped.

    ``absent`` names the labels without a pixel: images to look at first. Columns of the user's own
    are not kept.

    Raises:
        DataError: If the file lacks a column.
    """

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self.path, self.classes = path, classes
        self._rows: dict[str, dict[str, str]] = {}
        if path.is_file():
            with path.open(newline="", encoding="utf-8-sig") as file:  # Excel adds a mark
                reader = csv.DictReader(file)
                found = reader.fieldnames or ()
                if not set(COLUMNS) <= set(found):
                    raise DataError(
                        f'{path} is not as ssrseg writes it: it begins with "{",".join(found)}"'
                        f' instead of "{",".join(COLUMNS)}" (a spreadsheet may have saved it with'
                        " other separators). Without it the masks beside it would be made anew,"
                        " corrections by hand included. Mend it, or delete it if they may."
                    )
                for row in reader:
                    values = {column: row[column] for column in COLUMNS}
                    # a line cut short by a kill is made again
                    if None not in values.values() and values["mask"] == _mask(values["name"]):
                        self._rows[values["name"]] = values
        self.write()

    def write(self) -> None:
        """Write the table anew, a line per mask."""
        with (
            atomic_write(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows.values())

    def has(self, sample: Sample) -> bool:
        """True if the mask of this image was made for these labels."""
        row = self._rows.get(sample.name)
        return row is not None and row["labels"] == self._names(sample.labels)

    def add(self, sample: Sample, pseudo_mask: UInt8[Tensor, "height width"]) -> None:
        """Append the line of a mask that has been written; labels i have id i + 1 in it."""
        pixels = torch.bincount(pseudo_mask.flatten(), minlength=256)
        absent = self._names(index for index in sample.labels if not pixels[index + 1])
        values = (sample.name, self._names(sample.labels), absent, _mask(sample.name))
        self._rows[sample.name] = row = dict(zip(COLUMNS, values, strict=True))
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)

    def absent(self, samples: Iterable[Sample]) -> dict[str, tuple[str, ...]]:
        """Labels that the masks of these images lack, by name of the image."""
        found = {sample.name: self._rows[sample.name]["absent"] for sample in samples}
        return {name: tuple(words.split(";")) for name, words in found.items() if words}

    def _names(self, labels: Iterable[int]) -> str:
        return ";".join(self.classes[index] for index in labels)


def _mask(name: str) -> str:
    return f"masks/{name}.png"
