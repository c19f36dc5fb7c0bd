"""The paper's figures drawn from arrays: pictures in rows and columns, t-SNE; needs matplotlib.

Every length is in inches, every place counts from the lower left corner of the figure.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from ssrseg.console import note, printable, printable_lines
from ssrseg.data.files import atomic_write
from ssrseg.errors import ConfigError, PackageError
from ssrseg.overlay import (
    ERROR_COLOURS,
    error_overlay,
    heat,
    heat_overlay,
    ids_overlay,
    mask_palette,
    outlined,
    target_overlay,
)
from ssrseg.paper.cam_comparison import CLIP_CAM, CMPA_CAM, OURS, PRIOR, UNMASKED, CamComparison
from ssrseg.paper.embedding import CLIP, CMPA, UNTRAINED, Plane
from ssrseg.paper.method_comparison import IMAGE, TRUTH, MethodComparison
from ssrseg.paper.separation import Separation
from ssrseg.report.page import Colour, Picture, PictureRow

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text
except ImportError as error:  # an optional package
    raise PackageError(
        f"Figures are drawn by matplotlib, which cannot be imported here ({error}). Install it with"
        ' pip install "ssrseg[figures]".'
    ) from error

SUFFIXES = (".png", ".jpg", ".svg", ".pdf")
DPI = 200

SIDE, LINE, GAP, MARGIN = 0.2, 0.145, 0.05, 0.06
"""Room for a row's title, for a line of text, between pictures, around the figure."""

CELL, PANEL, LABEL = 1.55, 3.3, 0.115
"""Width of a picture (in Figure 3 its height), side of a t-SNE panel, height of a name in it."""

TEXT_STAR = "text of the class"

SMALL, NORMAL = 6.0, 7.5
"""Points: captions; headings, titles and keys."""

BLANK = 235
"""Grey of a picture that is missing."""

COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#2fb8d6", "#f032e6", "#9acd1e",
    "#f29cb7", "#2f8f8a", "#b08ae8", "#9a6324", "#d9b800", "#800000", "#5fd0a0", "#808000",
    "#e0a878", "#000075", "#8f8f8f", "#000000",
)  # fmt: skip
"""Twenty colours as different as twenty can be; matplotlib's tab20 has ten in two shades."""

KEY_COLUMNS = 8
LABEL_STEPS = 12
"""A name is moved at most so many lines from where its class lies."""

ERROR_KEY = tuple(
    (text, ERROR_COLOURS[kind])
    for kind, text in (
        ("hit", "right class"), ("other class", "another class (over-activation)"),
        ("background", "background (noise)"), ("missed", "missed"),
    )
)  # fmt: skip

Rgb = UInt8[np.ndarray, "height width 3"]

# ---------------------------------------------------------------- figures of the paper


def motivation_figure(
    shown: CamComparison, gap: Plane, names: tuple[str, ...], *, ours: str = "SSR"
) -> Figure:
    """Figure 1: (a) a prior mask's errors, (b) modality gap, (c) noise of CLIP's affinity, (d) SSR.

    Args:
        shown: With a true mask.
        gap: CLIP's features of the whole split.
        names: Of all classes.
        ours: What (d) was made with.
    """
    region = _class_region(shown)
    if region is None:
        raise ValueError(f"{shown.name} has no true mask to hold the prior's mask against")
    photo, name = shown.photo.numpy(), shown.class_name
    image = Picture(f"image; line: {name}", outlined(photo, region))
    clip, noise = _cam(shown, CLIP_CAM, "CLIP CAM"), _cam(shown, UNMASKED, "after CLIP affinity")
    blocks = (
        ("(a) Prior: CLIP CAM, CLIP attention, box", (image, _errors(shown, PRIOR))),
        (f"(c) Noise of CLIP's affinity: {name}", (clip, noise)),
        (f"(d) {ours}: {name}", (_cam(shown, OURS, "refined CAM"), _errors(shown, OURS))),
    )
    heading, caption, footer, panel = LINE + 0.05, 0.32, 0.42, 4.0
    tall = CELL * _ratio(photo)
    height = MARGIN + len(blocks) * (heading + tall + caption) + footer
    left = MARGIN + 2 * CELL + 5 * GAP  # of the t-SNE panel
    figure = Figure(figsize=(left + panel + MARGIN, height), dpi=DPI)
    title = {"size": NORMAL, "va": "bottom", "ha": "left", "weight": "bold"}
    bottom = height - MARGIN
    for text, pictures in blocks:
        bottom -= heading
        write(figure, MARGIN, bottom + 0.03, text, **title)
        bottom -= tall
        for index, picture in enumerate(pictures):
            place = (MARGIN + index * (CELL + GAP), bottom, CELL, tall)
            add_picture(figure, place, picture, f"{text[:3]}/{index}")
        bottom -= caption
    top, low = height - MARGIN - heading, footer + caption
    write(figure, left, top + 0.03, "(b) Modality gap of CLIP (t-SNE): images (dots), texts"
          " (stars)", **title)  # fmt: skip
    draw_plane(add_axes(figure, (left, low, panel, top - low), "(b)"), gap, names)
    write(figure, left + panel / 2, low - 0.025, numbers_text(gap.separation), va="top")
    add_key(figure, ERROR_KEY, bottom=0.18)
    add_note(
        figure, "numbers in %: share of the activation (CAM) or of the predicted pixels (mask)"
    )
    add_heat_bar(figure)
    return figure


def qualitative_figure(groups: Sequence[Sequence[MethodComparison]]) -> Figure:
    """Figure 3: rows are the image, other methods, ours and the truth; columns are images.

    Each group holds the columns of a data set; a class name has one colour in all.
    """
    columns = [column for group in groups for column in group]
    palettes = _shared_palette(columns)
    widths = [CELL / _ratio(column.photo.numpy()) for column in columns]
    rows = [
        PictureRow(name, tuple(_segmentation(name, column, palettes) for column in columns))
        for name in (IMAGE, *(name for name in columns[0].masks if name != OURS), OURS, TRUTH)
    ]
    labels = [", ".join(each.class_names[i] for i in each.labels) or "none" for each in columns]
    headings = [
        "\n".join(textwrap.wrap(text, max(8, int(wide * 15))))
        for text, wide in zip(labels, widths, strict=True)
    ]
    key = _classes_seen(columns, palettes)
    parted = len(groups[0]) if len(groups) > 1 else 0
    footer = key_height(key, sum(widths))
    heights = [CELL] * len(rows)
    figure = draw_grid(headings, rows, widths, heights, parted_before=parted, footer=footer)
    add_key(figure, key)
    return figure


def cam_figure(shown: Sequence[CamComparison], readout: str, refinement: str) -> Figure:
    """Figure 4: CLIP's CAM beside CMPA's, and CLIP-ES's refinement beside SSR's.

    Args:
        shown: One row each.
        readout: How CMPA's CAM is read, for its heading.
        refinement: How SSR refines it, for its heading.
    """
    headings = (
        "image", "CLIP CAM", f"CMPA CAM\n({readout})",
        "CLIP CAM refined:\nCLIP attention, box", f"SSR refined:\n{refinement}",
    )  # fmt: skip
    names = (CLIP_CAM, CMPA_CAM, PRIOR, OURS)
    rows = [(_photo(each), *(_cam(each, name) for name in names)) for each in shown]
    return _cam_grid(headings, rows, shown)


def refinement_figure(shown: Sequence[CamComparison], cam: str) -> Figure:
    """Figure 5: image, target regions, initial CAM (of ``cam``), and what SGC makes of it."""
    headings = ("image", "target regions", f"initial CAM ({cam})", "after SGC")
    rows = [(_photo(x), _target(x), _cam(x, CMPA_CAM), _cam(x, OURS)) for x in shown]
    return _cam_grid(headings, rows, shown)


def tsne_figure(
    planes: dict[str, Plane], names: tuple[str, ...], untrained: Separation | None = None
) -> Figure:
    """Figure 6: (a) CLIP's features, (b) after CMPA; stars are texts.

    ``untrained`` has the numbers of the projector before training, the control.
    """
    notes = {name: numbers_text(plane.separation) for name, plane in planes.items()}
    if untrained is not None:
        notes[CMPA] += f"\n({UNTRAINED}: {numbers_text(untrained)})"
    rows = -(-(len(planes[CLIP].shown) + 1) // KEY_COLUMNS)
    footer = 2 * LINE + MARGIN + 1.2 * LINE * rows + MARGIN
    figure = Figure(figsize=(2 * PANEL + 3 * MARGIN, PANEL + footer + 0.25), dpi=DPI)
    for index, (name, title) in enumerate({CLIP: "(a) CLIP", CMPA: "(b) after CMPA"}.items()):
        place = (MARGIN + index * (PANEL + MARGIN), footer, PANEL, PANEL)
        axes = add_axes(figure, place, name)
        axes.set_title(title, fontsize=NORMAL + 1, pad=4)
        draw_plane(axes, planes[name], names)
        axes.set_xlabel(notes[name], fontsize=SMALL, labelpad=4)
    dots, _ = axes.get_legend_handles_labels()
    star = Line2D(
        [], [], linestyle="", marker="*", color="white", markeredgecolor="black", markersize=7,
        label=TEXT_STAR,
    )  # fmt: skip
    legend = figure.legend(
        handles=[*dots, star], loc="lower center", ncols=KEY_COLUMNS, frameon=False,
        fontsize=SMALL + 0.5, borderaxespad=0.4, handletextpad=0.1, columnspacing=1.0,
    )  # fmt: skip
    set_names(legend.get_texts(), [*(names[index] for index in planes[CMPA].shown), TEXT_STAR])
    return figure


def draw_plane(axes: Axes, plane: Plane, names: tuple[str, ...]) -> None:
    """Points in the colours of their classes, stars for texts, names where a class lies."""
    for colour, index, text in zip(COLOURS, plane.shown, plane.text, strict=False):
        x, y = plane.image[plane.classes == index].T
        axes.scatter(x, y, s=7, color=colour, alpha=0.75, linewidths=0, zorder=2, label="?")
        x, y = text
        axes.scatter(
            x, y, s=63, color=colour, marker="*", edgecolors="black", linewidths=0.6, zorder=4
        )
    axes.margins(0.05)
    _name_classes(axes, plane, names)
    for spine in axes.spines.values():
        spine.set_color("0.7")


def _name_classes(axes: Axes, plane: Plane, names: tuple[str, ...]) -> None:
    """A class's name at the median of its points, moved up or down where another stands there."""
    frame = axes.get_window_extent()
    wide, tall = frame.width / axes.figure.dpi, frame.height / axes.figure.dpi
    taken: list[tuple[float, float, float]] = []  # centre and half a width
    for index in plane.shown:
        middle = np.median(plane.image[plane.classes == index], axis=0)
        x, y = (axes.transData.transform(middle) - frame.p0) / axes.figure.dpi
        half = 0.03 * len(names[index]) + 0.03
        x = min(max(x, half), wide - half)
        steps = sorted(range(-LABEL_STEPS, LABEL_STEPS + 1), key=abs)
        free = (
            other for other in (y + step * LABEL for step in steps)
            if LABEL / 2 <= other <= tall - LABEL / 2
            and all(abs(x - a) > half + h or abs(other - b) >= 0.95 * LABEL for a, b, h in taken)
        )  # fmt: skip
        y = next(free, y)
        taken.append((x, y, half))
        axes.text(
            x / wide, y / tall, printable(names[index]), transform=axes.transAxes, fontsize=SMALL,
            ha="center", va="center", zorder=5, parse_math=False,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.6, "lw": 0},
        )  # fmt: skip


def numbers_text(numbers: Separation) -> str:
    """The three numbers in a line."""
    return (
        f"silhouette {numbers.silhouette:.3f}   intra/inter {numbers.distance_ratio:.3f}"
        f"   modality gap {numbers.modality_gap:.3f}"
    )


# ---------------------------------------------------------------- pictures of a figure


def _cam_grid(
    headings: Sequence[str], rows: Sequence[tuple[Picture, ...]], shown: Sequence[CamComparison]
) -> Figure:
    titled = [PictureRow(x.class_name, row) for x, row in zip(shown, rows, strict=True)]
    heights = [CELL * _ratio(each.photo.numpy()) for each in shown]
    figure = draw_grid(headings, titled, [CELL] * len(headings), heights, footer=0.2)
    add_heat_bar(figure)
    if any(each.truth is not None for each in shown):
        add_note(
            figure,
            "line: true outline of the class; numbers: % of the activation on class, others,"
            " background",
        )
    return figure


def _photo(shown: CamComparison) -> Picture:
    return Picture("", _with_outline(shown, shown.photo.numpy()))


def _cam(shown: CamComparison, name: str, title: str = "") -> Picture:
    """A CAM, with the shares of its activation where there is a true mask."""
    lines = [title] if title else []
    if name in shown.shares:
        own, others, background = map(whole_percent, vars(shown.shares[name]).values())
        lines.append(f"class {own} · others {others} · bg {background}")
    image = heat_overlay(shown.photo.numpy(), shown.cams[name].numpy())
    return Picture("\n".join(lines), _with_outline(shown, image))


def _target(shown: CamComparison) -> Picture:
    photo = shown.photo.numpy()
    if shown.target is None:
        return Picture("affinity.mask = none", np.full_like(photo, BLANK))
    share = 100 * float(shown.target.float().mean())
    return Picture(f"{share:.0f} % of the image", target_overlay(photo, shown.target.numpy()))


def _errors(shown: CamComparison, name: str) -> Picture:
    assert shown.truth is not None
    kinds = shown.errors[name]
    image = error_overlay(shown.photo.numpy(), shown.masks[name].numpy(), shown.truth.numpy())
    return Picture(
        f"mask: right {whole_percent(kinds.hit)}, missed {whole_percent(kinds.missed)}\nother class"
        f" {whole_percent(kinds.other_class)} · noise {whole_percent(kinds.background)}",
        image,
    )


def _segmentation(
    name: str, column: MethodComparison, palettes: dict[tuple[str, ...], np.ndarray]
) -> Picture:
    photo = column.photo.numpy()
    if name == IMAGE:
        return Picture("", photo)
    ids = column.truth if name == TRUTH else column.masks[name]
    if ids is None:
        return Picture("no mask", np.full_like(photo, BLANK))
    caption = f"mIoU {100 * column.miou[name]:.1f}" if name in column.miou else ""
    return Picture(caption, ids_overlay(photo, ids.numpy(), palettes[column.class_names]))


def _class_region(shown: CamComparison) -> Bool[np.ndarray, "height width"] | None:
    """Where the class truly is; None without a true mask."""
    return None if shown.truth is None else shown.truth.numpy() == shown.class_id


def _with_outline(shown: CamComparison, image: Rgb) -> Rgb:
    region = _class_region(shown)
    return image if region is None else outlined(image, region)


def whole_percent(share: float) -> str:
    """Without decimals and sign; a dash where there is no share."""
    return "-" if share != share else f"{100 * share:.0f}"


def _ratio(photo: Rgb) -> float:
    """Height over width; a panorama is shown narrower than its cell instead of tiny."""
    return min(max(photo.shape[0] / photo.shape[1], 0.4), 2.5)


def _shared_palette(columns: Sequence[MethodComparison]) -> dict[tuple[str, ...], np.ndarray]:
    """Colours by id for each list of classes; the first list has the palette's order."""
    lists = list(dict.fromkeys(column.class_names for column in columns))
    place = {name: index % 255 + 1 for index, name in enumerate(dict.fromkeys(sum(lists, ())))}
    palette = mask_palette()
    return {names: palette[[0, *(place[name] for name in names)]] for names in lists}


def _classes_seen(
    columns: Sequence[MethodComparison], palettes: dict[tuple[str, ...], np.ndarray]
) -> list[tuple[str, Colour]]:
    """Key of the classes in any mask of the figure."""
    seen: dict[str, Colour] = {}
    for column in columns:
        masks = [ids for ids in (*column.masks.values(), column.truth) if ids is not None]
        for value in sorted({int(value) for mask in masks for value in mask.unique()} - {0, 255}):
            red, green, blue = palettes[column.class_names][value].tolist()
            seen.setdefault(column.class_names[value - 1], (red, green, blue))
    return list(seen.items())


# ---------------------------------------------------------------- rows, columns, keys, files


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
        widths: Of the columns.
        heights: Of the rows' pictures.
        parted_before: A wider gap stands before this column; 0 = nowhere.
        footer: Left free at the bottom.
    """
    for row in rows:
        if not len(row.pictures) == len(headings) == len(widths):
            raise ValueError(
                f'row "{row.title}" has {len(row.pictures)} pictures under {len(headings)} headings'
                f" and {len(widths)} widths"
            )
    if len(heights) != len(rows):
        raise ValueError(f"{len(rows)} rows for {len(heights)} heights")
    top = MARGIN + LINE * max((text.count("\n") + 1 for text in headings if text), default=0)
    captions = [max(_lines(picture.caption) for picture in row.pictures) for row in rows]
    below = [LINE * 0.85 * count + GAP for count in captions]
    lefts, right = [], SIDE + MARGIN
    for index, wide in enumerate(widths):
        right += 4 * GAP if parted_before and index == parted_before else 0.0
        lefts.append(right)
        right += wide + GAP
    height = top + sum(heights) + sum(below) + footer + MARGIN
    figure = Figure(figsize=(right, height), dpi=DPI)
    for left, wide, text in zip(lefts, widths, headings, strict=True):
        write(figure, left + wide / 2, height - top + 0.06, text, size=NORMAL, va="baseline")
    bottom = height - top
    for row, tall, free in zip(rows, heights, below, strict=True):
        bottom -= tall
        size = min(NORMAL, NORMAL * tall / (0.062 * max(len(row.title), 1)))  # of a long name
        write(figure, (SIDE + MARGIN) / 2, bottom + tall / 2, row.title, size=size, rotation=90)
        for index, picture in enumerate(row.pictures):
            place = (lefts[index], bottom, widths[index], tall)
            add_picture(figure, place, picture, f"{row.title}/{index}")
        bottom -= free
    return figure


def _lines(text: str) -> int:
    return text.count("\n") + bool(text)


Place = tuple[float, float, float, float]
"""Left, bottom, width, height."""


def add_axes(figure: Figure, place: Place, label: str) -> Axes:
    """Axes without ticks at a place."""
    wide, tall = figure.get_size_inches()
    left, bottom, width, height = place
    axes = figure.add_axes((left / wide, bottom / tall, width / wide, height / tall), label=label)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def add_picture(figure: Figure, place: Place, picture: Picture, label: str) -> None:
    """A picture with its caption below; one of another shape than its place keeps its own."""
    axes = add_axes(figure, place, label)
    axes.imshow(picture.image, interpolation="antialiased")
    axes.spines[:].set_visible(False)
    left, bottom, width, _ = place
    write(figure, left + width / 2, bottom - 0.025, picture.caption, va="top")


def add_key(figure: Figure, entries: Sequence[tuple[str, Colour]], bottom: float = 0.0) -> None:
    """Colours and their names in the footer, as wide as the figure allows."""
    handles = [
        Patch(
            facecolor="#{:02x}{:02x}{:02x}".format(*colour),
            edgecolor="0.4",
            linewidth=0.4,
        )
        for _, colour in entries
    ]
    wide, tall = figure.get_size_inches()
    legend = figure.legend(
        handles, ["?"] * len(entries), loc="lower center", ncols=key_columns(entries, wide),
        frameon=False, fontsize=NORMAL, bbox_to_anchor=(0.5, bottom / tall), borderaxespad=0.3,
        handlelength=1.1, handleheight=1.1, columnspacing=1.2, handletextpad=0.4,
    )  # fmt: skip
    # names afterwards: a legend leaves out those that begin with an underscore
    set_names(legend.get_texts(), [name for name, _ in entries])


def set_names(texts: Sequence[Text], names: Sequence[str]) -> None:
    """Give texts of a figure names, which are shown as they are and not as formulas."""
    for text, name in zip(texts, names, strict=True):
        text.set_parse_math(False)
        text.set_text(printable(name))


def key_columns(entries: Sequence[tuple[str, Colour]], width: float) -> int:
    """As many as fit beside each other."""
    if sum(0.36 + 0.055 * len(name) for name, _ in entries) <= width:
        return len(entries)
    longest = max((len(name) for name, _ in entries), default=1)
    return max(1, min(len(entries), int(width / (0.36 + 0.055 * longest))))


def key_height(entries: Sequence[tuple[str, Colour]], width: float) -> float:
    """Room that ``add_key`` needs in a figure of that width."""
    return LINE * 1.25 * -(-len(entries) // key_columns(entries, width)) + MARGIN


def add_heat_bar(figure: Figure) -> None:
    """What the colours of a CAM mean: a bar from 0 to 1 in the footer, to the right."""
    left, middle = figure.get_size_inches()[0] - 1.5 - MARGIN, MARGIN + 0.04
    axes = add_axes(figure, (left, MARGIN, 1.1, 0.08), "heat bar")
    axes.imshow(heat(np.linspace(0, 1, 256)[None]), aspect="auto")
    write(figure, left - 0.05, middle, "CAM  0", ha="right")
    write(figure, left + 1.15, middle, "1", ha="left")


def add_note(figure: Figure, text: str) -> None:
    """Small print in the footer, to the left."""
    write(figure, SIDE + MARGIN, MARGIN, text, va="bottom", ha="left")


def write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text at a place; names of images and classes are not read as formulas."""
    wide, tall = figure.get_size_inches()
    style = {"size": SMALL, "ha": "center", "va": "center", "linespacing": 1.15, **style}
    figure.text(x / wide, y / tall, printable_lines(text), parse_math=False, **style)


def check_suffix(path: Path) -> None:
    """Raise ConfigError unless a figure can be written under this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"--out {path}: a figure is written as one of {', '.join(SUFFIXES)}, by the suffix of"
            " its name."
        )


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as its suffix says (``SUFFIXES``); the same one gives the same bytes."""
    dates: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with (
        atomic_write(path) as temporary,
        matplotlib.rc_context({"svg.hashsalt": "ssrseg"}),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        figure.savefig(temporary, metadata=dates.get(path.suffix.lower()))
    missing = "missing from font"
    for each in said:
        if missing not in str(each.message):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if any(missing in str(each.message) for each in said):
        note(f"{path} shows boxes for letters that matplotlib's font does not have.")
