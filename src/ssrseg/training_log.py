"""log.csv: one row per iteration, for people to plot."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ssrseg.data.files import write_text

FIELDS = ("iteration", "loss", "proto", "seg", "temperature", "purity", "lr", "pseudo_miou")

EVERY = 10
"""Rows written at once: reading a loss makes the host wait for the device."""


class Log:
    """Appends rows to a file; ``last`` is the last row that was written."""

    def __init__(self, path: Path, first: int) -> None:
        """Open ``path``; rows after iteration ``first``, from which a run goes on, are dropped."""
        self.path = path
        self._waiting: list[dict[str, float | Tensor]] = []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        whole = [line for line in lines[1:] if line.endswith("\n")]  # a kill may cut the last one
        kept = [line for line in whole if int(line.partition(",")[0]) <= first]
        write_text(path, "".join([",".join(FIELDS) + "\n", *kept]))
        last = kept[-1].split(",") if kept else []
        self.last = {name: float(value) for name, value in zip(FIELDS, last, strict=False)}

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
        with self.path.open("a", encoding="utf-8") as file:
            for row in self._waiting:
                self.last = {name: float(row[name]) for name in FIELDS}
                file.write(",".join(f"{value:.9g}" for value in self.last.values()) + "\n")
        self._waiting.clear()
