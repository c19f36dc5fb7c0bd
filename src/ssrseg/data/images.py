"""Photographs and maps of class ids on disk, as tensors."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ssrseg.data.files import atomic_write, user_path
from ssrseg.data.ignored_warnings import IgnoredWarnings
from ssrseg.errors import DataError, counted, did_you_mean
from ssrseg.method.pseudo_mask import IGNORE

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_FORMS = "Give a path, a PIL image, a numpy array or a torch tensor."

_UNREADABLE = (  # what Pillow's decoders raise on damaged files, beside OSError
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
    ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError,
)  # fmt: skip
_UPRIGHT = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip

_PILLOW_QUIET = IgnoredWarnings(  # large images, broken EXIF: we read the picture or we raise
    (Warning, r"PIL\."), (Image.DecompressionBombWarning, "")
)


def read_image(path: Path | str) -> UInt8[Tensor, "height width 3"]:
    """Read a photograph as RGB, 0 .. 255, the way a viewer shows it.

    The EXIF orientation is applied, transparent pixels are laid on white, 16-bit greys are scaled
    (not clipped) to 8 bits, and of several frames the first is taken. Damaged EXIF data is ignored.

    Raises:
        DataError: If the file is missing, empty, truncated, or no image.
    """
    path = user_path(path, "an image")
    return _upright_rgb(_load(path), path)


def as_photo(image: object) -> UInt8[Tensor, "height width 3"]:
    """A photograph in any of the usual forms as RGB, 0 .. 255, in new memory.

    A path is read by ``read_image``, and a PIL image is treated as its file would be. NumPy
    arrays and tensors are height x width x channels or channels x height x width, with 3 channels,
    4 (RGBA, laid on white) or 1; or height x width (grey). They hold uint8, or floats from 0 to 1,
    which are rounded to the nearest of the 256 levels. Nothing is guessed: other integers are
    refused, because the same numbers may be a light 8-bit or a dark 16-bit image, and so are shapes
    such as (3, 500, 3) that can be read both ways.

    Raises:
        DataError: If the file is unreadable, or the object has another type, shape, dtype or range.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(user_path(image, "an image"))
    if isinstance(image, Image.Image):
        return _photo_of_pil(image)
    if isinstance(image, Tensor):
        return _photo_of_tensor(image)
    if isinstance(image, np.ndarray):
        return _photo_of_array(image, f"the array of shape {image.shape}")
    several = isinstance(image, Iterable) and not isinstance(image, (list, tuple, bytes))
    raise DataError(
        f"one image is expected, but a {type(image).__name__} was given. "
        + ("Pass several images as a list: list(images)." if several else _FORMS)
    )


def _photo_of_tensor(image: Tensor) -> UInt8[Tensor, "height width 3"]:
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
    return _photo_of_array(array, what)


def _photo_of_pil(image: Image.Image) -> UInt8[Tensor, "height width 3"]:
    name = f"the PIL image {getattr(image, 'filename', '')}".strip()
    if 0 in image.size:
        raise DataError(f"{name} is empty ({image.width} x {image.height}). Give a photograph.")
    try:
        with _PILLOW_QUIET:
            image.load()  # Image.open has only read the header
    except (*_UNREADABLE, AssertionError) as error:  # the latter if its file is closed
        raise DataError(
            f"{name} cannot be decoded ({str(error) or type(error).__name__}). Is its file whole,"
            " and still open? Give its path, or load() it while the file is open."
        ) from error
    return _upright_rgb(image, name)


def _photo_of_array(array: np.ndarray, what: str) -> UInt8[Tensor, "height width 3"]:
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
    levels = _levels(array.transpose(1, 2, 0) if first else array, what)
    pil = Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)
    return torch.from_numpy(np.array(_to_rgb(pil, what)))


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


def _upright_rgb(image: Image.Image, name: Path | str) -> UInt8[Tensor, "height width 3"]:
    """A decoded image as a viewer shows it; ``name`` is for messages."""
    orientation = _orientation(image)
    try:
        with _PILLOW_QUIET:
            rgb = _to_rgb(image, name)
    except _UNREADABLE as error:
        raise DataError(
            f"{name} cannot be turned into RGB from its colour mode {image.mode} ({error})."
            " Save it as an 8-bit RGB JPEG or PNG."
        ) from error
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return torch.from_numpy(np.array(rgb))


def fits(mask: Path, photo: Path) -> bool:
    """True if both are there and of one size, by their headers."""
    try:
        with _PILLOW_QUIET, Image.open(mask) as ids, Image.open(photo) as image:
            turned = _orientation(image) >= 5
            return ids.size == (image.size[::-1] if turned else image.size)
    except _UNREADABLE:
        return False


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 = upright; a broken block makes no photograph unreadable and counts as upright."""
    try:
        with _PILLOW_QUIET:
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _UNREADABLE:
        return 1


def check_size(image: UInt8[Tensor, "height width 3"], path: Path, min_side: int) -> None:
    """Refuse an image with a side of less than one patch; ``path`` is for the message."""
    height, width = image.shape[:2]
    if min(height, width) < min_side:
        raise DataError(
            f"{path} is {width} x {height} pixels, smaller than one patch of the encoder"
            f" ({min_side} x {min_side}). Remove it from the data or replace it by a larger copy."
        )


def list_images(path: Path | str) -> list[Path]:
    """Images at ``path``: the file itself whatever its suffix, or all in the folder, sorted.

    Subfolders are searched too; hidden files and folders are passed over (macOS leaves
    ``._photo.jpg`` beside ``photo.jpg``).

    Raises:
        DataError: If nothing is there or the folder holds no image.
    """
    path = user_path(path, "images")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(
            f"{path} does not exist.{_nearest_sibling(path)} Give an image or a folder of images."
        )
    found: list[Path] = []
    others = 0
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        names = [name for name in names if not name.startswith(".")]
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        found += [Path(folder, name) for name in images]
        others += len(names) - len(images)
    if not found:
        raise DataError(
            f"{path} holds no image ({counted(others, 'other file', 'other files')}). Images are"
            f" known by their suffix: {', '.join(SUFFIXES)}."
        )
    return sorted(found, key=lambda image: image.as_posix())


def read_truth(path: Path | str) -> UInt8[Tensor, "height width"]:
    """Read a map of class ids: 0 background, 1 + class index, 255 ignore.

    It is an indexed or grey PNG (or any lossless format) whose pixel values are the ids.

    Raises:
        DataError: If the file is unreadable, lossy, colour-coded, or has values above 255.
    """
    path = user_path(path, "a mask")
    image = _load(path)
    if image.format in ("JPEG", "MPO"):
        raise DataError(
            f"{path} is a JPEG, whose compression changes class ids. Save masks as indexed or"
            " grey PNG, from the program that made them."
        )
    if image.mode in ("1", "L", "P"):
        return torch.from_numpy(np.array(image).astype(np.uint8))
    if image.mode == "I" or image.mode.startswith("I;16"):
        ids = np.array(image)
        if ids.min() >= 0 and ids.max() <= 255:
            return torch.from_numpy(ids.astype(np.uint8))
        raise DataError(
            f"{path} has pixel values from {ids.min()} to {ids.max()}, but class ids lie in"
            " 0 .. 255 (0 background, 255 ignore). Save it as 8-bit PNG of class ids."
        )
    raise DataError(
        f"{path} is colour-coded (mode {image.mode}); a mask holds one class id per pixel (0"
        " background, 1 .. classes, 255 ignore). Use the original indexed PNG, or replace each"
        " colour by its id and save as indexed or 8-bit grey PNG."
    )


def write_class_ids(path: Path, ids: UInt8[Tensor, "height width"]) -> None:
    """Write class ids as an indexed PNG in VOC's colours; it appears whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(class_ids_png(ids))


def class_ids_png(
    ids: UInt8[Tensor, "height width"], texts: Mapping[str, str] | None = None
) -> bytes:
    """Class ids as an indexed PNG in VOC's colours, encoded, with text chunks by keyword."""
    image = Image.fromarray(ids.cpu().numpy())
    image.putpalette(voc_palette().tobytes())
    encoded, chunks = io.BytesIO(), PngInfo()
    for keyword, text in (texts or {}).items():
        chunks.add_text(keyword, text)
    image.save(encoded, format="PNG", pnginfo=chunks)
    return encoded.getvalue()


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """VOC's colours by class id: bits 0, 3, 6 of the id become the high bits of red, and so on."""
    ids, channels = np.arange(256)[:, None], np.arange(3)
    high_bits = [(ids >> (3 * bit + channels) & 1) << (7 - bit) for bit in range(8)]
    return np.sum(high_bits, axis=0).astype(np.uint8)


def _load(path: Path) -> Image.Image:
    """Open and decode, or say in one sentence why not."""
    try:
        if not path.exists():
            cure = "Check the path, or copy the file there."
            raise DataError(f"image {path} does not exist.{_nearest_sibling(path)} {cure}")
        if path.is_dir():
            raise DataError(f"{path} is a folder, but one image is expected. Name a file in it.")
        if path.stat().st_size == 0:
            raise DataError(f"image {path} is empty (0 bytes). Copy it again or remove it.")
        with _PILLOW_QUIET, Image.open(path) as image:
            image.load()
            return image
    except PermissionError as error:
        raise DataError(f"image {path} may not be read by you. Change its permissions.") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} is not an image, whatever its name says: no known format begins like it."
            " Replace it by the real file or remove it from the data."
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"image {path} is too large to be a photograph ({error}). Scale it down or cut it up."
        ) from error
    except _UNREADABLE as error:
        raise DataError(
            f"image {path} is damaged or cut short ({error}). Copy it again from the original or"
            " remove it from the data."
        ) from error


def _to_rgb(image: Image.Image, name: Path | str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.array(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(
                f"{name} has grey values from {values.min()} to {values.max()}; 0 .. 65535 (16 bit)"
                " can be scaled. Save it as an 8-bit or 16-bit picture."
            )
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        raise DataError(
            f"{name} holds floating-point values, whose black and white are not known. Save it as"
            " an 8-bit or 16-bit picture."
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _nearest_sibling(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Nor does its folder {path.parent}."
    return did_you_mean(path.name, os.listdir(path.parent))


def read_mask(file: Path, size: tuple[int, int], n_classes: int) -> UInt8[Tensor, "height width"]:
    """A mask, checked against the size (height and width) and the classes of its image.

    DataError if its size is not the image's, or it holds unknown class ids.
    """
    ids = read_truth(file)
    if ids.shape != size:
        raise DataError(
            f"{file} is {ids.shape[1]} x {ids.shape[0]} pixels, its image {size[1]} x {size[0]}."
            " Masks must have the size of their image."
        )
    check_class_ids(file, ids, n_classes)
    return ids


def check_class_ids(path: Path, ids: UInt8[Tensor, "height width"], n_classes: int) -> None:
    """Raise DataError if a mask holds a class id that the data set does not have."""
    largest = int(ids[ids != IGNORE].max()) if (ids != IGNORE).any() else 0
    if largest > n_classes:
        classes = counted(n_classes, "class", "classes")
        raise DataError(
            f"{path} holds class id {largest}, but the data have {classes} (ids 0 .. {n_classes},"
            " 255 = ignore). Is it a mask of another data set? If its ids belong to a longer list"
            " of classes (VOC's 20), give the data that list, all names in its order, as"
            " classes.txt, and make masks and model anew."
        )
