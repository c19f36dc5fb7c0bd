"""PGM and PPM of more than 8 bits, of which Pillow keeps 8 or which it scales."""

from __future__ import annotations

import re

import numpy as np

from ssrseg.data.pixels import PixelValues

_HEADER = re.compile(rb"P([2356])" + 3 * rb"(?:\s|#[^\n]*\n)+(\d+)" + rb"\s")


def read_deep(content: bytes) -> PixelValues | None:
    """The values as they are; None for another file, or one of 8 bits.

    Raises:
        OSError: If it is cut short.
    """
    found = _HEADER.match(content)
    if found is None or not 255 < int(found[4]) <= 65535:
        return None
    kind, width, height, white = (int(each) for each in found.groups())
    channels = 3 if kind in (3, 6) else 1
    count = width * height * channels
    if kind in (5, 6):
        values = np.frombuffer(content[found.end() :][: 2 * count], ">u2")
    else:
        words = re.sub(rb"#[^\n]*", b"", content[found.end() :]).split()
        values = np.array(words[:count], np.int64)
    if values.size < count:
        raise OSError("its data end before the picture does")
    return PixelValues(
        values.astype(np.uint16).reshape(height, width, channels),
        16,
        colour=channels == 3,
        declared=None if white == 65535 else (0.0, float(white)),
    )
