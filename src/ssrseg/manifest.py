"""manifest.csv: a line per mask for people: what it was made for, and what it does not show."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ssrseg.data.files import atomic_write, writing
from ssrseg.data.sample import Sample
from ssrseg.errors import DataError

COLUMNS = ("name", "labels", "absent", "mask", "photo", "made_by")
FILE = "manifest.csv"


class Manifest:
    """The table of a folder of masks, appended line by line; the later line of a name counts.

    ``absent`` names the labels without a pixel: images to look at first; ``photo`` is the digest of
    the photograph's content, and ``made_by`` is ``ssrseg``, or ``person`` for a corrected mask.
    Columns of the user's own are not kept.

    Raises:
        DataError: If the file is no longer as it was written.
        OutputError: If it cannot be written.
    """

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self.path, self.classes = path, classes
        self._rows: dict[str, dict[str, str]] = {}
        if path.is_file():
            self._read()
        self.write()

    def _read(self) -> None:
        try:
            # Excel adds a mark; names that are not UTF-8 keep their bytes
            text = self.path.read_bytes().decode("utf-8-sig", "surrogateescape")
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror or error}).") from error
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            found = reader.fieldnames or ()
            rows = list(reader)
        except csv.Error as error:
            raise self._foreign(str(error)) from error
        if not set(COLUMNS) <= set(found):
            raise self._foreign(f'it begins with "{",".join(found)[:80]}"')
        for row in rows:
            values = {column: row[column] for column in COLUMNS}
            # a line cut short by a kill is written again
            if None not in values.values() and values["mask"] == mask_path(values["name"]):
                self._rows[values["name"]] = values

    def _foreign(self, reason: str) -> DataError:
        return DataError(
            f'{self.path} is not as ssrseg writes it: {reason} instead of "{",".join(COLUMNS)}" (a'
            " spreadsheet may have saved it with other separators). Mend it, or delete it: masks"
            " that are done, and corrections by hand, are known without it."
        )

    def write(self) -> None:
        """Write the table anew, a line per mask."""
        with atomic_write(self.path) as temporary, _table(temporary, "w") as writer:
            writer.writeheader()
            writer.writerows(self._rows.values())

    def add(
        self, sample: Sample, ids: UInt8[Tensor, "height width"], photo: str, made_by: str
    ) -> None:
        """Append the line of a mask that has been written; labels i have id i + 1 in it."""
        pixels = torch.bincount(ids.flatten(), minlength=256)
        absent = self._names(index for index in sample.labels if not pixels[index + 1])
        labels, mask = self._names(sample.labels), mask_path(sample.name)
        values = (sample.name, labels, absent, mask, photo, made_by)
        row = dict(zip(COLUMNS, values, strict=True))
        if self._rows.get(sample.name) != row:
            self._rows[sample.name] = row
            with writing(self.path), _table(self.path, "a") as writer:
                writer.writerow(row)

    def photo(self, name: str) -> str | None:
        """Digest of the photograph that a mask was made for, if that is known."""
        return self._rows[name]["photo"] if name in self._rows else None

    def absent(self, samples: Iterable[Sample]) -> dict[str, tuple[str, ...]]:
        """Labels that the masks of these images lack, by name of the image."""
        rows = (self._rows[sample.name] for sample in samples if sample.name in self._rows)
        return {row["name"]: tuple(row["absent"].split(";")) for row in rows if row["absent"]}

    def _names(self, labels: Iterable[int]) -> str:
        return ";".join(self.classes[index] for index in labels)


def mask_path(name: str) -> str:
    """Where the mask of a sample lies in its folder."""
    return f"masks/{name}.png"


@contextmanager
def _table(path: Path, mode: str) -> Iterator[csv.DictWriter[str]]:
    with path.open(mode, newline="", encoding="utf-8", errors="surrogateescape") as file:
        yield csv.DictWriter(file, COLUMNS, lineterminator="\n")
