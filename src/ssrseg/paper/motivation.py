"""Figure 1 of the paper: what prior methods get wrong, why, and what SSR makes of it."""

from __future__ import annotations

from ssrseg.overlay import ERROR_COLOURS, error_overlay, heat_overlay, outlined
from ssrseg.paper.cam_comparison import CLIP_CAM, PRIOR, SSR, UNMASKED, Closeup
from ssrseg.paper.grid import (
    DPI,
    GAP,
    LINE,
    MARGIN,
    NORMAL,
    SMALL,
    Figure,
    add_heat_bar,
    add_key,
    add_note,
    place,
    show,
    write,
)
from ssrseg.paper.page import Picture
from ssrseg.paper.panels import class_region, percent, shares_text
from ssrseg.paper.scatter import Cloud, draw_cloud, numbers_text

CELL, PANEL = 1.5, 4.0
"""Inches: width of a picture, and of the t-SNE panel."""

KEY = tuple(
    (text, ERROR_COLOURS[kind])
    for kind, text in (
        ("hit", "right class"), ("other class", "another class (over-activation)"),
        ("background", "background (noise)"), ("missed", "missed"),
    )
)  # fmt: skip

FOOTER = 0.42
"""Inches: key of the errors, and a line for the note and the heat bar."""


def motivation_figure(
    closeup: Closeup, gap: Cloud, names: tuple[str, ...], *, ours: str = "SSR"
) -> Figure:
    """Figure 1: (a) a prior mask's errors, (b) modality gap, (c) noise of CLIP's affinity, (d) SSR.

    Args:
        closeup: With a true mask.
        gap: CLIP's features of the whole split.
        names: Of all classes.
        ours: What (d) was made with.

    Raises:
        ValueError: If there is no true mask.
    """
    region = class_region(closeup)
    if region is None or closeup.truth is None:
        raise ValueError(f"{closeup.name} has no true mask to hold the prior's mask against")
    photo = closeup.photo.numpy()

    def cam(what: str, caption: str) -> Picture:
        image = heat_overlay(photo, closeup.cams[what].numpy())
        return Picture(f"{caption}\n{shares_text(closeup, what)}", outlined(image, region))

    name = closeup.class_name
    rows = (
        (
            "(a) Prior: CLIP CAM, CLIP attention, box",
            (Picture(f"image; line: {name}", outlined(photo, region)), _mask(closeup, PRIOR)),
        ),
        (
            f"(c) Noise of CLIP's affinity: {name}",
            (cam(CLIP_CAM, "CLIP CAM"), cam(UNMASKED, "after CLIP affinity")),
        ),
        (f"(d) {ours}: {name}", (cam(SSR, "refined CAM"), _mask(closeup, SSR))),
    )
    return _compose(rows, CELL * min(max(photo.shape[0] / photo.shape[1], 0.4), 2.5), gap, names)


def _compose(
    rows: tuple[tuple[str, tuple[Picture, Picture]], ...],
    tall: float,
    gap: Cloud,
    names: tuple[str, ...],
) -> Figure:
    heading, caption = LINE + 0.05, 0.32
    block = 2 * CELL + GAP
    height = MARGIN + len(rows) * (heading + tall + caption) + FOOTER
    figure = Figure(figsize=(MARGIN + block + 4 * GAP + PANEL + MARGIN, height), dpi=DPI)
    bottom = height - MARGIN
    for title, pictures in rows:
        bottom -= heading
        write(figure, MARGIN, bottom + 0.03, title, NORMAL, "bottom", across="left", weight="bold")
        bottom -= tall
        for index, picture in enumerate(pictures):
            left = MARGIN + index * (CELL + GAP)
            show(place(figure, left, bottom, CELL, tall, f"{title[:3]}/{index}"), picture.image)
            write(figure, left + CELL / 2, bottom - 0.025, picture.caption, SMALL, "top")
        bottom -= caption
    left, low = MARGIN + block + 4 * GAP, FOOTER + caption
    axes = place(figure, left, low, PANEL, height - MARGIN - heading - low, "(b)")
    title = "(b) Modality gap of CLIP (t-SNE): images (dots), texts (stars)"
    write(figure, left, height - MARGIN - heading + 0.03, title, NORMAL, "bottom", across="left",
          weight="bold")  # fmt: skip
    draw_cloud(axes, gap, names)
    write(figure, left + PANEL / 2, low - 0.025, numbers_text(gap.separation), SMALL, "top")
    add_key(figure, KEY, bottom=0.18)
    add_note(
        figure, "numbers in %: share of the activation (CAM) or of the predicted pixels (mask)"
    )
    add_heat_bar(figure)
    return figure


def _mask(closeup: Closeup, what: str) -> Picture:
    assert closeup.truth is not None
    kinds = closeup.errors[what]
    image = error_overlay(closeup.photo.numpy(), closeup.masks[what].numpy(), closeup.truth.numpy())
    return Picture(
        f"mask: right {percent(kinds.hit)}, missed {percent(kinds.missed)}\nother class"
        f" {percent(kinds.other_class)} · noise {percent(kinds.background)}",
        image,
    )
