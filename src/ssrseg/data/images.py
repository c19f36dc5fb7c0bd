"""Photographs on disk and in memory as RGB, 0 .. 255, the way a viewer shows them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin
from torch import Tensor

from ssrseg.data.colour import to_srgb
from ssrseg.data.decode import QUIET, UNREADABLE, decode, decode_content, orientation_of
from ssrseg.data.files import user_path
from ssrseg.data.levels import Range, to_levels
from ssrseg.data.notices import note_once
from ssrseg.data.pixels import Bands, PixelValues, check_bands, on_white, refuse_bands
from ssrseg.errors import DataError, counted

_FORMS = "Give a path, a PIL image, a numpy array or a torch tensor."

_GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")

_UPRIGHT = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def read_image(
    path: Path | str, value_range: Range | None = None, bands: Bands | None = None
) -> UInt8[Tensor, "height width 3"]:
    """Read a photograph as RGB, 0 .. 255, the way a viewer shows it.

    The EXIF orientation and the ICC profile are applied, transparent pixels are laid on white, and
    of several frames the first is taken. Damaged EXIF data and profiles are ignored. Samples of
    more than 8 bits and floats are scaled as ``to_levels`` says; what is more than scaling is noted
    once. Of a TIFF, the first full page is read.

    Args:
        value_range: Black and white of samples that are not unsigned 8-bit integers
            (``data.range``); None = by the file and its values.
        bands: Which bands are red, green and blue, from 1 (``data.bands``); None = by the file.

    Raises:
        DataError: If the file is missing, empty, truncated, or no image, has more than three bands
            and nothing says which ones to read, or lacks one that is named.
    """
    path = user_path(path, "an image")
    check_range(value_range)
    return _rgb(decode(path), path, value_range, bands)


def as_photo(
    image: object, value_range: Range | None = None, bands: Bands | None = None
) -> UInt8[Tensor, "height width 3"]:
    """A photograph in any of the usual forms as RGB, 0 .. 255, in new memory.

    A path is read by ``read_image``, and a PIL image is treated as its file would be. NumPy
    arrays and tensors are height x width x channels or channels x height x width, with 3 channels,
    4 (RGBA, laid on white) or 1; or height x width (grey). They hold uint8, or floats from 0 to 1,
    which are rounded to the nearest of the 256 levels. Nothing is guessed: other integers are
    refused, because the same numbers may be a light 8-bit or a dark 16-bit image, unless
    ``value_range`` names their black and white; and so are shapes such as (3, 500, 3) that can be
    read both ways.

    Raises:
        DataError: If the file is unreadable, or the object has another type, shape, dtype or range.
    """
    check_range(value_range)
    if isinstance(image, str | os.PathLike):
        return read_image(user_path(image, "an image"), value_range, bands)
    if isinstance(image, Image.Image):
        return _photo_of_pil(image, value_range, bands)
    if isinstance(image, Tensor):
        return _photo_of_tensor(image, value_range)
    if isinstance(image, np.ndarray):
        return _photo_of_array(image, f"the array of shape {image.shape}", value_range)
    if hasattr(image, "read"):
        raise DataError(
            f"one image is expected, but a {type(image).__name__} was given, an open file. Give"
            " PIL.Image.open(file)."
        )
    several = isinstance(image, Iterable) and not isinstance(image, (list, tuple, bytes))
    raise DataError(
        f"one image is expected, but a {type(image).__name__} was given. "
        + ("Pass several images as a list: list(images)." if several else _FORMS)
    )


def check_range(value_range: Any) -> None:
    """Raise DataError unless it is black and white, or None: as ``data.range`` does."""
    try:
        low, high = (0.0, 1.0) if value_range is None else value_range
        good = not isinstance(value_range, str) and -np.inf < low < high < np.inf
    except (TypeError, ValueError):
        good = False
    if not good:
        raise DataError(
            f"value_range is {value_range!r}, but two finite numbers are expected, black below"
            " white, such as (0, 4095)."
        )


def _photo_of_tensor(image: Tensor, value_range: Range | None) -> UInt8[Tensor, "height width 3"]:
    if image.is_nested or image.is_meta or image.layout != torch.strided:
        kind, cure = "nested", "Pass several images as a list."
        if image.is_meta:
            kind, cure = "without values (device meta)", "Give the photograph itself."
        elif not image.is_nested:
            kind, cure = "sparse", "Give image.to_dense()."
        raise DataError(f"an image is a dense tensor, but one was given that is {kind}. {cure}")
    what = f"the tensor of shape {tuple(image.shape)}"
    cpu = image.detach().cpu()
    try:
        array = (cpu.float() if cpu.dtype == torch.bfloat16 else cpu.resolve_conj()).numpy()
    except (TypeError, RuntimeError) as error:
        raise DataError(
            f"{what} holds {image.dtype}, of which numpy makes no array. Give uint8 or float32."
        ) from error
    return _photo_of_array(array, what, value_range)


def _photo_of_pil(
    image: Image.Image, value_range: Range | None, bands: Bands | None
) -> UInt8[Tensor, "height width 3"]:
    name = f"the PIL image {getattr(image, 'filename', '')}".strip()
    if 0 in image.size:
        raise DataError(f"{name} is empty ({image.width} x {image.height}). Give a photograph.")
    try:
        content = _not_yet_read(image)
        decoded = decode_content(content, name) if content else None
        with QUIET:
            image.load()  # which closes its file, if Pillow opened that
    except UNREADABLE as error:  # AssertionError if its file is closed
        raise DataError(
            f"{name} cannot be decoded ({str(error) or type(error).__name__}). Is its file whole,"
            " and still open? Give its path, or load() it while the file is open."
        ) from error
    if image.format is None:  # made in memory: its colours have been chosen
        bands = None
    return _rgb(decoded or _as_tagged(image, name), name, value_range, bands)


def _as_tagged(image: Image.Image, name: str) -> Image.Image | PixelValues:
    """What Pillow made of a TIFF, with what it did not respect; other images as they are."""
    lost = ""
    file = Path(str(getattr(image, "filename", "") or ""))
    if isinstance(image, PngImagePlugin.PngImageFile) and image.mode in ("RGB", "RGBA", "LA"):
        with suppress(OSError), file.open("rb") as begin:
            lost = "16 bits, of which Pillow has kept 8" if begin.read(25)[24:] == b"\x10" else ""
    tags = getattr(image, "tag_v2", {})
    if isinstance(image, TiffImagePlugin.TiffImageFile) and not image.tell() and tags.get(254) == 1:
        lost = "a thumbnail as its first page, which Pillow has read instead of the picture"
    if lost:
        raise DataError(
            f"{name} has {lost}. Give its path, or the image as Image.open returns it, before"
            " load()."
        )
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image
    tags, profile = image.tag_v2, image.info.get("icc_profile")
    bits = max(tags.get(258, (1,)))
    if image.mode.startswith("I;16"):
        white_is_zero = tags.get(262) == 0
        return PixelValues(np.array(image), bits, white_is_zero=white_is_zero, icc=profile)
    if bits > 8 and image.mode not in ("I", "F"):
        raise DataError(
            f"{name} has {bits} bits, of which Pillow has kept 8. Give its path, or the image as"
            " Image.open returns it, before load()."
        )
    if image.mode == "RGBA" and tags.get(338) == (2,):
        return PixelValues(np.array(image), 8, colour=True, extra=(2,), icc=profile)
    return image


def _not_yet_read(image: Image.Image) -> bytes:
    """The file of a PIL image that was opened and not touched since; else nothing."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or image.tell():
        return b""
    file, drafted = image.fp, getattr(image, "decoderconfig", ())  # smaller than in the file
    if file is None or file.closed or drafted:
        return b""
    at = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(at)
    return content


def _photo_of_array(
    array: np.ndarray, what: str, value_range: Range | None
) -> UInt8[Tensor, "height width 3"]:
    """Check shape, dtype and range in this order; ``what`` names the array in messages."""
    expected = "height x width x 3 or 3 x height x width (or height x width, grey) is expected"
    last, first = (array.ndim == 3 and array.shape[axis] in (1, 3, 4) for axis in (-1, 0))
    problem = ""
    if array.ndim == 4:
        problem = f"is a batch, but {expected}. Pass a list of images: list(batch)."
    elif array.ndim not in (2, 3):
        axes = counted(array.ndim, "axis", "axes")
        problem = f"has {axes}, but {expected}. Reshape it, or give one image of it."
    elif array.size == 0:
        problem = f"is empty, but {expected}. Give a photograph."
    elif last and first:
        problem = (
            "can be read as height x width x channels and as channels x height x width. Give it as"
            " a PIL image, whose axes are certain: PIL.Image.fromarray(array)."
        )
    elif array.ndim == 3 and not last and not first:
        problem = (
            "has its 3 channels (RGB; or 4, RGBA; or 1, grey) neither as first nor as last axis:"
            f" {expected}. Reorder its axes, or choose three channels."
        )
    if problem:
        raise DataError(f"{what} {problem}")
    array = array.transpose(1, 2, 0) if first else array
    if value_range is not None and array.dtype.kind in "iu" and array.dtype != np.uint8:
        levels = to_levels(array, what, value_range)
    else:
        levels = _levels(array, what)
    pil = Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)
    return torch.from_numpy(np.array(_to_rgb(pil, what, None)))


def _levels(array: np.ndarray, what: str) -> np.ndarray:
    """The values as uint8, or in one sentence why they are none."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    kind, found = array.dtype.kind, str(array.dtype)
    if kind == "b":
        cure = "If it is no mask but truly black and white, give floats."
    elif kind not in "iuf":
        cure = "Convert it."
    elif not np.isfinite(array).all():
        found = "nan or infinity"
        cure = "Give the photograph from before the calculation that made them."
    else:
        levels = np.rint(array * np.float64(255))
        if kind == "f" and levels.min() >= 0 and levels.max() <= 255:  # 1.0000001 is 1
            return levels.astype(np.uint8)
        low, high = array.min(), array.max()
        found += f" from {low:.6g} to {high:.6g}"
        if kind == "f":
            cure = "Undo its normalisation (image * std + mean) and clip it to 0 .. 1."
            cure = "Divide it by 255." if low >= 0 and high <= 255 else cure
        else:
            cure = "Divide it by the value of white, such as 65535 for 16 bits."
            cure = "If 255 is white, convert it to uint8." if low >= 0 and high <= 255 else cure
    expected = "uint8 from 0 to 255 or floats from 0 to 1 are expected"
    raise DataError(f"{what} holds {found}, but {expected}. {cure}")


def _rgb(
    image: Image.Image | PixelValues,
    name: Path | str,
    value_range: Range | None,
    bands: Bands | None,
) -> UInt8[Tensor, "height width 3"]:
    """A decoded image as a viewer shows it; ``name`` is for messages."""
    if isinstance(image, PixelValues):
        orientation, rgb = image.orientation, image.to_rgb(name, value_range, bands)
    else:
        orientation = orientation_of(image)
        try:
            with QUIET:
                rgb = _to_rgb(_in_order(image, name, bands), name, value_range)
        except UNREADABLE as error:
            raise DataError(
                f"{name} cannot be turned into RGB from its colour mode {image.mode} ({error})."
                " Save it as an 8-bit RGB JPEG or PNG."
            ) from error
    turned = rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb
    return torch.from_numpy(np.array(turned))


def _in_order(image: Image.Image, name: Path | str, bands: Bands | None) -> Image.Image:
    """An image whose red, green and blue are the bands that are named."""
    if bands is None:
        return image
    if image.mode in _GREY:
        check_bands(name, bands, 1)
        return image
    if image.mode not in ("RGB", "RGBA"):
        refuse_bands(name, bands, f"colours of the kind {image.mode}")
        return image
    check_bands(name, bands, len(image.mode))
    whole = image.convert("RGBA") if image.has_transparency_data else image
    parts = [whole.getchannel(band - 1) for band in bands]
    if whole.mode == "RGBA" and 4 not in bands:
        parts.append(whole.getchannel("A"))
    found = Image.merge("RGBA" if len(parts) == 4 else "RGB", parts)
    found.info["icc_profile"] = image.info.get("icc_profile")
    return found


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Values of an image that is stored turned, by EXIF's orientation, as a viewer shows them."""
    way = _UPRIGHT.get(orientation)
    return pixels if way is None else np.array(Image.fromarray(pixels).transpose(way))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of a photograph as a viewer shows it; DataError as of ``read_image``."""
    image = decode(path)
    if isinstance(image, Image.Image):
        height, width, orientation = image.height, image.width, orientation_of(image)
    else:
        height, width, orientation = *image.values.shape[:2], image.orientation
    return (width, height) if orientation >= 5 else (height, width)


def check_size(image: UInt8[Tensor, "height width 3"], path: Path, min_side: int) -> None:
    """Refuse an image with a side of less than one patch; ``path`` is for the message."""
    height, width = image.shape[:2]
    if min(height, width) < min_side:
        raise DataError(
            f"{path} is {width} x {height} pixels, smaller than one patch of the encoder"
            f" ({min_side} x {min_side}). Remove it from the data or replace it by a larger copy."
        )


def _to_rgb(image: Image.Image, name: Path | str, value_range: Range | None) -> Image.Image:
    profile = image.info.get("icc_profile")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        note_once(
            f"frames of {image.format}",
            f"{name} has several frames: the first is read, as of others.",
        )
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(to_levels(np.array(image), name, value_range))
    if not image.has_transparency_data:
        return to_srgb(image, profile)
    opacity = np.array(image.convert("RGBA").getchannel("A"))
    colours = image.convert("L") if image.mode == "LA" else image.convert("RGBA").convert("RGB")
    return on_white(to_srgb(colours, profile), opacity, name)
