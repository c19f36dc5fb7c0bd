"""Pictures in rows and columns with headings, captions and a key; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ssrseg.data.files import atomic_write
from ssrseg.errors import ConfigError, PackageError
from ssrseg.overlay import heat
from ssrseg.paper.page import Colour, PictureRow

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
except ImportError as error:  # an optional package
    raise PackageError(
        f"Figures are drawn by matplotlib, which cannot be imported here ({error}). Install it with"
        ' pip install "ssrseg[figures]".'
    ) from error

SUFFIXES = (".png", ".jpg", ".svg", ".pdf")
DPI = 200

SIDE, LINE, GAP, MARGIN = 0.2, 0.145, 0.05, 0.06
"""Inches: room for a row's title, for a line of text, between pictures, around the figure."""

SMALL, NORMAL = 6.0, 7.5
"""Points: captions; headings, titles and keys."""


def draw_grid(
    headings: Sequence[str],
    rows: Sequence[PictureRow],
    widths: Sequence[float],
    heights: Sequence[float],
    *,
    parted_before: int = 0,
    footer: float = 0.0,
) -> Figure:
    """A figure of pictures; each row and each column has one size.

    Every picture's axes are labelled ``<row title>/<column number>``.

    Args:
        headings: Over the columns; a line break makes a second line.
        rows: A title to the left (upright), pictures with captions under them.
        widths: Of the columns, in inches.
        heights: Of the rows' pictures, in inches.
        parted_before: A wider gap stands before this column; 0 = nowhere.
        footer: Inches left free at the bottom.

    Raises:
        ValueError: If the numbers of pictures, headings and sizes do not fit each other.
    """
    for row in rows:
        if not len(row.pictures) == len(headings) == len(widths):
            raise ValueError(
                f'row "{row.title}" has {len(row.pictures)} pictures under {len(headings)} headings'
                f" and {len(widths)} widths"
            )
    if len(heights) != len(rows):
        raise ValueError(f"{len(rows)} rows for {len(heights)} heights")
    top = MARGIN + LINE * max(
        (heading.count("\n") + 1 for heading in headings if heading), default=0
    )
    lines = [max(p.caption.count("\n") + bool(p.caption) for p in row.pictures) for row in rows]
    below = [LINE * 0.85 * count + GAP for count in lines]
    parts = [4 * GAP if parted_before and index == parted_before else 0.0
             for index in range(len(widths))]  # fmt: skip
    width = SIDE + MARGIN + sum(widths) + GAP * len(widths) + sum(parts)
    height = top + sum(heights) + sum(below) + footer + MARGIN
    figure = Figure(figsize=(width, height), dpi=DPI)
    lefts = [
        SIDE + MARGIN + sum(widths[:index]) + GAP * index + sum(parts[: index + 1])
        for index in range(len(widths))
    ]
    for left, wide, heading in zip(lefts, widths, headings, strict=True):
        write(figure, left + wide / 2, height - top + 0.06, heading, NORMAL, "baseline")
    bottom = height - top
    for row, tall, free in zip(rows, heights, below, strict=True):
        bottom -= tall
        fits = min(NORMAL, NORMAL * tall / (0.062 * max(len(row.title), 1)))  # a long name
        write(figure, (SIDE + MARGIN) / 2, bottom + tall / 2, row.title, fits, "center", 90.0)
        for index, (left, wide, picture) in enumerate(
            zip(lefts, widths, row.pictures, strict=True)
        ):
            axes = place(figure, left, bottom, wide, tall, f"{row.title}/{index}")
            show(axes, picture.image)
            write(figure, left + wide / 2, bottom - 0.025, picture.caption, SMALL, "top")
        bottom -= free
    return figure


def place(
    figure: Figure, left: float, bottom: float, width: float, height: float, label: str
) -> Axes:
    """Axes at a place given in inches from the lower left corner."""
    wide, tall = figure.get_size_inches()
    axes = figure.add_axes((left / wide, bottom / tall, width / wide, height / tall), label=label)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def show(axes: Axes, image: UInt8[np.ndarray, "height width 3"]) -> None:
    """A picture without a frame; one of another shape than its axes keeps its own."""
    axes.imshow(image, interpolation="antialiased")
    for spine in axes.spines.values():
        spine.set_visible(False)


def add_key(figure: Figure, entries: Sequence[tuple[str, Colour]], bottom: float = 0.0) -> None:
    """Colours and their names in the footer, as wide as the figure allows."""
    handles = [
        Patch(facecolor=[channel / 255 for channel in colour], edgecolor="0.4", linewidth=0.4,
              label=name)
        for name, colour in entries
    ]  # fmt: skip
    wide, tall = figure.get_size_inches()
    figure.legend(
        handles=handles, loc="lower center", ncols=key_columns(entries, wide), frameon=False,
        fontsize=NORMAL, bbox_to_anchor=(0.5, bottom / tall), borderaxespad=0.3,
        handlelength=1.1, handleheight=1.1, columnspacing=1.2, handletextpad=0.4,
    )  # fmt: skip


def key_columns(entries: Sequence[tuple[str, Colour]], width: float) -> int:
    """As many as fit beside each other in ``width`` inches."""
    if sum(0.36 + 0.055 * len(name) for name, _ in entries) <= width:
        return len(entries)
    longest = max((len(name) for name, _ in entries), default=1)
    return max(1, min(len(entries), int(width / (0.36 + 0.055 * longest))))


def key_height(entries: Sequence[tuple[str, Colour]], width: float) -> float:
    """Inches that :func:`add_key` needs in a figure of that width."""
    return LINE * 1.25 * -(-len(entries) // key_columns(entries, width)) + MARGIN


def add_heat_bar(figure: Figure, bottom: float = MARGIN) -> None:
    """What the colours of a CAM mean: a bar from 0 to 1 in the footer, to the right."""
    wide, _ = figure.get_size_inches()
    left = wide - 1.5 - MARGIN
    axes = place(figure, left, bottom, 1.1, 0.08, "heat bar")
    axes.imshow(heat(np.linspace(0, 1, 256)[None]), aspect="auto")
    write(figure, left - 0.05, bottom + 0.04, "CAM  0", SMALL, "center", across="right")
    write(figure, left + 1.15, bottom + 0.04, "1", SMALL, "center", across="left")


def add_note(figure: Figure, text: str, bottom: float = MARGIN) -> None:
    """Small print in the footer, to the left."""
    write(figure, SIDE + MARGIN, bottom, text, SMALL, "bottom", across="left")


def check_suffix(path: Path) -> None:
    """Raise ConfigError unless a figure can be written under this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"--out {path}: a figure is written as one of {', '.join(SUFFIXES)}, by the suffix of"
            " its name."
        )


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure; the same figure gives the same bytes.

    Args:
        figure: What to write.
        path: The suffix says how; see :data:`SUFFIXES`.
    """
    dates: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with atomic_write(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "ssrseg"}):
        figure.savefig(temporary, metadata=dates.get(path.suffix.lower()))


def write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    size: float,
    vertical: str,
    rotation: float = 0.0,
    across: str = "center",
    weight: str = "normal",
) -> None:
    """Text at a place given in inches; names of images and classes are not read as formulas."""
    wide, tall = figure.get_size_inches()
    figure.text(
        x / wide, y / tall, text, fontsize=size, ha=across, va=vertical, rotation=rotation,
        linespacing=1.15, parse_math=False, fontweight=weight,
    )  # fmt: skip
