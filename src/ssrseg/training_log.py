"""log.csv: one row per iteration, for people to plot; the same as TensorBoard's curves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ssrseg.console import note
from ssrseg.data.files import write_text, writing
from ssrseg.errors import DataError, PackageError, counted

FIELDS = ("iteration", "loss", "proto", "seg", "temperature", "purity", "lr", "pseudo_miou")

EVERY = 10
"""Rows written at once: reading a loss makes the host wait for the device."""

_NUMBER = re.compile(r"-?(nan|inf|[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?)")  # as %.9g writes it

Diverged = Callable[[int, Sequence[float], Sequence[int]], Exception]


class Log:
    """Appends rows to a file; ``last`` is the last row that was written."""

    def __init__(
        self, path: Path | None, first: int, diverged: Diverged, curves: Path | None = None
    ) -> None:
        """Open ``path``; rows after iteration ``first``, from which a run goes on, are dropped.

        Args:
            path: The file; rows that are damaged are left out, with a note. None = rows are only
                checked, as another process writes them.
            first: Finished iterations.
            diverged: Makes the fault to raise from the iteration, the numbers that were checked,
                and the images of the first row with such a number that is not finite.
            curves: Folder for TensorBoard's curves; None = no curves.

        Raises:
            DataError: If the file is not ours.
            PackageError: If TensorBoard is wanted and not installed.
        """
        self.path, self._diverged = path, diverged
        self._waiting: list[tuple[dict[str, float | Tensor], Tensor, Sequence[int]]] = []
        kept = [] if path is None else readable_rows(path, first)
        if path is not None:
            write_text(path, "".join([",".join(FIELDS) + "\n", *(f"{row}\n" for row in kept)]))
        self._curves = None if curves is None else Curves(curves)
        self.last: dict[str, float] = {}
        for row in kept if self._curves is not None else kept[-1:]:
            self.last = dict(zip(FIELDS, map(float, row.split(",")), strict=True))
            self._draw(self.last)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, *fault: object) -> None:
        """Write what is waiting, also where a fault ends the run."""
        try:
            self.flush(check=kind is None)
        finally:
            if self._curves is not None:
                self._curves.close()

    def _draw(self, values: Mapping[str, float]) -> None:
        if self._curves is not None:
            self._curves.add(int(self.last["iteration"]), values)

    def add(
        self,
        row: dict[str, float | Tensor],
        checked: Float[Tensor, " numbers"],
        images: Sequence[int],
    ) -> None:
        """Take a row whose values may still be on their way; written every ten rows, see flush.

        Args:
            row: A value for each of ``FIELDS``.
            checked: Numbers that have to be finite.
            images: Rows of the training set that they come from.
        """
        self._waiting.append((row, checked, images))
        if len(self._waiting) >= EVERY:
            self.flush()

    def add_score(self, pseudo_miou: float) -> None:
        """Write the monitor's score into the last row that was written."""
        self.last["pseudo_miou"] = pseudo_miou
        self._draw({"pseudo_miou": pseudo_miou})
        if self.path is None:
            return
        rows = readable_rows(self.path, int(self.last["iteration"]))[:-1]
        lines = [",".join(FIELDS), *rows, self._row(self.last)]
        write_text(self.path, "".join(f"{line}\n" for line in lines))

    @staticmethod
    def _row(values: Mapping[str, float]) -> str:
        return ",".join(f"{value:.9g}" for value in values.values())

    def flush(self, *, check: bool = True) -> None:
        """Write what is waiting; of diverged iterations the first one, and raise its fault."""
        waiting, self._waiting = self._waiting, []
        with ExitStack() as stack:
            file = None
            if self.path is not None:
                stack.enter_context(writing(self.path))
                file = stack.enter_context(self.path.open("a", encoding="utf-8", newline="\n"))
            for row, checked, images in waiting:
                self.last = {name: float(row[name]) for name in FIELDS}
                if file is not None:
                    file.write(f"{self._row(self.last)}\n")
                self._draw(self.last)
                found = checked.tolist()
                if not all(map(math.isfinite, found)):
                    if check:
                        raise self._diverged(int(self.last["iteration"]), found, images)
                    return


class Curves:
    """The columns of a log as curves of TensorBoard.

    A run that goes on draws its earlier rows anew from log.csv, whatever an earlier call has
    drawn, so that no point is there twice and none is missing.
    """

    def __init__(self, folder: Path) -> None:
        """Begin anew in a folder; of what is in it, only TensorBoard's own files are removed.

        Raises:
            PackageError: If TensorBoard is not installed.
        """
        writer = import_tensorboard()
        with writing(folder):
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
            self._writer = writer(str(folder))

    def add(self, iteration: int, values: Mapping[str, float]) -> None:
        """A point of each curve; a value that is not finite has none."""
        for name, value in values.items():
            if name != "iteration" and math.isfinite(value):
                self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Write what is waiting."""
        self._writer.close()


def import_tensorboard() -> Any:
    """The class that writes curves.

    Raises:
        PackageError: If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise PackageError(
            "--tensorboard writes curves for TensorBoard, which is not installed: pip install"
            ' "ssrseg[tensorboard]".'
        ) from error
    return SummaryWriter


def readable_rows(path: Path, first: int) -> list[str]:
    """Rows of iterations up to ``first``, as they stand in the file."""
    if not path.is_file():
        return []
    with writing(path):
        text = path.read_bytes().decode("utf-8", errors="replace").removeprefix("\ufeff")
    head, *rows = [line.rstrip("\r") for line in text.split("\n")]
    if not head.strip("\0"):  # what a power cut leaves of a file
        rows = []
    elif head != ",".join(FIELDS):
        raise DataError(
            f"{path} is not as ssrseg writes it: it begins with {head[:60]!r}. Move it out of the"
            " run folder (a spreadsheet, or another program, may have saved it); the run goes on"
            " without its rows."
        )
    kept, last, damaged = [], 0.0, 0
    for row in rows[:-1]:  # behind the last line break is nothing, or what a kill has cut
        values = _numbers(row)
        if values is None or values[0] <= last:
            damaged += 1
        elif values[0] <= first:
            kept.append(row)
            last = values[0]
    if damaged:
        lines = counted(damaged, "damaged line is", "damaged lines are")
        note(f"{path}: {lines} left out. The run itself goes on unharmed.")
    return kept


def _numbers(row: str) -> list[float] | None:
    """The values of a row, None if it is damaged."""
    words = row.split(",")
    if len(words) != len(FIELDS) or not all(map(_NUMBER.fullmatch, words)):
        return None
    values = [float(word) for word in words]
    return values if values[0].is_integer() and values[0] >= 1 else None
