"""Colours of a photograph as a viewer shows them: its ICC profile to sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image, ImageCms

from ssrseg.data.notices import note_once

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


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
