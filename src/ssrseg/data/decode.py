"""Open and decode an image file, or say in one paragraph what is wrong with it."""

from __future__ import annotations

import importlib.util
import io
import lzma
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from ssrseg.data.ignored_warnings import IgnoredWarnings
from ssrseg.data.jpeg import load_whole
from ssrseg.data.notices import note_once
from ssrseg.data.pixels import PixelValues
from ssrseg.data.png import check_png, grey_step, open_png, png_profile
from ssrseg.data.pnm import read_deep
from ssrseg.data.tiff import MAGIC, read_page
from ssrseg.data.walk import nearest_sibling
from ssrseg.errors import DataError

UNREADABLE = (  # what decoders raise on damaged files, beside OSError
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, lzma.LZMAError,
    AssertionError, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError,
    MemoryError,
)  # fmt: skip

QUIET = IgnoredWarnings(  # large images, broken EXIF: we read the picture or we raise
    (Warning, r"PIL\."), (Image.DecompressionBombWarning, "")
)

_DEEP_PNG = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}
"""Pillow's layouts that take the upper byte of samples, and what gives the lower one (or both)."""

_DRAWINGS = ("EPS", "WMF")  # Pillow runs another program for them
_HEIC = "a HEIC photograph", "Install the library for it (pip install pillow-heif)"
_BRANDS = {  # of ISO media files
    b"heic": _HEIC, b"heix": _HEIC, b"hevc": _HEIC, b"hevx": _HEIC, b"heim": _HEIC,
    b"heis": _HEIC, b"mif1": _HEIC, b"msf1": _HEIC,
    b"avif": ("an AVIF photograph", "Install a newer Pillow (pip install --upgrade pillow)"),
    b"avis": ("an AVIF film", "Install a newer Pillow (pip install --upgrade pillow)"),
    b"crx ": ("raw data of a camera (CR3)", "Develop it"),
}  # fmt: skip
_OTHERS = (
    (b"\xff\x0a", "a JPEG XL photograph"), (b"\x00\x00\x00\x0cJXL ", "a JPEG XL photograph"),
    (b"%PDF", "a PDF document"), (b"PK\x03\x04", "a ZIP archive"), (b"<svg", "an SVG drawing"),
    (b"version https://git-lfs", "a Git LFS pointer, which stands for the file (git lfs pull)"),
)  # fmt: skip


def decode(path: Path, what: str = "image") -> Image.Image | PixelValues:
    """The first full picture of a file: a page of a TIFF, or else a loaded PIL image.

    Raises:
        DataError: If the file is missing, empty, cut short, damaged, or no image.
    """
    try:
        if path.is_symlink() and not path.exists():
            target = os.readlink(path)
            raise DataError(f"{what} {path} is a link to {target}, which does not exist. Mend it.")
        if not path.exists():
            cure = "Check the path, or copy the file there."
            raise DataError(f"{what} {path} does not exist.{nearest_sibling(path)} {cure}")
        if path.is_dir():
            raise DataError(f"{path} is a folder, but one {what} is expected. Name a file in it.")
        if not path.is_file():
            raise DataError(f"{path} is no ordinary file but a device or pipe. Name an {what}.")
        content = path.read_bytes()
        if not content:
            raise DataError(f"{what} {path} is empty (0 bytes). Copy it again or remove it.")
        return decode_content(content, path, mask=what == "mask")
    except PermissionError as error:
        raise DataError(f"{what} {path} may not be read by you. Change its permissions.") from error
    except UnidentifiedImageError as error:
        raise DataError(_what_else(content, path)) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{what} {path} is too large to be a photograph ({error}). Scale it down or cut it up;"
            " or let masks and predict read it in tiles (data.tile), for which the package rasterio"
            ' is needed: pip install "ssrseg[geo]".'
        ) from error
    except UNREADABLE as error:
        raise DataError(
            f"{what} {path} is damaged or cut short ({_reason(error)}). Copy it again from the"
            " original or remove it from the data."
        ) from error


def decode_content(
    content: bytes, name: Path | str, *, mask: bool = False
) -> Image.Image | PixelValues:
    """The same of the bytes of a file; a ``mask`` may be a PNG that is larger than Pillow's limit.

    Raises:
        DataError: If it is no photograph.
        UNREADABLE: If it is damaged.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        note_once(
            "truncated images",
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES was True, with which missing parts of photographs"
            " are made up; it is False now.",
        )
    with QUIET:
        if content.startswith(MAGIC):
            return read_page(content, name)
        with open_png(io.BytesIO(content)) if mask else _opened(content) as image:
            if image.format in _DRAWINGS:
                raise DataError(f"{name} is a drawing ({image.format}), no photograph.")
            layout = image.tile[0].args if image.format == "PNG" and image.tile else None
            if image.format in ("JPEG", "MPO"):
                load_whole(image, content)
            else:
                image.load()
        if image.format == "PPM" and (deep := read_deep(content)):
            return deep
        if image.format == "PNG":
            check_png(image, content)
            image.info["icc_profile"] = png_profile(image, content, str(name))
            key = image.info.get("transparency")
            if layout in _DEEP_PNG or (image.mode == "I;16" and key is not None):
                return _deep_png(content, image, str(layout))
            if image.mode in ("1", "L") and isinstance(key, int):
                image.info["transparency"] = key * grey_step(content)
        return image


def _reason(error: BaseException) -> str:
    """What a decoder says of a file; others than these stumble over it and speak of themselves."""
    if isinstance(error, MemoryError):
        return "its header asks for more memory than there is"
    spoken = (OSError, SyntaxError, EOFError, zlib.error, lzma.LZMAError)
    told = isinstance(error, spoken) and str(error)
    return str(error) if told else "its header contradicts itself or its data"


def _opened(content: bytes) -> ImageFile.ImageFile:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        if _BRANDS.get(content[8:12]) is not _HEIC or not importlib.util.find_spec("pillow_heif"):
            raise
        importlib.import_module("pillow_heif").register_heif_opener()
        return Image.open(io.BytesIO(content))


def _deep_png(content: bytes, image: Image.Image, layout: str) -> PixelValues:
    """All 16 bits of a PNG in colour or with alpha, of which Pillow keeps the upper 8."""
    if image.mode == "I;16":
        values = np.array(image)[..., None]
    else:
        with Image.open(io.BytesIO(content)) as again:
            again.tile = [each._replace(args=_DEEP_PNG[layout]) for each in again.tile]
            again.load()
        octets = np.array(again)
        if layout == "LA;16B":
            values = octets.view(">u2")
        else:
            values = np.array(image).astype(np.uint16) << 8 | octets
    if (key := image.info.get("transparency")) is not None:  # the one colour that is transparent
        opaque = (values != np.array(key)).any(-1, keepdims=True)
        values = np.concatenate([values, opaque * np.uint16(65535)], -1)
    return PixelValues(
        values.astype(np.uint16),
        16,
        colour=values.shape[2] >= 3,
        extra=(2,) if values.shape[2] in (2, 4) else (),
        orientation=orientation_of(image),
        icc=image.info.get("icc_profile"),
    )


def orientation_of(image: Image.Image) -> int:
    """EXIF's, 1 = upright; a broken block makes no photograph unreadable and counts as upright."""
    try:
        with QUIET:
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except UNREADABLE:
        return 1


def _what_else(content: bytes, path: Path) -> str:
    """What a file is that no decoder knows."""
    if content[4:8] == b"ftyp" and content[8:12] in _BRANDS:
        kind, cure = _BRANDS[content[8:12]]
        return f"{path} is {kind}, which cannot be read here. {cure}, or export it as JPEG or PNG."
    for begin, kind in _OTHERS:
        if content.startswith(begin):
            return f"{path} is {kind}, which ssrseg does not read. Export it as JPEG or PNG."
    return (
        f"{path} is not an image, whatever its name says: no known format begins like it. Replace"
        " it by the real file or remove it from the data."
    )
