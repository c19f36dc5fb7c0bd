"""The tables of the paper as ``published.yaml`` has them: what is printed, and how it is shown."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

import yaml
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

Cells = tuple[float | str | None, ...]
_STRICT = ConfigDict(extra="forbid")  # a misspelt key of the file is an error


@dataclass(frozen=True, config=_STRICT)
class PaperRow:
    """A row of a table.

    Attributes:
        name: The method, or the variant in an ablation.
        cells: Its printed figures in the order of the columns, None = not given; none if the paper
            has no such row.
        group: Heading it stands under.
        ours: Experiments of ours that measure the same thing.
        kind: Controls are set quieter.
    """

    name: str
    cells: Cells = ()
    group: str = ""
    ours: tuple[str, ...] = ()
    kind: Literal["method", "control"] = "method"


@dataclass(frozen=True, config=_STRICT)
class PaperTable:
    """A table of the paper.

    Attributes:
        title: What it shows.
        columns: Names of the printed figures.
        rows: As printed, the paper's own last.
        notes: What a reader should know before trusting a figure, printed or ours.
        layout: Columns that are shown, as (title, source).
        more: Rows beyond the paper's.
        head: Over the rows' names.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...]
    layout: tuple[tuple[str, str], ...]
    more: tuple[PaperRow, ...] = ()
    head: str = "method"


_TEXT = (files("ssrseg") / "paper" / "published.yaml").read_text(encoding="utf-8")
PAPER = TypeAdapter(dict[int, PaperTable]).validate_python(yaml.safe_load(_TEXT))


@dataclass(frozen=True)
class Cell:
    """A printed figure: where it stands.

    Attributes:
        table: Number of the table.
        row: Name of the row.
        column: Name of the column.
    """

    table: int
    row: str
    column: str = "mIoU"

    @property
    def in_row(self) -> PaperRow:
        """The row, with the experiments of ours that measure the same."""
        (found,) = (each for each in PAPER[self.table].rows if each.name == self.row)
        return found

    @property
    def printed(self) -> float:
        """The figure as printed."""
        value = self.in_row.cells[PAPER[self.table].columns.index(self.column)]
        assert isinstance(value, float)
        return value

    @property
    def ours(self) -> str | None:
        """Our experiment that measures it; of several read-outs the first, which is the paper's."""
        return next(iter(self.in_row.ours), None)
