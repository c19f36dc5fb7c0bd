"""Tables, charts, pictures and galleries as an HTML file, or as plain text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from ssrseg.console import printable_lines, table_text
from ssrseg.data.files import atomic_write
from ssrseg.report.gallery import Gallery

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE = "report.html"
"""What the page of a run is called in its folder."""

Colour = tuple[int, int, int]

CHART_WIDTH, CHART_HEIGHT, BAR_HEIGHT = 4.4, 2.5, 0.4
"""Inches: narrow, so that a phone shows a chart's text at about the size of its own."""

INK, QUIET, LINE = "#1c1e21", "#666b73", "#dcdee2"
SERIES = ("#1f6fb5", "#c8501e", "#1b8a63", "#a4458f", "#8a6d00", "#5a5f66")
CSS_VARIABLES = {INK: "--ink", QUIET: "--quiet", LINE: "--line"} | {
    colour: f"--c{index}" for index, colour in enumerate(SERIES)
}
"""Colours of the page by day and their names in its style sheet, which has others for the night."""


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
class Bar:
    """A bar as long as the mean of its values, with a dot for each where there are several."""

    name: str
    values: tuple[float, ...]
    group: str


@dataclass(frozen=True)
class BarChart:
    """Bars from 0; those of one group stand together, under its name and in its colour."""

    title: str
    x_label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Section:
    """A heading with what belongs to it, in the order of the fields.

    Attributes:
        title: The heading.
        text: An empty line begins a paragraph; web addresses become links.
        legend: Colours of the pictures; None = striped, as undecided pixels are.
        rows: Pictures.
        charts: Curves or bars.
        terms: Words and what they mean.
        tables: Figures.
        gallery: Images with layers; one section of a page may have one.
        folded: Closed until the heading is clicked.
    """

    title: str
    text: str = ""
    legend: tuple[tuple[str, Colour | None], ...] = ()
    rows: tuple[PictureRow, ...] = ()
    charts: tuple[Chart | BarChart, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()
    tables: tuple[ReportTable, ...] = ()
    gallery: Gallery | None = None
    folded: bool = False


@dataclass(frozen=True)
class Report:
    """A page: title, what it shows in a sentence or two, sections, facts of the run at the end."""

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def write_page(report: Report, path: Path) -> None:
    """Write the report as one HTML file that loads nothing from outside its folder.

    The same report gives the same bytes.

    Args:
        report: What to show; all text is plain text and escaped.
        path: The file; its folder is made.
    """
    environment = Environment(
        loader=PackageLoader("ssrseg", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "data_uri": data_uri, "script_json": _script_json, "sha256": _sha256, "svg": svg,
    }  # fmt: skip
    html = environment.get_template("page.html.jinja").render(report=report)
    with atomic_write(path) as temporary:
        temporary.write_text(printable_lines(html), encoding="utf-8", newline="\n")


def plain_text(table: ReportTable) -> str:
    """Title and rows as aligned text, with the notes behind the rows."""
    rows = [
        (row.name + (" (control)" if row.kind == "control" else ""), *row.cells, row.note)
        for row in table.rows
    ]
    heading, *lines = table_text((*table.columns, ""), rows).split("\n")
    return "\n".join([table.title, "-" * len(heading), heading, *lines])


def data_uri(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """The image as WebP inside a URI; the loss is not seen."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def draw(chart: Chart | BarChart) -> Figure:
    """The chart as a figure of matplotlib."""
    from matplotlib.figure import Figure  # here, because it takes a while to import

    rows = len(chart.bars) + len(_groups(chart)) if isinstance(chart, BarChart) else 0
    height = BAR_HEIGHT * rows + 0.5 if rows else CHART_HEIGHT
    figure = Figure(figsize=(CHART_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(color=LINE, labelcolor=QUIET, labelsize=9)
    axes.set_xlabel(chart.x_label, color=QUIET, fontsize=9, parse_math=False)
    axes.set_axisbelow(True)
    if isinstance(chart, BarChart):
        _draw_bars(axes, chart)
    else:
        _draw_curves(axes, chart)
    return figure


def _draw_curves(axes: Axes, chart: Chart) -> None:
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_ylabel(chart.y_label, color=QUIET, fontsize=9, parse_math=False)
    for index, curve in enumerate(chart.curves):
        x, y = np.array(curve.x, float), np.array(curve.y, float)
        drawn = np.pad(np.isfinite(x) & np.isfinite(y), 1)
        alone = drawn[1:-1] & ~drawn[:-2] & ~drawn[2:]  # no line would show these
        axes.plot(
            *(x, y), color=SERIES[index % len(SERIES)], linewidth=1.3,
            marker="o", markersize=2.5, markevery=np.flatnonzero(alone).tolist(),
        )  # fmt: skip


def _draw_bars(axes: Axes, chart: BarChart) -> None:
    """Names stand above the bars, where a phone has room for them."""
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    axes.set_yticks([])
    top = 0.0
    for index, (group, bars) in enumerate(_groups(chart).items()):
        colour = SERIES[index % len(SERIES)]
        axes.text(0, top + 0.25, group, color=colour, fontsize=10, fontweight="bold", va="center",
                  parse_math=False)  # fmt: skip
        for place, bar in enumerate(bars, 1):
            y = top + place
            mean, several = float(np.mean(bar.values)), len(bar.values) > 1
            axes.text(0, y - 0.22, bar.name, color=INK, fontsize=9, va="center", parse_math=False)
            axes.barh(y + 0.2, mean, 0.32, color=colour)
            farthest = max(bar.values) if several else mean
            axes.annotate(f"{mean:.1f}", (farthest, y + 0.2), (5, 0), textcoords="offset points",
                          color=INK, fontsize=9, va="center")  # fmt: skip
            if several:
                axes.plot(bar.values, [y + 0.2] * len(bar.values), "o", color=INK, markersize=2.5)
        top += len(bars) + 1
    axes.set_ylim(top - 0.4, -0.2)
    longest = max((value for bar in chart.bars for value in bar.values), default=1.0)
    axes.set_xlim(0, 1.1 * longest or 1.0)


def _groups(chart: BarChart) -> dict[str, list[Bar]]:
    groups: dict[str, list[Bar]] = {}
    for bar in chart.bars:
        groups.setdefault(bar.group, []).append(bar)
    return groups


def svg(chart: Chart | BarChart) -> Markup:
    """The drawn chart as an SVG element in the page's own font and colours, by day and by night."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.title}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        draw(chart).savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # these would occur in every chart
    for colour, variable in CSS_VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return Markup(text)


def _sha256(text: str) -> str:
    """What a content security policy calls a script by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _script_json(texts: Sequence[str]) -> Markup:
    """A list of texts as JSON inside a script element, which nothing in them can end."""
    # now, as what the page makes of unprintable characters at the end is no JSON
    shown = [printable_lines(text) for text in texts]
    text = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("</", "<\\/").replace("<!", "<\\u0021"))
