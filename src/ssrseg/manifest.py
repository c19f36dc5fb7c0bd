"""manifest.csv: a line per mask for people: what it was made for, and what it does not show."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ssrseg.data.csv_lines import csv_line, csv_rows
from ssrseg.data.files import write_text, writing
from ssrseg.data.sample import Sample
from ssrseg.errors import DataError
from ssrseg.review import Review

COLUMNS = (
    "name", "labels", "absent", "mask", "image", "photo", "made_by", "score", "reasons",
)  # fmt: skip
FILE = "manifest.csv"

_LATER = {"image", "score", "reasons"}
"""Columns that version 0.1 did not write: a table without them is read."""


class Manifest:
    """The table of a folder of masks, appended line by line; the later line of a name counts.

    ``absent`` names the labels without a pixel; ``image`` is the photograph's path from the folder
    of the table, ``photo`` the digest of its content, and ``made_by`` is ``ssrseg``, or ``person``
    for a corrected mask. ``score`` and ``reasons`` are those of its review, empty for a person's.
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
        try:
            head, *rows = csv_rows(text) or [list(COLUMNS)]  # an empty file says nothing
        except DataError as error:
            raise self._foreign(str(error)) from error
        if not set(COLUMNS) - _LATER <= set(head):
            raise self._foreign(f'it begins with "{",".join(head)[:80]}"')
        for row in rows:
            found = dict(zip(head, row, strict=False))
            # a line cut short by a kill is written again
            if len(row) >= len(head) and found["mask"] == mask_path(found["name"]):
                if any("\udc80" <= char <= "\udcff" for char in found["name"]):
                    self._refuse_other_encoding(found["name"])
                if not re.fullmatch("[0-9a-f]{16}", found["photo"]):  # such as 1.2E+15
                    found["photo"] = ""
                self._rows[found["name"]] = {column: found.get(column, "") for column in COLUMNS}

    def _refuse_other_encoding(self, name: str) -> None:
        """Tell a name that is not UTF-8 from one that a spreadsheet has written in its own way."""
        written = name.encode("utf-8", "surrogateescape")
        for encoding in ("cp1252", "mac_roman"):
            if (self.path.parent / mask_path(written.decode(encoding, "ignore"))).exists():
                raise self._foreign(f"it holds names in another encoding ({encoding})")

    def _foreign(self, reason: str) -> DataError:
        return DataError(
            f'{self.path} is not as ssrseg writes it: {reason} instead of "{",".join(COLUMNS)}" (a'
            " spreadsheet may have saved it in another form). Save it as CSV in UTF-8, or delete"
            " it: masks that are done, and corrections by hand, are known without it, but no longer"
            " for which photograph a correction was made."
        )

    def write(self) -> None:
        """Write the table anew, a line per mask, by name: however often a run was stopped."""
        rows = (COLUMNS, *(row.values() for _, row in sorted(self._rows.items())))
        write_text(self.path, "".join(map(csv_line, rows)))

    def add(
        self,
        sample: Sample,
        ids: UInt8[Tensor, "height width"],
        photo: str,
        made_by: str,
        review: Review | None = None,
    ) -> None:
        """Append the line of a mask that has been written; labels i have id i + 1 in it.

        Args:
            ids: The mask, or each id that it shows once.
        """
        pixels = torch.bincount(ids.flatten(), minlength=256)
        absent = self._names(index for index in sample.labels if not pixels[index + 1])
        labels, mask = self._names(sample.labels), mask_path(sample.name)
        image = _path_from(self.path.parent, sample.image)
        score = "" if review is None else f"{review.score:.3f}"
        reasons = "" if review is None else ";".join(review.reasons)
        values = (sample.name, labels, absent, mask, image, photo, made_by, score, reasons)
        row = dict(zip(COLUMNS, values, strict=True))
        if self._rows.get(sample.name) != row:
            self._rows[sample.name] = row
            line = csv_line(values).encode("utf-8", "surrogateescape")
            with writing(self.path), self.path.open("ab") as file:
                file.write(line)

    def forget(self, name: str) -> None:
        """Leave out the line of a mask that is gone, when the table is next written."""
        self._rows.pop(name, None)

    def photo(self, name: str) -> str | None:
        """Digest of the photograph that a mask was made for, if that is known."""
        return self._rows[name]["photo"] or None if name in self._rows else None

    def absent(self, samples: Iterable[Sample]) -> dict[str, tuple[str, ...]]:
        """Labels that the masks of these images lack, by name of the image."""
        rows = (self._rows[sample.name] for sample in samples if sample.name in self._rows)
        return {row["name"]: tuple(row["absent"].split(";")) for row in rows if row["absent"]}

    def _names(self, labels: Iterable[int]) -> str:
        return ";".join(self.classes[index] for index in labels)


def _path_from(folder: Path, file: Path) -> str:
    """A file's path as seen from a folder, with ``/``; absolute on another Windows drive.

    ``..`` leaves the folder where it really lies, so links on the way are followed; the file itself
    keeps its name.
    """
    there = os.path.join(os.path.realpath(file.parent), file.name)
    with suppress(ValueError):
        there = os.path.relpath(there, os.path.realpath(folder))
    return Path(there).as_posix()


def mask_path(name: str) -> str:
    """Where the mask of a sample lies in its folder."""
    return f"masks/{name}.png"


def confidence_path(name: str) -> str:
    """Where the confidence of a mask lies in its folder."""
    return f"confidence/{name}.png"
