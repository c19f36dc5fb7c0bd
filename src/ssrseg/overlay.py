"""Maps and masks as colour, alone or over the photograph. Arrays in, RGB arrays out."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage

from ssrseg.method.pseudo_mask import IGNORE

Rgb = UInt8[np.ndarray, "height width 3"]
Ids = UInt8[np.ndarray, "height width"]
Map = Float[np.ndarray, "height width"]
Region = Bool[np.ndarray, "height width"]
Palette = UInt8[np.ndarray, "colours 3"]

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
HATCH_PERIOD = 8
"""Lines' widths from one white stripe of undecided pixels to the next; see ``line_width``."""

ERROR_COLOURS = {
    "hit": (0, 158, 115), "other class": (213, 94, 0),
    "background": (240, 228, 66), "missed": (86, 180, 233),
}  # fmt: skip
"""Four that colour-blind people can tell apart (M. Okabe and K. Ito, Color Universal Design)."""


@cache
def mask_palette() -> UInt8[np.ndarray, "256 3"]:
    """Colours by class id for drawings: each as far as possible from all before it, and from grey.

    VOC's palette, which mask files carry, has many dark colours that resemble each other. Id 0 is
    black. Do not write into the array: every caller gets the same one.
    """
    from skimage.color import rgb2lab  # here, because it takes a while to import

    levels = np.linspace(0, 255, 16).round() / 255
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = rgb2lab(candidates)
    # neither pale nor so dark or light that an outline swallows it
    clear = (np.hypot(lab[:, 1], lab[:, 2]) > 50) & (lab[:, 0] > 35) & (lab[:, 0] < 88)
    candidates, lab = candidates[clear], lab[clear]
    distance = np.hypot(lab[:, 1], lab[:, 2])  # to the grey of the same lightness
    chosen = [np.zeros(3)]
    for _ in range(255):
        farthest = int(distance.argmax())
        chosen.append(candidates[farthest])
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=-1))
    return _to_bytes(255 * np.array(chosen))


def hex_colours(classes: int) -> list[str]:
    """``#rrggbb`` of each class in ``mask_palette``."""
    return ["#{:02x}{:02x}{:02x}".format(*each) for each in mask_palette()[1 : classes + 1]]


def line_width(shape: tuple[int, ...]) -> int:
    """Pixels of an outline in an image of this height and width."""
    return max(1, round(min(shape[:2]) / 160))


def heat(values: Map) -> Rgb:
    """Colour of each value: black 0, purple, red, orange, pale yellow 1 (inferno).

    Lightness rises all the way, so a map also reads in grey.

    Raises:
        ValueError: If a value is nan or outside [0, 1].
    """
    from matplotlib import colormaps  # here, because it takes a while to import

    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"values must be in [0, 1], found {values.min()} .. {values.max()}")
    return _to_bytes(255 * colormaps["inferno"](values)[..., :3])


def heat_overlay(image: Rgb, values: Map, strength: float = 0.5) -> Rgb:
    """Mix the grey photograph with the colours of ``values``: strength 0 = grey, 1 = colours.

    Grey, because the photograph's own colours would read as heat.
    """
    _same_size(image, values)
    return _mix(_grey(image), heat(values), strength)


def ids_to_rgb(ids: Ids, palette: Palette) -> Rgb:
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


def ids_overlay(image: Rgb, ids: Ids, palette: Palette | None = None, strength: float = 0.8) -> Rgb:
    """Colour the regions of a mask on the grey photograph.

    Grey, because class colours must not be mistaken for the photograph's own. A region has a white
    line inside its border and a black one around it, so it stands out from whatever it lies on.
    Undecided pixels are striped black and white.

    Args:
        ids: 0 background, 1 + class index, 255 undecided (ignore).
        palette: Colour by id; None = ``mask_palette``.
        strength: Share of the class colour inside a region, 0 .. 1.
    """
    _same_size(image, ids)
    colours = ids_to_rgb(ids, mask_palette() if palette is None else palette)
    width = line_width(ids.shape)
    ignored, painted = ids == IGNORE, (ids != 0) & (ids != IGNORE)
    rows, columns = np.indices(ids.shape)
    period = HATCH_PERIOD * width
    colours[ignored & ((rows + columns) % period >= period // 2)] = BLACK
    out = _to_bytes(_grey(image))
    out[ids != 0] = _mix(_grey(image), colours, strength)[ids != 0]
    out[_edge(ids, width) & painted] = WHITE
    out[_edge(painted, width) & ~painted] = BLACK
    return out


def target_overlay(image: Rgb, target: Region) -> Rgb:
    """Keep the target pixels as they are; the rest grey and dim, with a white line around them."""
    _same_size(image, target)
    out = np.where(target[..., None], image, _to_bytes(_grey(image) * 0.35 + 40))
    out[~target & _edge(target, line_width(target.shape))] = WHITE
    return out


def outlined(image: Rgb, region: Region, colour: tuple[int, int, int] = WHITE) -> Rgb:
    """Draw a line just outside a region."""
    _same_size(image, region)
    out = image.copy()
    out[~region & _edge(region, line_width(region.shape))] = colour
    return out


def error_overlay(image: Rgb, predicted: Ids, truth: Ids, strength: float = 0.65) -> Rgb:
    """Tint the (grey) photograph by what a mask gets right and wrong (Figure 1a).

    Where either has 255, the photograph stays. ``strength`` is the colours' share, 0 .. 1.
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


def upsample(values: Float[np.ndarray, "grid_h grid_w"], size: tuple[int, int]) -> Map:
    """Enlarge a map to (height, width), bilinear between cell centres; range is kept."""
    image = Image.fromarray(values.astype(np.float32))
    enlarged = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    # Rounding may leave the range by one unit in the last place, which `heat` refuses.
    return np.asarray(enlarged).clip(values.min(), values.max())


def _edge(regions: Ids | Region, width: int) -> Region:
    """Pixels at most ``width`` steps from another region; the image's border is no edge."""
    near = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), width)
    edge: np.ndarray = ndimage.morphological_gradient(regions.astype(np.uint8), footprint=near) > 0
    return edge


def _grey(image: Rgb) -> Float[np.ndarray, "height width 3"]:
    luma = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat(luma[..., None], 3, -1)


def _mix(photo: Float[np.ndarray, "height width 3"], colours: Rgb, strength: float) -> Rgb:
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], not {strength}")
    return _to_bytes((1 - strength) * photo + strength * colours)


def _to_bytes(colours: Float[np.ndarray, "*shape 3"]) -> UInt8[np.ndarray, "*shape 3"]:
    return colours.round().astype(np.uint8)


def _same_size(image: np.ndarray, over: np.ndarray) -> None:
    if image.shape[:2] != over.shape:
        raise ValueError(f"image {image.shape} and map {over.shape} differ in height or width")
