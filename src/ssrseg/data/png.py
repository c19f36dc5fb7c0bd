"""What Pillow leaves out of a PNG: checksums, missing rows, and colours without a profile."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BufferedReader, BytesIO
from mmap import mmap

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin

from ssrseg.data.colour import matrix_profile
from ssrseg.data.notices import note_once

_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # x and y of white, red, green, blue
_PRIMARIES = {  # of ITU-T H.273
    1: _SRGB,
    9: (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    12: (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
_GAMMAS = {1: None, 6: None, 13: None, 14: None, 15: None, 4: 2.2, 5: 2.8, 8: 1.0}  # None = sRGB's


MOST_PIXELS = 1 << 30
"""Of a mask; Pillow would refuse those of the largest images."""


def open_png(file: BufferedReader | BytesIO) -> ImageFile.ImageFile:
    """Open a mask with Pillow, a PNG whatever its size.

    Raises:
        DecompressionBombError: If it has more than ``MOST_PIXELS``.
    """
    begin = file.read(8)
    file.seek(0)
    if begin != b"\x89PNG\r\n\x1a\n":
        return Image.open(file)
    image = PngImagePlugin.PngImageFile(file)
    if image.width * image.height > MOST_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    return image


def check_png(image: Image.Image, content: bytes) -> None:
    """Raise OSError if a chunk that matters is damaged, or rows are missing."""
    packed, header = [], b""
    for kind, body, checksum in _chunks(content):
        if kind[:1].isupper() and zlib.crc32(kind + body) != checksum:
            raise OSError(f"the checksum of its {kind.decode('latin-1')} data is wrong")
        if kind == b"IDAT":
            packed.append(body)
        elif kind == b"IHDR":
            header = body
    width, height, bits, kind_, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    last = image.crop((0, image.height - 1, image.width, image.height))
    if interlaced or not any(last.tobytes()):  # Pillow leaves rows that are not there at zero
        depth = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind_]
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                  (1, 0, 2, 2), (0, 1, 1, 2)] if interlaced else [(0, 0, 1, 1)]  # fmt: skip
        expected = 0
        for left, top, step_x, step_y in passes:
            across, down = -(-(width - left) // step_x), -(-(height - top) // step_y)
            expected += down * (1 + (across * depth + 7) // 8) if across > 0 and down > 0 else 0
        if len(zlib.decompressobj().decompress(b"".join(packed), expected)) < expected:
            raise OSError("it holds fewer rows than its header says")


def png_profile(image: Image.Image, content: bytes | mmap, name: str) -> bytes | None:
    """The ICC profile that a PNG carries, or one of what it says of its colours otherwise."""
    bodies = {kind: body for kind, body, _ in _chunks(content, pixels=False)}
    embedded: bytes | None = image.info.get("icc_profile")
    code = bodies.get(b"cICP", b"")
    if len(code) == 4:
        if code[0] in _PRIMARIES and code[1] in _GAMMAS and code[3] == 1:
            plain = code[0] == 1 and _GAMMAS[code[1]] is None
            return None if plain else matrix_profile(_PRIMARIES[code[0]], _GAMMAS[code[1]])
        note_once(
            "cICP",
            f"{name} has colours (cICP {tuple(code)}) that are not converted, such as those of high"
            " dynamic range: they are read as sRGB, here and in photographs like it.",
        )
    if embedded or b"sRGB" in bodies:
        return embedded
    gamma, corners = image.info.get("gamma", 0), image.info.get("chromaticity", _SRGB)
    usual = not gamma or abs(gamma - 1 / 2.2) < 0.03
    if (usual and np.abs(np.subtract(corners, _SRGB)).max() < 0.005) or not usual + gamma >= 0.1:
        return None
    if not all(0 < each < 1 for each in corners):
        return None
    return matrix_profile(tuple(corners), None if usual else 1 / gamma)


def grey_step(content: bytes) -> int:
    """What Pillow multiplies greys of 1, 2 or 4 bits by."""
    return {1: 255, 2: 85, 4: 17}.get(content[24], 1)


def png_exif(content: bytes | mmap) -> bytes:
    """The EXIF block, wherever it stands; empty if there is none."""
    return next((body for kind, body, _ in _chunks(content, pixels=False) if kind == b"eXIf"), b"")


def _chunks(content: bytes | mmap, *, pixels: bool = True) -> Iterator[tuple[bytes, bytes, int]]:
    """Name, content and checksum of each chunk that is whole, with or without those of pixels."""
    at = 8
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if end + 4 > len(content):
            break
        kind = content[at + 4 : at + 8]
        if pixels or kind != b"IDAT":
            yield kind, content[at + 8 : end], int.from_bytes(content[end : end + 4], "big")
        at = end + 4
