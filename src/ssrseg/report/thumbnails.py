"""Small pictures for a gallery: the photograph, and what is laid over it."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.overlay import heat, mask_palette

SIDE = 512
"""Pixels of the longer side at most."""

QUALITY = 75
LEVELS = 64
"""Colours of a map; the browser makes those in between when it enlarges the map."""

COLOURED, SOLID = 200, 255
"""Opacity of a region and of its lines."""

HATCH = 8
"""Pixels from one white stripe of undecided pixels to the next."""


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """Height and width with the longer side at most ``SIDE``; nothing is enlarged."""
    scale = min(1.0, SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def photo_jpeg(photo: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A photograph as a small JPEG."""
    height, width = thumbnail_size(*photo.shape[:2])
    small = Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC, None, 2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def map_png(values: Float[np.ndarray, "grid_h grid_w"]) -> bytes:
    """A map in [0, 1] at its own size, in the colours of ``heat``; what is no number is 0.

    One of a large image is shrunk.
    """
    if max(values.shape) > SIDE:
        height, width = thumbnail_size(*values.shape)
        small = Image.fromarray(values.astype(np.float32))
        values = np.asarray(small.resize((width, height), Image.Resampling.BOX))
    levels = np.rint(np.nan_to_num(values).clip(0, 1) * (LEVELS - 1)).astype(np.uint8)
    return _indexed_png(levels, _heat_colours())


@cache
def _heat_colours() -> UInt8[np.ndarray, "levels 3"]:
    colours: np.ndarray = heat(np.linspace(0, 1, LEVELS)[None])[0]
    return colours


def ids_png(ids: UInt8[np.ndarray, "height width"]) -> bytes:
    """A map of class ids as a small layer: regions in ``mask_palette``, background transparent.

    A region has a white line inside its border and a black one around it, undecided pixels (255)
    are striped, as in ``ids_overlay``.
    """
    height, width = thumbnail_size(*ids.shape)
    small = np.asarray(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))
    there = np.flatnonzero(np.bincount(small.ravel(), minlength=IGNORE)[1:IGNORE]) + 1
    # most masks hold a few classes: a short palette, and fewer bits a pixel
    there = there[: 256 - 3]
    black, white = 1 + len(there), 2 + len(there)
    index = np.zeros(256, np.uint8)
    index[there] = 1 + np.arange(len(there), dtype=np.uint8)
    layer = index[small]
    rows, columns = np.ogrid[:height, :width]
    stripes = np.where((rows + columns) % HATCH < HATCH // 2, white, black).astype(np.uint8)
    layer = np.where(small == IGNORE, stripes, layer)
    painted = (small != 0) & (small != IGNORE)
    layer[painted & _touches_another(small)] = white
    layer[~painted & _touches_another(painted.view(np.uint8))] = black
    colours = np.concatenate(
        [np.zeros((1, 3), np.uint8), mask_palette()[there], [[0] * 3], [[255] * 3]]
    )
    opacity = bytes([0, *[COLOURED] * len(there), SOLID, SOLID])
    return _indexed_png(layer, colours.astype(np.uint8), opacity)


def _touches_another(ids: UInt8[np.ndarray, "height width"]) -> np.ndarray:
    """Pixels with another id above, below, left or right of them."""
    edge = np.zeros(ids.shape, bool)
    for axis in (0, 1):
        along, at = ids.swapaxes(0, axis), edge.swapaxes(0, axis)
        other = along[1:] != along[:-1]
        at[1:] |= other
        at[:-1] |= other
    return edge


def _indexed_png(
    index: UInt8[np.ndarray, "height width"],
    colours: UInt8[np.ndarray, "colours 3"],
    opacity: bytes | None = None,
) -> bytes:
    image = Image.fromarray(index)
    image.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **({} if opacity is None else {"transparency": opacity}))
    return buffer.getvalue()
