"""Is all of a JPEG there? The decoder fills up what is missing with grey and says nothing."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image, JpegImagePlugin

_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the first one behind compressed data
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_SCAN, _END = 0xDA, 0xD9
_FILLER = bytes(range(1, 255)) * 2


def ends_early(content: bytes, image: Image.Image) -> bool:
    """True if compressed data stop before the picture is complete, though an end marker follows.

    Bytes put before the end marker change the picture only if the decoder still wants data. That is
    exact, but decodes twice; so files that carry the picture from top to bottom are asked only if
    their last pixel is the decoder's grey. Progressive ones are always asked.

    Args:
        content: The file.
        image: What Pillow decoded of it, not yet changed.
    """
    frame, scan = _headers(content)
    if scan == 0:
        return False
    in_one_scan = frame[0] in _SEQUENTIAL and content[scan + 4] == frame[1]
    last = np.array(image.getpixel((image.width - 1, image.height - 1)))
    if in_one_scan and np.abs(last - 128).max() > 2:
        return False
    end = _end_of_data(content, scan)
    longer = content[:end] + _FILLER + b"\xff\xd9"
    try:
        again = JpegImagePlugin.JpegImageFile(io.BytesIO(longer))
        again.load()
    except (OSError, SyntaxError, ValueError):
        return False
    same_form = (again.mode, again.size) == (image.mode, image.size)  # or it was changed by hand
    return same_form and again.tobytes() != image.tobytes()


def _headers(content: bytes) -> tuple[tuple[int, int], int]:
    """(Marker of the frame, its components), and where the first scan's marker is; 0 = nowhere."""
    at, frame = 2, (0, 0)
    while at + 4 <= len(content):
        if content[at] != 0xFF:
            at += 1
            continue
        marker = content[at + 1]
        if marker == _SCAN:
            return frame, at
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # without a length
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES and at + 10 <= len(content):
            frame = (marker, content[at + 9])
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return frame, 0


def _end_of_data(content: bytes, scan: int) -> int:
    """Where the marker stands that ends the last scan."""
    at = scan
    while True:
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        found = _MARKER_IN_SCAN.search(content, at)
        if found is None:
            return len(content)
        at = found.start()
        if content[at + 1] == _END:
            return at
