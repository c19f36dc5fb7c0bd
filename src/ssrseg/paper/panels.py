"""Figures 3, 4 and 5 of the paper, from arrays: qualitative grid, CAMs, refinement."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from ssrseg.data.images import voc_palette
from ssrseg.overlay import heat_overlay, ids_overlay, outlined, target_overlay
from ssrseg.paper.cam_comparison import CLIP_CAM, CMPA_CAM, PRIOR, SSR, Closeup
from ssrseg.paper.grid import Figure, add_heat_bar, add_key, add_note, draw_grid, key_height
from ssrseg.paper.method_comparison import IMAGE, OURS, TRUTH, Compared
from ssrseg.paper.page import Colour, Picture, PictureRow

CELL = 1.55
"""Inches: width of a picture where a row is an image, height where a column is."""

BLANK = 235


def qualitative_figure(groups: Sequence[Sequence[Compared]]) -> Figure:
    """Figure 3: rows are the image, other methods, ours and the truth; columns are images.

    Args:
        groups: The columns of one data set, or of two; a class name has one colour in both.
    """
    columns = [column for group in groups for column in group]
    names = [IMAGE, *(name for name in columns[0].masks if name != OURS), OURS, TRUTH]
    palette = _shared_palette(columns)
    ratios = [_ratio(column.photo.numpy()) for column in columns]
    widths = [CELL / ratio for ratio in ratios]
    rows = [
        PictureRow(name, tuple(_qualitative_cell(name, column, palette) for column in columns))
        for name in names
    ]
    headings = [
        "\n".join(textwrap.wrap(", ".join(column.class_names[i] for i in column.labels) or "none",
                                max(8, int(wide * 15))))
        for column, wide in zip(columns, widths, strict=True)
    ]  # fmt: skip
    key = _classes_seen(columns, palette)
    footer = key_height(key, sum(widths))
    parted = len(groups[0]) if len(groups) > 1 else 0
    figure = draw_grid(
        headings, rows, widths, [CELL] * len(rows), parted_before=parted, footer=footer
    )
    add_key(figure, key)
    return figure


def cam_figure(closeups: Sequence[Closeup], readout: str, refinement: str) -> Figure:
    """Figure 4: CLIP's CAM beside CMPA's, and CLIP-ES's refinement beside SSR's.

    Args:
        closeups: One row each.
        readout: How CMPA's CAM is read; said over its column.
        refinement: How SSR refines it; said over its column.
    """
    headings = (
        "image", "CLIP CAM", f"CMPA CAM\n({readout})",
        "CLIP CAM refined:\nCLIP attention, box", f"SSR refined:\n{refinement}",
    )  # fmt: skip
    rows = [
        PictureRow(
            each.class_name,
            (_photo(each), *(_cam(each, name) for name in (CLIP_CAM, CMPA_CAM, PRIOR, SSR))),
        )
        for each in closeups
    ]
    return _cam_grid(headings, rows, closeups)


def refinement_figure(closeups: Sequence[Closeup], cam: str) -> Figure:
    """Figure 5: image, target regions, initial CAM, and what SGC makes of it.

    Args:
        closeups: One row each.
        cam: Whose initial CAM it is: CLIP's or CMPA's; said over its column.
    """
    headings = ("image", "target regions", f"initial CAM ({cam})", "after SGC")
    rows = [
        PictureRow(
            each.class_name,
            (_photo(each), _target(each), _cam(each, CMPA_CAM), _cam(each, SSR)),
        )
        for each in closeups
    ]
    return _cam_grid(headings, rows, closeups)


def _cam_grid(
    headings: Sequence[str], rows: Sequence[PictureRow], closeups: Sequence[Closeup]
) -> Figure:
    heights = [CELL * _ratio(each.photo.numpy()) for each in closeups]
    figure = draw_grid(headings, rows, [CELL] * len(headings), heights, footer=0.2)
    add_heat_bar(figure)
    if any(each.truth is not None for each in closeups):
        add_note(
            figure,
            "line: true outline of the class; numbers: % of the activation on class, others,"
            " background",
        )
    return figure


def _photo(closeup: Closeup) -> Picture:
    return Picture("", _with_outline(closeup, closeup.photo.numpy()))


def _cam(closeup: Closeup, name: str) -> Picture:
    image = heat_overlay(closeup.photo.numpy(), closeup.cams[name].numpy())
    return Picture(shares_text(closeup, name), _with_outline(closeup, image))


def _target(closeup: Closeup) -> Picture:
    if closeup.target is None:
        return Picture("affinity.mask = none", _blank(closeup.photo.numpy()))
    image = target_overlay(closeup.photo.numpy(), closeup.target.numpy())
    return Picture(f"{100 * float(closeup.target.float().mean()):.0f} % of the image", image)


def _with_outline(
    closeup: Closeup, image: UInt8[np.ndarray, "height width 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    region = class_region(closeup)
    return image if region is None else outlined(image, region)


def class_region(closeup: Closeup) -> np.ndarray | None:
    """Where the class truly is; None without a true mask."""
    if closeup.truth is None:
        return None
    return closeup.truth.numpy() == closeup.class_id


def shares_text(closeup: Closeup, name: str) -> str:
    """``class 62 · others 21 · bg 17``, in percent; nothing without a true mask."""
    if name not in closeup.shares:
        return ""
    shares = closeup.shares[name]
    return (
        f"class {percent(shares.own_class)} · others {percent(shares.other_classes)}"
        f" · bg {percent(shares.background)}"
    )


def percent(share: float) -> str:
    """Without decimals and sign; a dash where there is no share."""
    return "-" if share != share else f"{100 * share:.0f}"


def _qualitative_cell(
    name: str, column: Compared, palettes: dict[tuple[str, ...], np.ndarray]
) -> Picture:
    photo = column.photo.numpy()
    if name == IMAGE:
        return Picture("", photo)
    ids = column.truth if name == TRUTH else column.masks[name]
    if ids is None:
        return Picture("no mask", _blank(photo))
    caption = f"mIoU {100 * column.miou[name]:.1f}" if name in column.miou else ""
    return Picture(caption, ids_overlay(photo, ids.numpy(), palettes[column.class_names]))


def _blank(photo: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    return np.full_like(photo, BLANK)


def _ratio(photo: UInt8[np.ndarray, "height width 3"]) -> float:
    """Height over width; a panorama is shown narrower than its cell instead of tiny."""
    return min(max(photo.shape[0] / photo.shape[1], 0.4), 2.5)


def _shared_palette(columns: Sequence[Compared]) -> dict[tuple[str, ...], np.ndarray]:
    """Colours by id for each list of classes; the first list has VOC's order of colours."""
    lists = list(dict.fromkeys(column.class_names for column in columns))
    place = {name: index % 255 + 1 for index, name in enumerate(dict.fromkeys(sum(lists, ())))}
    palette = voc_palette()
    return {names: palette[[0, *(place[name] for name in names)]] for names in lists}


def _classes_seen(
    columns: Sequence[Compared], palettes: dict[tuple[str, ...], np.ndarray]
) -> list[tuple[str, Colour]]:
    """Key of the classes in any mask of the figure."""
    seen: dict[str, Colour] = {}
    for column in columns:
        masks = [ids for ids in (*column.masks.values(), column.truth) if ids is not None]
        ids = sorted({int(value) for mask in masks for value in mask.unique()} - {0, 255})
        for value in ids:
            red, green, blue = (int(c) for c in palettes[column.class_names][value])
            seen.setdefault(column.class_names[value - 1], (red, green, blue))
    return list(seen.items())
