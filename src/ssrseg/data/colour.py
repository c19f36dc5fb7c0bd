"""Colours of a photograph as a viewer shows them: its ICC profile to sRGB."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image, ImageCms

from ssrseg.data.notices import note_once

_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = (0.8951, 0.2664, -0.1614, -0.7502, 1.7135, 0.0367, 0.0389, -0.0685, 1.0296)
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}  # of ICC, by Pillow's mode


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image without transparency as sRGB; a broken profile, or another's, is ignored.

    The first is noted once.
    """
    image = image if image.mode in _SPACES else image.convert("RGB")
    if image.mode == "LAB":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    if profile:
        transform = _transform(profile, image.mode)
        if transform is None and image.mode == "L":  # many greys carry a profile for colours
            transform, image = _transform(profile, "RGB"), image.convert("RGB")
        if transform is not None and _is_plausible(profile, image.mode):
            return transform.apply(image)
    return image.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None if it is broken, not for this mode, or sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB")
        if mode == "RGB":
            colours = np.array([list(product(range(0, 256, 51), repeat=3))], np.uint8)
            shown = np.array(transform.apply(Image.fromarray(colours)))
            if np.abs(shown.astype(int) - colours).max() <= 1:
                return None
        return transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        _say_ignored()
        return None


@lru_cache(maxsize=32)
def _is_plausible(profile: bytes, mode: str) -> bool:
    """False if it makes no picture of one: black of white, say, as a damaged profile does."""
    transform = _transform(profile, mode)
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    ramp = {"L": steps, "RGB": np.stack([steps] * 3, -1)}.get(mode)
    if mode == "CMYK":
        ramp = np.stack([steps * 0] * 3 + [steps[::-1]], -1)
    if transform is None or ramp is None:
        return True
    shown = np.array(transform.apply(Image.fromarray(ramp[None], mode)))[0].astype(int)
    light = shown.mean(-1)
    rises = np.diff(light).min() >= -2 and light[-1] >= 160 and light[-1] - light[0] >= 96
    middle = 16 <= light[len(light) // 2] <= 240 or mode == "CMYK"
    neutral = np.ptp(shown, axis=-1).max() <= 96
    distinct = True
    if mode == "RGB":
        primaries = np.eye(3, dtype=np.uint8)[None] * np.uint8(255)
        three = np.array(transform.apply(Image.fromarray(primaries)))[0].astype(int)
        apart = [np.abs(three[one] - three[one - 1]).max() for one in range(3)]
        distinct = min(apart) >= 64
    plausible = bool(rises and middle and neutral and distinct)
    if not plausible:
        _say_ignored()
    return plausible


def _say_ignored() -> None:
    note_once(
        "colour profile",
        "a photograph has a damaged colour profile (ICC): such profiles are ignored, and its values"
        " are read as sRGB.",
    )


@lru_cache(maxsize=32)
def matrix_profile(corners: tuple[float, ...], gamma: float | None) -> bytes | None:
    """An ICC profile of colours given by their primaries; None if these are no triangle.

    Args:
        corners: x and y of white, red, green and blue.
        gamma: Exponent of the values; None = sRGB's curve.
    """
    xy = np.array(corners, float).reshape(4, 2)
    xyz = np.stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(1)) / xy[:, 1]])
    cone = np.array(_BRADFORD).reshape(3, 3)
    try:
        primaries = xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0])
        scale = (cone @ _D50) / (cone @ xyz[:, 0])
        columns = np.linalg.inv(cone) @ (scale[:, None] * (cone @ primaries))
    except np.linalg.LinAlgError:
        return None
    if np.abs(columns).max() > 4:
        return None
    if gamma is None:
        values = np.linspace(0, 1, 1024)
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        table = np.rint(linear * 65535).astype(">u2").tobytes()
        curve = b"curv" + bytes(4) + struct.pack(">I", 1024) + table
    else:
        curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x" + bytes(81)}
    for name, values in zip((b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ"), (_D50, *columns.T), strict=True):
        tags[name] = b"XYZ " + bytes(4) + np.rint(values * 65536).astype(">i4").tobytes()
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    index, body, begin = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, each in tags.items():
        index += struct.pack(">4sII", name, begin + len(body), len(each))
        body += each
    kinds = b"mntrRGB XYZ ", b"acsp"
    head = struct.pack(">I4xI12s12x4s28x", begin + len(body), 0x02400000, *kinds)
    white = np.rint(_D50 * 65536).astype(">i4").tobytes()
    return (head + white).ljust(128, b"\0") + index + body


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
