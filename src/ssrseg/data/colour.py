"""Colours of a photograph as a viewer shows them: its ICC profile to sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}  # of ICC, by Pillow's mode


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image without transparency as sRGB; a broken profile, or another's, is ignored."""
    image = image if image.mode in _SPACES else image.convert("RGB")
    if image.mode == "LAB":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    if profile:
        transform = _transform(profile, image.mode)
        if transform is None and image.mode == "L":  # many greys carry a profile for colours
            transform, image = _transform(profile, "RGB"), image.convert("RGB")
        if transform is not None:
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
        return None


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
