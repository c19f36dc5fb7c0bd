"""Tables, curves and pictures as one HTML file that needs nothing else, or as plain text."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from ssrseg.data.files import atomic_write

Colour = tuple[int, int, int]

PLOT_WIDTH, PLOT_HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 30, 48
"""Size of a chart and the space around its axes, in SVG units (about a pixel)."""


@dataclass(frozen=True)
class Picture:
    """One image of a row."""

    caption: str
    image: UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class PictureRow:
    """Pictures side by side, such as the steps of one scene."""

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class TableRow:
    """One line of a table; controls are set quieter than methods, ``note`` small under the name."""

    name: str
    cells: tuple[str, ...]
    kind: Literal["method", "control"] = "method"
    note: str = ""


@dataclass(frozen=True)
class ReportTable:
    """Figures, already formatted; the first of ``columns`` stands over the rows' names.

    Raises:
        ValueError: If a row has another number of cells than the columns leave for it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    text: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns) - 1:
                raise ValueError(
                    f'table "{self.title}": row "{row.name}" has {len(row.cells)} cells under'
                    f" {len(self.columns) - 1} columns {self.columns[1:]}"
                )


@dataclass(frozen=True)
class Curve:
    """Points joined by a line, with a gap where a coordinate is not finite."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f'curve "{self.name}": {len(self.x)} x for {len(self.y)} y')


@dataclass(frozen=True)
class Chart:
    """Curves that share their axes."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Section:
    """A heading with what belongs to it; an empty line in ``text`` begins a paragraph."""

    title: str
    text: str
    tables: tuple[ReportTable, ...] = ()
    charts: tuple[Chart, ...] = ()
    rows: tuple[PictureRow, ...] = ()
    legend: tuple[tuple[str, Colour], ...] = ()


@dataclass(frozen=True)
class Report:
    """A page: title, what it shows in a sentence or two, facts of the run, sections."""

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Drawing:
    """A chart in SVG units: ticks as (position, label), for each curve its unbroken pieces."""

    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    pieces: tuple[tuple[tuple[tuple[float, float], ...], ...], ...]


def write_page(report: Report, path: Path) -> None:
    """Write the report as one HTML file without scripts or outside references.

    The same report gives the same bytes.

    Args:
        report: What to show; all text is plain text and escaped.
        path: The file; its folder is made.
    """
    environment = Environment(
        loader=PackageLoader("ssrseg", "paper"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data_uri": data_uri, "draw": draw}
    environment.globals |= {
        "width": PLOT_WIDTH,
        "height": PLOT_HEIGHT,
        "left": LEFT,
        "right": PLOT_WIDTH - RIGHT,
        "top": TOP,
        "bottom": PLOT_HEIGHT - BOTTOM,
    }
    html = environment.get_template("page.html.jinja").render(report=report)
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8", newline="\n")


def print_table(table: ReportTable) -> str:
    """The table as aligned plain text: names to the left, figures to the right, notes behind."""
    names = [row.name + (" (control)" if row.kind == "control" else "") for row in table.rows]
    lines = [table.columns] + [(n, *r.cells) for n, r in zip(names, table.rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    notes = ["", *(row.note for row in table.rows)]
    aligned = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:]), note]).rstrip()
        for line, note in zip(lines, notes, strict=True)
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([table.title, rule, aligned[0], rule, *aligned[1:], rule])


def data_uri(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """The image as a lossless PNG inside a URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def draw(chart: Chart) -> Drawing:
    """Place a chart's points and ticks; y grows upwards and its axis ends on ticks."""
    points = [
        (x, y) for curve in chart.curves for x, y in zip(curve.x, curve.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]  # fmt: skip
    x_low, x_high = _range([x for x, _ in points])
    y_low, y_high = _range([y for _, y in points])
    x_step, y_step = _step(x_high - x_low), _step(y_high - y_low)
    y_low, y_high = math.floor(y_low / y_step) * y_step, math.ceil(y_high / y_step) * y_step

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (PLOT_WIDTH - RIGHT - LEFT), 1)

    def up(y: float) -> float:
        return round(
            PLOT_HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (PLOT_HEIGHT - BOTTOM - TOP), 1
        )

    return Drawing(
        tuple((across(x), label) for x, label in _ticks(x_low, x_high, x_step)),
        tuple((up(y), label) for y, label in _ticks(y_low, y_high, y_step)),
        tuple(
            tuple(tuple((across(x), up(y)) for x, y in piece) for piece in _pieces(curve))
            for curve in chart.curves
        ),
    )


def _pieces(curve: Curve) -> list[list[tuple[float, float]]]:
    """Runs of finite points."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(curve.x, curve.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            pieces[-1].append((x, y))
        else:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _range(values: list[float]) -> tuple[float, float]:
    """Smallest and largest value, never the same; 0 .. 1 of nothing."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    pad = 0.0 if high > low else abs(low) / 2 or 0.5
    return low - pad, high + pad


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten that divides the span in 3 to 6 parts."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 6)


def _ticks(low: float, high: float, step: float) -> list[tuple[float, str]]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(index * step, f"{index * step:,.{decimals}f}") for index in range(first, last + 1)]
