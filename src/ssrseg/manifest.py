"""manifest.csv: a line per mask for people: what it was made for, and what it does not show."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import UInt8
from torch import Tensor

from ssrseg.console import note
from ssrseg.data.classes import NO_CLASS
from ssrseg.data.csv_lines import csv_line, csv_rows, rows_by_name
from ssrseg.data.files import content_digest, write_text, writing
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.errors import DataError, counted
from ssrseg.review import Review

COLUMNS = (
    "name", "labels", "absent", "mask", "image", "photo", "made_by", "score", "reasons",
    "given_labels", "decision", "decided_on",
)  # fmt: skip
FILE = "manifest.csv"
ACCEPTED, REJECTED = "accepted", "rejected"

_LATER = {"image", "score", "reasons", "given_labels", "decision", "decided_on"}
"""Columns that earlier versions did not write: a table without them is read."""


class Manifest:
    """The table of a folder of masks, appended line by line; the later line of a name counts.

    ``absent`` names the labels without a pixel; ``image`` is the photograph's path from the folder
    of the table, ``photo`` the digest of its content, and ``made_by`` is ``ssrseg``, or ``person``
    for a corrected mask. ``score`` and ``reasons`` are those of its review, empty for a person's.
    ``given_labels`` are those of the data where a person has corrected them (``none`` = the image
    had none), else empty. ``decision`` is what a person has decided on the mask whose file has the
    digest ``decided_on``: ``accepted``, ``rejected`` or nothing. Columns of the user's own are not
    kept.

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
        write_text(self.path, manifest_text(self._rows))

    def add(
        self,
        sample: Sample,
        ids: UInt8[Tensor, "height width"],
        photo: str,
        made_by: str,
        review: Review | None = None,
        *,
        given: Iterable[int] | None = None,
    ) -> None:
        """Append the line of a mask that has been written; labels i have id i + 1 in it.

        A decision on just this mask stays.

        Args:
            ids: The mask, or each id that it shows once.
            given: The labels of the data, if a person may have corrected them; None = they have
                not, unless to the same labels before.
        """
        pixels = torch.bincount(ids.flatten(), minlength=256)
        absent = self._names(index for index in sample.labels if not pixels[index + 1])
        labels, mask = self._names(sample.labels), mask_path(sample.name)
        image = _path_from(self.path.parent, sample.image)
        score = "" if review is None else f"{review.score:.3f}"
        reasons = "" if review is None else ";".join(review.reasons)
        earlier = self._rows.get(sample.name, {})
        if given is not None:
            before = self._names(given)
            given_labels = "" if before == labels else before or NO_CLASS
        else:
            given_labels = earlier["given_labels"] if earlier.get("labels") == labels else ""
        decision = self.decision(sample.name)
        decided_on = earlier["decided_on"] if decision else ""
        values = (sample.name, labels, absent, mask, image, photo, made_by, score, reasons,
                  given_labels, decision, decided_on)  # fmt: skip
        self._append(dict(zip(COLUMNS, values, strict=True)))

    def _append(self, row: dict[str, str]) -> None:
        """Write a line, unless it is there; it is on the disk when this returns."""
        if self._rows.get(row["name"]) != row:
            line = csv_line(row.values()).encode("utf-8", "surrogateescape")
            with writing(self.path), self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._rows[row["name"]] = row

    def decide(self, name: str, decision: str) -> None:
        """Keep what a person has decided on a mask as it is now; '' takes a decision back."""
        digest = content_digest(self._mask(name)) if decision else ""
        self._append(self._rows[name] | {"decision": decision, "decided_on": digest})

    def decision(self, name: str) -> str:
        """What a person has decided on a mask; '' if nothing, or on another mask than is there."""
        return decision_on(self._mask(name), self._rows.get(name, {}))

    def _mask(self, name: str) -> Path:
        return self.path.parent / mask_path(name)

    def by_person(self, samples: Iterable[Sample]) -> list[str]:
        """Names of the masks of these images that a person has corrected or accepted."""
        names = (sample.name for sample in samples if sample.name in self._rows)
        return [
            name
            for name in names
            if self._rows[name]["made_by"] == "person" or self.decision(name) == ACCEPTED
        ]

    @property
    def rows(self) -> Mapping[str, Mapping[str, str]]:
        """The lines by name, cells by column."""
        return MappingProxyType(self._rows)

    def forget(self, name: str) -> None:
        """Leave out the line of a mask that is gone, when the table is next written.

        Of labels that a person has corrected these stay.
        """
        row = self._rows.pop(name, {})
        if row.get("given_labels"):
            kept = ("name", "labels", "mask", "image", "given_labels")
            self._rows[name] = {column: row[column] * (column in kept) for column in COLUMNS}

    def photo(self, name: str) -> str | None:
        """Digest of the photograph that a mask was made for, if that is known."""
        return self._rows[name]["photo"] or None if name in self._rows else None

    def absent(self, samples: Iterable[Sample]) -> dict[str, tuple[str, ...]]:
        """Labels that the masks of these images lack, by name of the image."""
        rows = (self._rows[sample.name] for sample in samples if sample.name in self._rows)
        return {row["name"]: tuple(row["absent"].split(";")) for row in rows if row["absent"]}

    def _names(self, labels: Iterable[int]) -> str:
        return ";".join(self.classes[index] for index in labels)


def manifest_text(rows: Mapping[str, Mapping[str, str]]) -> str:
    """A whole table, a line per mask, by name.

    Args:
        rows: Cells by column, by name; a column that is not there is empty.
    """
    cells = ([row.get(column, "") for column in COLUMNS] for _, row in sorted(rows.items()))
    return "".join(map(csv_line, (COLUMNS, *cells)))


def decision_on(mask: Path, row: Mapping[str, str]) -> str:
    """What a person has decided on a mask, by its line; '' if nothing, or on an earlier one."""
    decision = row.get("decision", "")
    if decision not in (ACCEPTED, REJECTED) or not mask.is_file():
        return ""
    return decision if content_digest(mask) == row.get("decided_on") else ""


def with_corrected_labels(data: LabelledImages, folder: Path) -> LabelledImages:
    """Data with the labels that a person has corrected in a folder of their masks.

    A correction holds as long as the data give an image the labels that were corrected.
    """
    index = {name: place for place, name in enumerate(data.classes)}
    samples, changed, corrected = [], [], 0
    rows = rows_by_name(folder / FILE)
    for sample in data.samples:
        row = rows.get(sample.name, {})
        given = _indices(row.get("given_labels", ""), index)
        labels = _indices(row.get("labels", ""), index)
        if row.get("given_labels") and sample.labels != labels:
            if given == sample.labels and labels is not None:
                sample, corrected = replace(sample, labels=labels), corrected + 1
            else:
                changed.append(sample.name)
        samples.append(sample)
    if corrected:
        images = counted(corrected, "image", "images")
        note(f"{images} with the labels that were corrected in review ({folder / FILE}).")
    if changed:
        images = counted(len(changed), "image has", "images have")
        note(
            f"{images} other labels in the data than when they were corrected in review, such as"
            f" {changed[0]}: those of the data are used."
        )
    return replace(data, samples=tuple(samples)) if corrected else data


def _indices(names: str, index: Mapping[str, int]) -> tuple[int, ...] | None:
    """Class indices of a cell of labels, ascending; None if a name is no class now."""
    words = [] if names == NO_CLASS else [word for word in names.split(";") if word]
    return tuple(sorted(index[word] for word in words)) if set(words) <= index.keys() else None


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
