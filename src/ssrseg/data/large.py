"""Images that are read in windows: which are cut into tiles, and what a window of them shows."""

from __future__ import annotations

import importlib.util
import math
import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin
from torch import Tensor

from ssrseg.config import DataConfig
from ssrseg.data.decode import QUIET, UNREADABLE
from ssrseg.data.ignored_warnings import IgnoredWarnings
from ssrseg.data.images import check_range, image_size, read_image
from ssrseg.data.levels import Range
from ssrseg.data.notices import note_once
from ssrseg.data.pixels import Bands, PixelValues, Reading
from ssrseg.data.png import png_exif, png_profile
from ssrseg.data.tiff import MAGIC, describe_page, full_page, is_plain
from ssrseg.data.transforms import limited_size
from ssrseg.errors import DataError, PackageError
from ssrseg.method.tiles import Span, tile_spans

LONG = 6000
"""Pixels; an image whose longer side has more is a scene, unless a camera exposed it."""

_STAIRS = 4  # pixels of a photograph in one of what is seen, from which on it is said
_SAMPLE = 1024  # pixels a side from which black, white and transparency are found
_CACHE_MB = 64
_LARGE = 1 << 24  # pixels
_NARROW = 32  # pixels: of such a strip there may be no patch
_PIECE = 256  # rows that are read at once
_BAND = 16  # rows of a shrunk image that are made at once


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    Attributes:
        size: Height and width, upright.
        georeferenced: It has a place on the earth.
        turned: It is not stored upright.
        exposed: A camera wrote how long it exposed it.
        driver: GDAL's name of its format, if windows of it can be read; else empty.
        whole: What its samples mean, without any of them.
    """

    size: tuple[int, int]
    georeferenced: bool
    exposed: bool
    turned: bool = False
    driver: str = ""
    whole: PixelValues | None = None


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles.

    Attributes:
        size: Height and width of the image.
        rows: First row of each tile, and the one behind its last.
        columns: Likewise.
    """

    size: tuple[int, int]
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @classmethod
    def of(cls, size: tuple[int, int], tile: int, overlap: float) -> Tiling:
        """Tiles of a side of ``tile`` pixels that share ``overlap`` of it, at least."""
        spans = (tuple(tile_spans(side, tile, int(overlap * tile))) for side in size)
        return cls(size, *spans)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def tiling_of(path: Path, settings: DataConfig, long_side: int) -> Tiling | None:
    """How an image is to be cut; None if the whole is to be seen. What is chosen is said.

    Args:
        settings: ``tile`` and ``tile_overlap`` are used.
        long_side: Longer side in pixels at which the whole would be seen, and of a tile by itself.
    """
    try:
        facts = read_header(path)
    except (Image.DecompressionBombError, *UNREADABLE):
        return None  # whoever reads it says what is wrong
    return tiling_of_size(facts.size, path, settings, long_side, facts)


def tiling_of_size(
    size: tuple[int, int],
    name: Path | str,
    settings: DataConfig,
    long_side: int,
    facts: Header | None = None,
) -> Tiling | None:
    """The same of an image in memory, of which nothing but its size is known."""
    longest, choice = max(size), settings.tile
    georeferenced = facts is not None and facts.georeferenced
    exposed = facts is not None and facts.exposed
    side = long_side if isinstance(choice, str) else choice
    wanted = georeferenced or (longest > LONG and not exposed)
    narrow = min(size) < _NARROW
    if choice == "none" or longest <= side or narrow or (choice == "auto" and not wanted):
        _say_shrunk(size, name, long_side, exposed=exposed)
        return None
    tiling = Tiling.of(size, side, settings.tile_overlap)
    why = "is georeferenced and " if georeferenced else ""
    stairs = max(1, longest / long_side)
    note_once(
        f"tiles of {side}",
        f"{name} {why}has {size[1]:,} x {size[0]:,} pixels: it is seen in {len(tiling):,} tiles of"
        f" {side} x {side} (data.tile = {choice}), and images like it are, too. data.tile=none sees"
        f" the whole at {long_side} pixels, where masks have stairs of {stairs:.0f}.",
    )
    return tiling


def _say_shrunk(size: tuple[int, int], name: Path | str, long_side: int, *, exposed: bool) -> None:
    stairs = max(size) / long_side
    if stairs >= _STAIRS:
        why = ", exposed by a camera," if exposed and max(size) > LONG else ""
        note_once(
            f"stairs{why}",
            f"{name}{why} has {size[1]:,} x {size[0]:,} pixels: the whole is seen at {long_side},"
            f" so that its mask has stairs of {stairs:.0f} pixels, and so have those of images like"
            f" it. If its objects are small, cut it into tiles: data.tile={long_side}.",
        )


def read_header(path: Path) -> Header:
    """Size and origin of an image by its header.

    Raises:
        UNREADABLE: If it is no image, or damaged.
    """
    with path.open("rb") as file, QUIET:
        begin = file.read(8)
        file.seek(0)
        if begin.startswith(MAGIC):
            return _tiff_facts(path)
        # Pillow refuses what is large in Image.open, before anybody can ask for its size
        if begin.startswith(b"\x89PNG"):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                png = PngImagePlugin.PngImageFile(file)
                exif = Image.Exif()  # png.getexif() would read all pixels
                exif.load(png_exif(content))
                return _facts(png, exif, png_profile(png, content, str(path)))
        if begin.startswith(b"\xff\xd8"):
            jpeg = JpegImagePlugin.JpegImageFile(file)
            return _facts(jpeg, jpeg.getexif(), jpeg.info.get("icc_profile"))
        with Image.open(file) as image:
            return _facts(image, image.getexif(), None)


def _facts(image: ImageFile.ImageFile, exif: Image.Exif, icc: bytes | None) -> Header:
    turned = exif.get(ExifTags.Base.Orientation, 1)
    size = (image.height, image.width)
    exposed = ExifTags.Base.ExposureTime in exif.get_ifd(ExifTags.IFD.Exif)
    size = size[::-1] if turned in (5, 6, 7, 8) else size
    facts = Header(size, False, exposed, turned in range(2, 9))
    plain = image.format in ("PNG", "JPEG") and image.mode in ("L", "RGB") and turned == 1
    deep = image.format == "PNG" and str(image.tile[0].args).endswith("16B")
    if not plain or deep or image.has_transparency_data:
        return facts
    nothing = np.zeros((0, 0, len(image.mode)), np.uint8)
    whole = PixelValues(nothing, 8, colour=image.mode == "RGB", icc=icc)
    return replace(facts, driver=str(image.format), whole=whole)


def _tiff_facts(path: Path) -> Header:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = full_page(file, path)
        tags = page.tags
        placed = (33550 in tags or 34264 in tags or 33922 in tags) and 34735 in tags
        exif = tags.valueof(34665)
        exposed = isinstance(exif, dict) and "ExposureTime" in exif
        turned = int(tags.valueof(274, 1))
        size = (page.imagelength, page.imagewidth)
        size = size[::-1] if turned >= 5 else size
        facts = Header(size, placed, exposed, turned != 1)
        if turned != 1 or page is not file.pages[0] or not is_plain(page):
            return facts
        return replace(facts, driver="GTiff", whole=describe_page(page))


class HeldImage:
    """An image that is in memory as a whole.

    Attributes:
        size: Height and width.
    """

    def __init__(self, photo: UInt8[Tensor, "height width 3"]) -> None:
        self._photo, self.size = photo, (photo.shape[0], photo.shape[1])

    def window(self, rows: Span, columns: Span) -> UInt8[Tensor, "rows columns 3"]:
        """RGB of these rows and columns."""
        return self._photo[slice(*rows), slice(*columns)].contiguous()


class WindowedImage:
    """One that lies in a file, of which as many rows are in memory as one window has.

    Attributes:
        size: Height and width.
    """

    def __init__(
        self, path: Path, dataset: Any, facts: Header, levels: tuple[Range | None, Bands | None]
    ) -> None:
        assert facts.whole is not None
        self.size, self._path, self._dataset = facts.size, path, dataset
        if (dataset.height, dataset.width) != self.size:
            raise OSError("its header contradicts itself")
        sample = replace(facts.whole, values=self._sample(facts.whole))
        reading = sample.reading(path, *levels)
        read = (*reading.bands, *(() if reading.alpha is None else (reading.alpha,)))
        self._indexes = [index + 1 for index in read]
        alpha = None if reading.alpha is None else len(reading.bands)
        extra = () if reading.alpha is None else (sample.extra[reading.alpha - dataset.count],)
        self._whole = replace(facts.whole, extra=extra)
        self._reading = Reading(tuple(range(len(reading.bands))), reading.span, alpha, reading.full)
        self._rows: Span = (0, 0)
        self._strip = torch.empty(0, self.size[1], 3, dtype=torch.uint8)

    def _sample(self, whole: PixelValues) -> np.ndarray:
        """Some of the pixels of all bands, if anything depends on their values."""
        if whole.bits <= 8 and not whole.extra:
            read = self._dataset.read(window=((0, 1), (0, self.size[1])))
        else:
            small = limited_size(self.size, _SAMPLE)
            read = self._dataset.read(out_shape=(self._dataset.count, *small))
        return np.moveaxis(read, 0, -1)

    def window(self, rows: Span, columns: Span) -> UInt8[Tensor, "rows columns 3"]:
        """RGB of these rows and columns.

        Raises:
            DataError: If they cannot be read.
        """
        if rows != self._rows:
            self._strip, self._rows = self._read(rows), rows
        return self._strip[:, slice(*columns)].contiguous()

    def _read(self, rows: Span) -> UInt8[Tensor, "rows width 3"]:
        strip = np.empty((rows[1] - rows[0], self.size[1], 3), np.uint8)
        for top in range(*rows, _PIECE):  # what is made on the way takes several bytes a sample
            piece = (top, min(top + _PIECE, rows[1]))
            try:
                read = self._dataset.read(self._indexes, window=(piece, (0, self.size[1])))
            except UNREADABLE as error:
                raise DataError(
                    f"image {self._path} is damaged or cut short, in its rows {piece[0]:,} to"
                    f" {piece[1]:,} ({error}). Copy it again from the original or remove it from"
                    " the data."
                ) from error
            values = np.moveaxis(read, 0, -1)
            values = values[..., 0] if self._whole.palette is not None else values
            shown = replace(self._whole, values=values).shown(self._reading, self._path)
            strip[piece[0] - rows[0] : piece[1] - rows[0]] = np.asarray(shown.convert("RGB"))
        return torch.from_numpy(strip)


LargeImage = HeldImage | WindowedImage


@contextmanager
def open_large(
    path: Path, value_range: Range | None = None, bands: Bands | None = None
) -> Iterator[LargeImage]:
    """Open an image to read windows of it, which show what ``read_image`` would.

    With the package rasterio, TIFF, JPEG and PNG files are read as far as windows need them. Black,
    white and transparency are then found by some of the pixels, and the colours of a JPEG may
    differ where they change from one pixel to the next. Other files, and all without it, are read
    as a whole.

    Args:
        value_range: ``data.range``.
        bands: ``data.bands``.

    Raises:
        DataError: If it cannot be read.
    """
    check_range(value_range)
    facts = None
    if importlib.util.find_spec("rasterio"):
        try:
            facts = read_header(path)
        except (Image.DecompressionBombError, *UNREADABLE):
            facts = None  # read_image says what is wrong
    if facts is None or not facts.driver:
        yield HeldImage(read_image(path, value_range, bands))
        return
    with ExitStack() as stack:
        rasterio = stack.enter_context(quiet_rasterio())
        try:
            # no other format of GDAL's: some follow addresses that stand in a file
            dataset = stack.enter_context(rasterio.open(path, driver=facts.driver))
            image = WindowedImage(path, dataset, facts, (value_range, bands))
        except UNREADABLE as error:
            raise DataError(
                f"image {path} is damaged or cut short ({error}). Copy it again from the original"
                " or remove it from the data."
            ) from error
        yield image


@contextmanager
def quiet_rasterio() -> Iterator[Any]:
    """The package rasterio, which keeps little in memory and says nothing, while the block lasts.

    Raises:
        PackageError: If it is not installed.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError as error:
        raise PackageError(
            "Georeferences need the package rasterio, which is not installed. Install it: pip"
            ' install "ssrseg[geo]".'
        ) from error
    quiet = _ignored(NotGeoreferencedWarning)
    settings = {"GDAL_ERROR_ON_LIBJPEG_WARNING": True, "GDAL_CACHEMAX": _CACHE_MB}
    with quiet, rasterio.Env(**settings):
        yield rasterio


@cache
def _ignored(category: type[Warning]) -> IgnoredWarnings:
    # rasterio multiplies transforms in a way that their own package will give up
    return IgnoredWarnings((category, ""), (PendingDeprecationWarning, r"rasterio\."))


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width as ``image_size`` has them, of a large image by its header alone."""
    try:
        size = read_header(path).size
    except (Image.DecompressionBombError, *UNREADABLE):
        size = (0, 0)
    return size if math.prod(size) > _LARGE else image_size(path)


def small_photo(
    path: Path, max_side: int, value_range: Range | None = None, bands: Bands | None = None
) -> UInt8[Tensor, "height width 3"]:
    """A photograph to look at; a large one is shrunk to ``max_side``, some rows at a time.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        large = math.prod(read_header(path).size) > _LARGE
    except (Image.DecompressionBombError, *UNREADABLE):
        large = False
    if not large:
        return read_image(path, value_range, bands)
    with open_large(path, value_range, bands) as image:
        return shrunk(image, max_side)


def shrunk(image: LargeImage, max_side: int) -> UInt8[Tensor, "new_height new_width 3"]:
    """What ``limit_side`` would make of the whole, some rows at a time."""
    (height, width), size = image.size, limited_size(image.size, max_side)
    scale = height / size[0]
    reach = 2 * scale + 1  # of the bicubic filter
    bands = []
    for first in range(0, size[0], _BAND):
        last = min(size[0], first + _BAND)
        begin, end = max(0, int(first * scale - reach)), min(height, int(last * scale + reach) + 1)
        rows = Image.fromarray(image.window((begin, end), (0, width)).numpy())
        box = (0, first * scale - begin, width, min(last * scale - begin, end - begin))
        resized = rows.resize((size[1], last - first), Image.Resampling.BICUBIC, box)
        bands.append(torch.from_numpy(np.array(resized)))
    return torch.cat(bands)
