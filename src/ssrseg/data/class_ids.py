"""Maps of class ids on disk: true masks, predicted ones, and those that are written."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ssrseg.data.decode import decode
from ssrseg.data.files import atomic_write, user_path
from ssrseg.data.notices import note_once
from ssrseg.data.pixels import PixelValues
from ssrseg.data.png import grey_step
from ssrseg.errors import DataError, counted
from ssrseg.method.pseudo_mask import IGNORE

_LOSSLESS = ("BMP", "DIB", "GIF", "PNG", "TGA", "TIFF", "WEBP")  # and here looked into the last two
_EXACT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "F", "I;16", "I;16B")
_EXACT_TIFF = ("group3", "group4", "lzma", "packbits", "raw", "tiff_adobe_deflate", "tiff_ccitt",
               "tiff_deflate", "tiff_lzw", "tiff_raw_16", "zstd")  # fmt: skip


def read_class_ids(
    path: Path | str, n_classes: int | None = None, labels: Collection[int] | None = None
) -> UInt8[Tensor, "height width"]:
    """Read a map of class ids: 0 background, 1 + class index, 255 ignore.

    It is an indexed or grey picture, lossless and of any bit depth, whose pixel values are the
    ids. Where all colours are VOC's but stand in another order, as after an optimiser or "convert
    to indexed", the colours decide, and this is said; so they do in an RGB picture.

    Args:
        n_classes: Number of classes, if known; only to tell apart an order and another palette.
        labels: Class indices that the image is labelled with, if known; likewise.

    Raises:
        DataError: If the file is unreadable, lossy, of other colours, or has values above 255, or
            if indices and colours contradict each other and both make sense.
    """
    path = user_path(path, "a mask")
    values, palette = _samples(path)
    if values.ndim == 3:
        ids = _by_colour(values, path)
    elif palette is not None and (colours := _colour_ids(values, palette)):
        ids = _by_palette(values, palette, colours, path, n_classes, labels)
    elif palette is not None and (greys := _grey_ids(values, palette, n_classes)):
        ids = _recoded(values, greys, "greys that are class ids, not", path)
    else:
        ids = values
    if ids.min() < 0 or ids.max() > 255:
        raise DataError(
            f"{path} has pixel values from {ids.min()} to {ids.max()}, but class ids lie in"
            " 0 .. 255 (0 background, 255 ignore). Save it as 8-bit PNG of class ids."
        )
    return torch.from_numpy(ids.astype(np.uint8))


def _samples(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Integers height x width and their palette (colours x 3), or RGB height x width x 3."""
    image = decode(path, "mask")
    with path.open("rb") as file:
        if re.match(rb"P[1-6]\s", file.read(3)):
            raise DataError(
                f"{path} is a PPM, whose greys need not be class ids. Save masks as indexed or"
                " grey PNG, from the program that made them."
            )
    if isinstance(image, PixelValues):
        values, palette = image.values, image.palette
    else:
        if inexact := _inexact(image, path):
            raise DataError(
                f"{path} is {inexact}. Save masks as indexed or grey PNG, from the program that"
                " made them."
            )
        values, palette = np.array(image), None
        if image.mode == "P":
            palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        if image.mode == "L" and image.format == "PNG":
            values = values // grey_step(path.read_bytes()[:25])
    if values.ndim == 3 and values.shape[2] in (2, 4):
        if (values[..., -1] != values[..., -1].max()).any():
            raise DataError(
                f"{path} has transparent pixels, but a mask holds one class id per pixel. Save it"
                " as indexed or grey PNG without an alpha channel."
            )
        values = values[..., :-1]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim == 3 and (values.shape[2] != 3 or values.dtype != np.uint8):
        raise DataError(
            f"{path} has {values.shape[2]} channels of {values.dtype}, but a mask holds one class"
            " id per pixel. Save it as indexed or 8-bit grey PNG."
        )
    if values.dtype.kind not in "bui":
        if values.dtype.kind != "f" or not (values == np.rint(values)).all():
            raise DataError(
                f"{path} holds {values.dtype} values that are no whole numbers, but a mask holds"
                " one class id per pixel. Save it as indexed or 8-bit grey PNG."
            )
        values = values.clip(-1, 2**32).astype(np.int64)
    return values.astype(np.uint8) if values.dtype == bool else values, palette


def _inexact(image: Image.Image, path: Path) -> str:
    """What a file is whose pixel values need not be those that were saved; else nothing."""
    kind, lossy = str(image.format), "whose compression changes class ids"
    if kind not in _LOSSLESS:
        return f"a {kind}, {lossy}"
    coding = str(image.info.get("compression", "raw"))
    if kind == "TIFF" and coding not in _EXACT_TIFF:
        return f"a TIFF with {coding.removeprefix('tiff_')} compression, which changes class ids"
    if kind == "WEBP" and b"VP8 " in _riff_chunks(path.read_bytes()):
        return f"a lossy WebP, {lossy}"
    if image.mode not in _EXACT_MODES:
        return f"in the colours {image.mode}, which are no class ids"
    return ""


def _riff_chunks(content: bytes, at: int = 12) -> set[bytes]:
    """Names of a WebP's chunks, those of its frames too."""
    found = set()
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        found.add(name)
        at += 8 + (16 if name == b"ANMF" else size + size % 2)
    return found


def _by_colour(values: np.ndarray, path: Path) -> np.ndarray:
    """Ids of an RGB picture in VOC's colours, or in greys that are the ids."""
    packed = values.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    table = np.zeros(1 << 24, np.uint8)  # sorting the pixels of a large picture takes minutes
    table[packed] = 1
    used = np.flatnonzero(table)
    colours = np.stack([used >> 16, used >> 8 & 255, used & 255], axis=1)
    known = [_VOC_IDS.get(tuple(colour)) for colour in colours.tolist()]
    if None not in known:
        note_once("rgb mask", f"{path} and masks like it are RGB: read by VOC's colours.")
        ids = np.array(known)
    elif (colours == colours[:, :1]).all():
        note_once("rgb mask in greys", f"{path} and masks like it are RGB greys: read as ids.")
        ids = colours[:, 0]
    else:
        red, green, blue = colours[known.index(None)]
        raise DataError(
            f"{path} is colour-coded, and ({red}, {green}, {blue}) is no colour of VOC's; a mask"
            " holds one class id per pixel (0 background, 1 .. classes, 255 ignore). Use the"
            " original indexed PNG, or replace each colour by its id and save as indexed or 8-bit"
            " grey PNG."
        )
    table[used] = ids
    return table[packed]


def _colour_ids(indices: np.ndarray, palette: np.ndarray) -> dict[int, int] | None:
    """VOC's ids of the used colours, by index; None if not all have one, or it is the index."""
    colours = dict(enumerate(map(tuple, palette.tolist())))
    used = np.unique(indices).tolist()
    found = {index: _VOC_IDS.get(colours.get(index, ())) for index in used}
    ids = {index: each for index, each in found.items() if each is not None}
    return None if len(ids) < len(used) or all(a == b for a, b in ids.items()) else ids


def _by_palette(
    indices: np.ndarray,
    palette: np.ndarray,
    colours: dict[int, int],
    path: Path,
    n_classes: int | None,
    labels: Collection[int] | None,
) -> np.ndarray:
    """The indices, or VOC's ids of their colours; ``colours`` gives the latter."""

    def possible(ids: Collection[int]) -> bool:
        classes = set(ids) - {0, IGNORE}
        listed = labels is None or classes <= {1 + index for index in labels}
        return listed and (n_classes is None or all(each <= n_classes for each in classes))

    if possible(colours) and not possible(colours.values()):
        return indices
    entries = [_VOC_IDS.get(tuple(colour), -1) for colour in palette.tolist()]
    swapped = next((at for at, each in enumerate(entries) if each != at), 0)
    permuted = entries[0] == 0 and set(entries) == set(range(len(set(entries))))
    if permuted and possible(colours):
        raise DataError(
            f"{path} has VOC's colours in another order: index {swapped} has the colour of class id"
            f" {entries[swapped]}, and both are classes here. Save it with VOC's palette, or as"
            " 8-bit grey PNG of class ids."
        )
    return _recoded(indices, colours, "VOC's colours in another order than", path)


def _grey_ids(
    indices: np.ndarray, palette: np.ndarray, n_classes: int | None
) -> dict[int, int] | None:
    """Greys of the used colours, by index, if they are ids: an 8-bit mask that became indexed.

    None if they are no ids or the indices. Black and white alone are no ids, nor are greys that can
    be told apart by eye: greys of ids are almost black.
    """
    if indices.max() >= len(palette):
        return None
    used = np.unique(indices).tolist()
    colours = palette[used]
    greys = dict(zip(used, colours[:, 0].tolist(), strict=True))
    ids = {grey for grey in greys.values() if grey not in (0, IGNORE)}
    known = n_classes is not None and ids and max(ids) <= n_classes
    if not known or (colours != colours[:, :1]).any() or all(a == b for a, b in greys.items()):
        return None
    return greys


def _recoded(indices: np.ndarray, ids: dict[int, int], what: str, path: Path) -> np.ndarray:
    note_once(
        f"palette: {what}",
        f"{path} has {what} its indices: it and masks like it are read by colour, not by index.",
    )
    table = np.zeros(max(ids) + 1, np.uint8)
    table[list(ids)] = list(ids.values())
    return table[indices]


def read_truth(
    file: Path, size: tuple[int, int], n_classes: int, labels: Collection[int] | None = None
) -> UInt8[Tensor, "height width"]:
    """A true mask, checked against the size (height and width) and the classes of its image.

    Args:
        labels: Class indices of the image, if known: a mask of 0 and 255 alone is then noted.

    Raises:
        DataError: If its size is not the image's, or it holds unknown class ids.
    """
    ids = read_class_ids(file, n_classes, labels)
    if ids.shape != size:
        raise DataError(
            f"{file} is {ids.shape[1]} x {ids.shape[0]} pixels, its image {size[1]} x {size[0]}."
            " Masks must have the size of their image."
        )
    check_class_ids(file, ids, n_classes)
    if labels and only_0_and_255(ids):
        note_once("0/255 mask", f"{file} holds {ZERO_AND_255}")
    return ids


ZERO_AND_255 = (
    "only 0 and 255 although a class is labelled. 255 means ignore: such pixels do not count. Most"
    " likely the object is meant: replace 255 by its class id (1 = the first class), as in Python"
    " with ids[ids == 255] = 1."
)


def only_0_and_255(ids: UInt8[Tensor, "height width"]) -> bool:
    """True if a mask is a black and white picture, most likely."""
    return ids.unique().tolist() == [0, IGNORE]


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


_VOC_IDS = {tuple(colour): index for index, colour in enumerate(voc_palette().tolist())}
