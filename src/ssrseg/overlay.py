"""Maps and masks as colour, alone or over the photograph. Arrays in, RGB arrays out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

IGNORE = 255
WHITE = (255, 255, 255)
HATCH_PERIOD = 6
"""Pixels from one hatch line to the next."""

INFERNO = np.array(
    [
        (0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84),
        (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164),
    ],
    np.float64,
)  # fmt: skip
"""Colours at 0, 0.1, .., 1: lightness rises all the way, so a map also reads in grey.

Source: the colour map of that name by N. Smith and S. van der Walt, public domain.
"""

ERROR_COLOURS = {
    "hit": (0, 158, 115), "other class": (213, 94, 0),
    "background": (240, 228, 66), "missed": (86, 180, 233),
}  # fmt: skip
"""Four colours that colour-blind people can tell apart.

Source: M. Okabe and K. Ito, Color Universal Design.
"""


def heat(values: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Colour of each value: black 0, purple, red, orange, pale yellow 1.

    Raises:
        ValueError: If a value is nan or outside [0, 1].
    """
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"values must be in [0, 1], found {values.min()} .. {values.max()}")
    anchors = np.linspace(0, 1, len(INFERNO))
    channels = [np.interp(values, anchors, INFERNO[:, channel]) for channel in range(3)]
    return _to_bytes(np.stack(channels, -1))


def heat_overlay(
    image: UInt8[np.ndarray, "height width 3"],
    values: Float[np.ndarray, "height width"],
    strength: float = 0.5,
) -> UInt8[np.ndarray, "height width 3"]:
    """Mix the grey photograph with the colours of ``values``: strength 0 = grey, 1 = colours.

    Grey, because the photograph's own colours would read as heat.
    """
    _same_size(image, values)
    return _mix(_grey(image), heat(values), strength)


def ids_to_rgb(
    ids: UInt8[np.ndarray, "height width"], palette: UInt8[np.ndarray, "colours 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Colour of each class id; 255 (ignore) is white.

    Raises:
        ValueError: If an id has no colour.
    """
    known = ids != IGNORE
    if known.any() and ids[known].max() >= len(palette):
        raise ValueError(f"class id {ids[known].max()} has no colour among {len(palette)}")
    colours = np.full((*ids.shape, 3), WHITE, np.uint8)
    colours[known] = palette[ids[known]]
    return colours


def ids_overlay(
    image: UInt8[np.ndarray, "height width 3"],
    ids: UInt8[np.ndarray, "height width"],
    palette: UInt8[np.ndarray, "colours 3"],
    strength: float = 0.6,
) -> UInt8[np.ndarray, "height width 3"]:
    """Tint the (grey) photograph by class, with an outline in the full colour.

    Background (0) is left untouched, 255 (ignore) is hatched and outlined in white.

    Args:
        image: Photograph.
        ids: 0 background, 1 + class index, 255 ignore.
        palette: Colour by id.
        strength: Share of the class colour inside a region, 0 .. 1.
    """
    _same_size(image, ids)
    colours = ids_to_rgb(ids, palette)
    ignored, painted = ids == IGNORE, (ids != 0) & (ids != IGNORE)
    out = image.copy()
    out[painted] = _mix(_grey(image), colours, strength)[painted]
    rows, columns = np.indices(ids.shape)
    hatch = ignored & ((rows + columns) % HATCH_PERIOD == 0)
    outline = (ids != 0) & _edge(ids)
    out[hatch | outline] = colours[hatch | outline]
    return out


def target_overlay(
    image: UInt8[np.ndarray, "height width 3"], target: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Keep the target pixels as they are; the rest grey and dim, with a white line around them."""
    _same_size(image, target)
    out = np.where(target[..., None], image, _to_bytes(_grey(image) * 0.35 + 40))
    out[~target & _edge(target)] = WHITE
    return out


def outlined(
    image: UInt8[np.ndarray, "height width 3"],
    region: Bool[np.ndarray, "height width"],
    colour: tuple[int, int, int] = WHITE,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a line just outside a region."""
    _same_size(image, region)
    out = image.copy()
    out[~region & _edge(region)] = colour
    return out


def error_overlay(
    image: UInt8[np.ndarray, "height width 3"],
    predicted: UInt8[np.ndarray, "height width"],
    truth: UInt8[np.ndarray, "height width"],
    strength: float = 0.65,
) -> UInt8[np.ndarray, "height width 3"]:
    """Tint the (grey) photograph by what a mask gets right and wrong (Figure 1a).

    Args:
        image: Photograph.
        predicted: Class ids; 255 is left untouched.
        truth: Class ids; 255 is left untouched.
        strength: Share of the colour, 0 .. 1.
    """
    _same_size(image, predicted)
    _same_size(image, truth)
    out = _to_bytes(_grey(image))
    decided = (predicted != IGNORE) & (truth != IGNORE)
    kinds = {
        "hit": (predicted == truth) & (truth != 0),
        "other class": (predicted != truth) & (predicted != 0) & (truth != 0),
        "background": (predicted != 0) & (truth == 0),
        "missed": (predicted == 0) & (truth != 0),
    }
    for kind, where in kinds.items():
        colour = np.broadcast_to(np.array(ERROR_COLOURS[kind], np.uint8), image.shape)
        out[where & decided] = _mix(_grey(image), colour, strength)[where & decided]
    return out


def upsample(
    values: Float[np.ndarray, "grid_h grid_w"], size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """Enlarge a map to (height, width), bilinear between cell centres; range is kept."""
    enlarged = Image.fromarray(values.astype(np.float32)).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR
    )
    # Rounding may leave the range by one unit in the last place, which `heat` refuses.
    return np.asarray(enlarged).clip(values.min(), values.max())


def _edge(
    regions: UInt8[np.ndarray, "height width"] | Bool[np.ndarray, "height width"],
) -> Bool[np.ndarray, "height width"]:
    """Pixels with another region above, below, left or right; the image's border is no edge."""
    edge = np.zeros(regions.shape, bool)
    below, right = regions[1:] != regions[:-1], regions[:, 1:] != regions[:, :-1]
    edge[1:] |= below
    edge[:-1] |= below
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def _grey(
    image: UInt8[np.ndarray, "height width 3"],
) -> Float[np.ndarray, "height width 3"]:
    luma = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat(luma[..., None], 3, -1)


def _mix(
    photo: Float[np.ndarray, "height width 3"],
    colours: UInt8[np.ndarray, "height width 3"],
    strength: float,
) -> UInt8[np.ndarray, "height width 3"]:
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], not {strength}")
    return _to_bytes((1 - strength) * photo + strength * colours)


def _to_bytes(
    colours: Float[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "height width 3"]:
    return colours.round().astype(np.uint8)


def _same_size(image: np.ndarray, over: np.ndarray) -> None:
    if image.shape[:2] != over.shape:
        raise ValueError(f"image {image.shape} and map {over.shape} differ in height or width")
