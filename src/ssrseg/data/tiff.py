"""Pages of TIFF files as their writers meant them: which one, and what its samples are."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from ssrseg.data.jpeg import load_whole
from ssrseg.data.notices import note_once
from ssrseg.data.pixels import PixelValues
from ssrseg.errors import DataError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_MOST_PAGES = 64  # of a stack, looked at for the largest
_PLAIN = (0, 1, 2, 3, 4)  # white is zero, black is zero, RGB, palette, mask: no conversion
_RAW = (32803, 34892)  # a camera's sensor
_BYTE_STREAMS = (5, 50000)  # LZW, Zstandard: any samples, packed
_OF_PILLOW = (1, 2, 3, 4, 6, 7, 8, 32773, 32946)
_WHOLE_BITS = (1, 8, 16, 32, 64)
_JPEG = (6, 7)
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_LIMITS = ((340, 280), (341, 281))  # SMin- and MinSampleValue, SMax- and MaxSampleValue
_MOST_BYTES = 2**33
_GDAL_NODATA, _ICC = 42113, 34675

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8,
          17: 8, 18: 8}  # fmt: skip

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # odd tags: we read the page or we raise


def read_page(content: bytes, name: Path | str) -> PixelValues | Image.Image:
    """The first full page of a TIFF; a loaded PIL image if it is in other colours than RGB.

    Reduced pages (thumbnails) and masks are passed over, and if a page is larger than the first
    one, the largest is taken; what is left out is noted.

    Raises:
        DataError: If it is raw data of a camera.
        DecompressionBombError: If it is too large.
        ValueError: If it is damaged; likewise other errors of decoders.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = full_page(file, name)
        photometric = int(page.photometric)
        if photometric in _RAW:
            raise DataError(
                f"{name} is raw data of a camera's sensor. Develop it and export it as JPEG, PNG or"
                " TIFF."
            )
        _check_size(page)
        _check_data(page, content, file.byteorder)
        packed = page.compression in _BYTE_STREAMS
        known = packed or page.compression in tifffile.TIFF.DECOMPRESSORS
        if photometric not in _PLAIN or not known:
            try:
                return _by_pillow(content, page)
            except OSError as error:
                if page.compression in _OF_PILLOW:
                    raise
                raise DataError(
                    f"{name} is a TIFF with {page.compression.name} compression, which cannot be"
                    " read here. Save it with LZW, Deflate or no compression."
                ) from error
        if not packed and page.bitspersample in _WHOLE_BITS and page.predictor in (1, 2):
            planes = page.asarray(squeeze=False)
        else:
            planes = _assembled(page, content, file.byteorder)
        samples = planes[:, 0].transpose(1, 2, 0, 3).reshape(*planes.shape[2:4], -1)
        if planes.shape[1] > 1:
            note_once("tiff layers", f"{name}: the first of {planes.shape[1]} layers is read.")
        values = samples[..., 0] if samples.shape[2] == 1 else samples
        return replace(describe_page(page), values=values)


def full_page(file: Any, name: Path | str) -> Any:
    """The first page that is neither a thumbnail nor a mask, or a larger one."""
    first = list(islice(file.pages, _MOST_PAGES))
    pages = [each for page in first for each in (page, *(page.pages or ()))]
    full = [page for page in pages if not _kind(page) & (_REDUCED | _MASK)] or pages
    chosen = max(full, key=lambda page: page.imagewidth * page.imagelength)
    if chosen is not pages[0]:
        size = f"{chosen.imagewidth} x {chosen.imagelength}"
        note_once(
            "tiff thumbnail",
            f"{name} begins with a smaller picture ({pages[0].imagewidth} x"
            f" {pages[0].imagelength}): the full one is read ({size}), here and in files like it.",
        )
    elif len(full) > 1:
        note_once("tiff pages", f"{name} has several pages; of such files the first is read.")
    return chosen


def _kind(page: Any) -> int:
    """NewSubfileType, or what the older tag means in its terms."""
    old = page.tags.valueof(255, 1)
    return int(page.tags.valueof(254, _REDUCED if old == 2 else 0))


def _check_size(page: Any) -> None:
    pixels = page.imagewidth * page.imagelength * page.imagedepth
    most = 2 * (Image.MAX_IMAGE_PIXELS or pixels)
    if pixels > most or page.nbytes > _MOST_BYTES:
        raise Image.DecompressionBombError(
            f"{pixels} pixels of {page.samplesperpixel} samples, at most {most} pixels are expected"
        )


def _check_data(page: Any, content: bytes, order: str) -> None:
    """Raise OSError if strips or tiles are left out, or anything lies behind the file's end."""
    needed = page.jpegtables is None and page.compression == 6  # may be described otherwise
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    whole = int(np.prod(page.chunked))
    sparse = _GDAL_NODATA in page.tags  # then GDAL leaves out what holds no data
    if not needed and (len(parts) < whole or not (sparse or all(map(all, parts[:whole])))):
        raise OSError("strips or tiles are missing from it, as from one that was not finished")
    ends = [offset + count for offset, count in parts] + list(_ends_of_tags(page, content, order))
    if max(ends, default=0) > len(content):
        raise OSError("its header names data behind the end of the file")
    if page.compression not in _JPEG:
        return
    for offset, count in parts:
        packed = content[offset : offset + count]
        if packed.startswith(b"\xff\xd8"):
            tables = page.jpegtables
            packed = packed if tables is None else tables[:-2] + packed[2:]
            load_whole(JpegImagePlugin.JpegImageFile(io.BytesIO(packed)), packed)


def _ends_of_tags(page: Any, content: bytes, order: str) -> Iterator[int]:
    """Where the values of a page's tags end, and where the next page begins."""
    long = page.parent.is_bigtiff
    number, entry, pointer = ("Q", "HHQ8s", "Q") if long else ("H", "HHI4s", "I")
    first = page.offset + struct.calcsize(order + number)
    count = struct.unpack_from(order + number, content, page.offset)[0]
    size = struct.calcsize(order + entry)
    for at in range(first, first + count * size, size):
        _, kind, length, place = struct.unpack_from(order + entry, content, at)
        length *= _SIZES.get(kind, 0)
        if length > len(place):
            yield struct.unpack(order + pointer, place)[0] + length
    yield struct.unpack_from(order + pointer, content, first + count * size)[0]


def is_plain(page: Any) -> bool:
    """Whether its samples are whole bytes of grey, RGB or a palette, or JPEGs of RGB."""
    plain = page.photometric in _PLAIN or (page.photometric == 6 and page.compression == 7)
    return plain and page.bitspersample in (8, 16, 32, 64) and page.imagedepth == 1


def describe_page(page: Any) -> PixelValues:
    """What the samples of a page mean, without any of them."""
    palette = None
    if page.photometric == 3 and page.colormap is not None:
        wide = np.asarray(page.colormap).T
        palette = (wide if wide.max() < 256 else wide >> 8).astype(np.uint8)  # some write 8 bits
    limits = [page.tags.valueof(tags[0], page.tags.valueof(tags[1])) for tags in _LIMITS]
    low, high = (np.atleast_1d(each if each is not None else np.nan) for each in limits)
    span = (float(low.min()) if np.isfinite(low).all() else 0.0, float(high.max()))
    return PixelValues(
        np.zeros((0, 0, page.samplesperpixel), page.dtype),
        page.bitspersample,
        palette=palette,
        colour=page.photometric in (2, 6),
        white_is_zero=page.photometric == 0,
        extra=tuple(map(int, page.extrasamples)),
        declared=span if span[0] < span[1] < np.inf else None,
        nodata=float(page.nodata) if _GDAL_NODATA in page.tags else None,
        orientation=_orientation(page),
        icc=page.tags.valueof(_ICC),
    )


def _orientation(page: Any) -> int:
    return int(page.tags.valueof(274, 1))


def _by_pillow(content: bytes, page: Any) -> Image.Image:
    """Decode a page in CMYK, YCbCr or Lab, or one that is compressed as a picture."""
    order = "<" if content[:1] == b"I" else ">"
    classic = content[2:4] in (b"*\0", b"\0*")
    at, form = (4, "I") if classic else (8, "Q")
    first = struct.pack(order + form, page.offset)  # so that Pillow begins with this page
    with Image.open(io.BytesIO(content[:at] + first + content[at + len(first) :])) as image:
        image.load()
        return image


def _assembled(page: Any, content: bytes, order: str) -> np.ndarray:
    """PixelValues as tifffile arranges them, of what it cannot decode without a further library.

    Strips or tiles are unpacked by Pillow, as if they were rows of bytes; the rest is done here:
    samples of odd numbers of bits, and differences to the left neighbour.
    """
    separate, _, height, width, contig = page.shaped
    tile_h, tile_w = (
        (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
    )
    across, down = -(-width // tile_w), -(-height // tile_h)
    whole = np.zeros((separate, down * tile_h, across * tile_w, contig), page.dtype)
    for index, (offset, count) in enumerate(
        zip(page.dataoffsets, page.databytecounts, strict=True)
    ):
        plane, place = divmod(index, across * down)
        top, left = place // across * tile_h, place % across * tile_w
        rows = tile_h if page.is_tiled else min(tile_h, height - top)
        length = -(-tile_w * contig * page.bitspersample // 8)
        if not count:
            whole[plane, top : top + rows, left : left + tile_w] = page.nodata
            continue
        packed = content[offset : offset + count]
        if page.compression != 1:
            packed = _unpacked(packed, rows * length, page)
        if len(packed) < rows * length:
            raise OSError("a strip or tile of the TIFF is cut short")
        octets = np.frombuffer(packed, np.uint8, rows * length).reshape(rows, length)
        samples = _samples(octets, page, order, tile_w * contig)
        part = samples.reshape(rows, tile_w, contig)
        if page.predictor == 2:
            part = np.cumsum(part, axis=1, dtype=part.dtype)
        whole[plane, top : top + rows, left : left + tile_w] = part
    return whole[:, None, :height, :width]


def _samples(octets: np.ndarray, page: Any, order: str, width: int) -> np.ndarray:
    """Rows of bytes as rows of samples."""
    bits, size, contig = page.bitspersample, page.dtype.itemsize, page.shaped[-1]
    if page.predictor == 3:  # floats: differences of bytes, which are sorted by significance
        sums = np.cumsum(octets.reshape(len(octets), -1, contig), axis=1, dtype=np.uint8)
        swapped = sums.reshape(len(octets), size, width).transpose(0, 2, 1)
        return np.ascontiguousarray(swapped).view(page.dtype.newbyteorder(">"))
    if bits == 8 * size:
        return octets.view(page.dtype.newbyteorder(order))
    ones = np.unpackbits(octets, axis=1)[:, : width * bits].reshape(len(octets), width, bits)
    return ones @ (1 << np.arange(bits)[::-1]).astype(page.dtype)


def _unpacked(packed: bytes, length: int, page: Any) -> bytes:
    """Bytes of a strip or tile, by making it a TIFF of one grey row of 8 bits."""
    entries = {
        256: length, 257: 1, 258: 8, 259: int(page.compression), 262: 1, 266: page.fillorder,
        273: 0, 277: 1, 278: 1, 279: len(packed),
    }  # fmt: skip
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    header = b"II*\0" + struct.pack("<IH", 8, len(entries))
    header += b"".join(struct.pack("<HHII", tag, 4, 1, each) for tag, each in entries.items())
    with Image.open(io.BytesIO(header + bytes(4) + packed)) as image:
        return image.tobytes()
