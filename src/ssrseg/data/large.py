"""Images that are read in windows: which are cut into tiles, and what a window of them shows."""

from __future__ import annotations

import importlib.util
import math
import mmap
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin
from torch import Tensor

from ssrseg.config import DataConfig
from ssrseg.data.decode import QUIET, UNREADABLE, decode
from ssrseg.data.ignored_warnings import IgnoredWarnings
from ssrseg.data.images import check_range, image_size, read_image, upright
from ssrseg.data.levels import Range
from ssrseg.data.notices import note_once
from ssrseg.data.pixels import Bands, PixelValues, Reading
from ssrseg.data.png import png_exif, png_profile
from ssrseg.data.tiff import MAGIC, describe_page, full_page, is_plain
from ssrseg.data.transforms import limited_size
from ssrseg.errors import DataError, PackageError
from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.method.tiles import Span, tile_spans

LONG = 6000
"""Pixels; an image whose longer side has more is a scene, unless a camera exposed it."""

_STAIRS = 4  # pixels of a photograph in one of what is seen, from which on it is said
_SAMPLE = 1024  # pixels a side from which black, white and transparency are found
_CACHE_MB = 64
_LARGE = 1 << 24  # pixels
_NARROW = 32  # pixels: of such a strip there may be no patch
_PIECE = 256  # rows that are read at once
_WORLD = 1000  # bytes of a world file that are read
_BAND = 16  # rows of a shrunk image that are made at once


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    Attributes:
        size: Height and width, upright.
        georeferenced: It has a place on the earth, by itself or by a file beside it.
        turned: It is not stored upright.
        exposed: A camera wrote how long it exposed it.
        partial: Some of its pixels may have no data, as those around a scene.
        driver: GDAL's name of its format, if windows of it can be read; else empty.
        whole: What its samples mean, without any of them.
    """

    size: tuple[int, int]
    georeferenced: bool
    exposed: bool
    turned: bool = False
    partial: bool = False
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
    """The same of an image in memory; without facts, as of an array, ``auto`` sees the whole."""
    longest, choice = max(size), settings.tile
    georeferenced = facts is not None and facts.georeferenced
    exposed = facts is not None and facts.exposed
    side = long_side if isinstance(choice, str) else choice
    wanted = georeferenced or (facts is not None and longest > LONG and not exposed)
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
    """Size and origin of an image by its header, and by a world file or .aux.xml beside it.

    Raises:
        UNREADABLE: If it is no image, or damaged.
    """
    return _header(path, placed=_is_placed_beside(path))


def _header(path: Path, *, placed: bool) -> Header:
    with path.open("rb") as file, QUIET:
        begin = file.read(8)
        file.seek(0)
        if begin.startswith(MAGIC):
            return _tiff_facts(path, placed=placed)
        # Pillow refuses what is large in Image.open, before anybody can ask for its size
        if begin.startswith(b"\x89PNG"):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                png = PngImagePlugin.PngImageFile(file)
                exif = Image.Exif()  # png.getexif() would read all pixels
                exif.load(png_exif(content))
                return _facts(png, exif, png_profile(png, content, str(path)), placed=placed)
        if begin.startswith(b"\xff\xd8"):
            jpeg = JpegImagePlugin.JpegImageFile(file)
            profile = jpeg.info.get("icc_profile")
            return _facts(jpeg, jpeg.getexif(), profile, placed=placed)
        with Image.open(file) as image:
            return _facts(image, image.getexif(), None, placed=placed)


def _is_placed_beside(path: Path) -> bool:
    """Whether a file beside an image says where it lies on the earth, as GDAL finds it."""
    suffix = path.suffix[1:]
    for name in (suffix[:1] + suffix[-1:] + "w", suffix + "w", "wld"):
        for world in {path.with_suffix(f".{each}") for each in (name.lower(), name.upper())}:
            with suppress(OSError, ValueError), world.open("rb") as file:
                if len([float(number) for number in file.read(_WORLD).split()]) >= 6:
                    return True
    with suppress(OSError):
        return b"<GeoTransform>" in path.with_name(f"{path.name}.aux.xml").read_bytes()
    return False


def header_of_pil(image: Image.Image) -> Header:
    """Size and origin of an image in memory, as far as Pillow has kept what its file says."""
    size = (image.height, image.width)
    try:
        with QUIET:
            exif = image.getexif()
            return Header(size, _is_placed(set(exif)), _is_exposed(exif))
    except UNREADABLE:  # a broken block makes no image unreadable
        return Header(size, False, False)


def _is_placed(tags: Collection[int]) -> bool:
    """Whether GeoTIFF's tags give coordinates of pixels, as far as GDAL makes a transform of it."""
    return 34264 in tags or 33550 in tags


def _is_exposed(exif: Image.Exif) -> bool:
    return ExifTags.Base.ExposureTime in exif.get_ifd(ExifTags.IFD.Exif)


def _facts(
    image: ImageFile.ImageFile, exif: Image.Exif, icc: bytes | None, *, placed: bool
) -> Header:
    turned = exif.get(ExifTags.Base.Orientation, 1)
    size = (image.height, image.width)
    size = size[::-1] if turned in (5, 6, 7, 8) else size
    facts = Header(size, placed, _is_exposed(exif), turned in range(2, 9))
    plain = image.format in ("PNG", "JPEG") and image.mode in ("L", "RGB") and turned == 1
    deep = image.format == "PNG" and str(image.tile[0].args).endswith("16B")
    if not plain or deep or image.has_transparency_data:
        return facts
    nothing = np.zeros((0, 0, len(image.mode)), np.uint8)
    whole = PixelValues(nothing, 8, colour=image.mode == "RGB", icc=icc)
    return replace(facts, driver=str(image.format), whole=whole)


def _tiff_facts(path: Path, *, placed: bool) -> Header:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = full_page(file, path)
        tags = page.tags
        placed = placed or _is_placed(set(tags.keys()))
        exif = tags.valueof(34665)
        exposed = isinstance(exif, dict) and "ExposureTime" in exif
        turned = int(tags.valueof(274, 1))
        size = (page.imagelength, page.imagewidth)
        size = size[::-1] if turned >= 5 else size
        whole = describe_page(page)
        opacity = placed and bool({1, 2} & set(whole.extra))
        partial = whole.nodata is not None or whole.values.dtype.kind == "f" or opacity
        facts = Header(size, placed, exposed, turned != 1, partial)
        if turned != 1 or page is not file.pages[0] or not is_plain(page):
            return facts
        return replace(facts, driver="GTiff", whole=whole)


class HeldImage:
    """An image that is in memory as a whole.

    Attributes:
        size: Height and width.
    """

    def __init__(
        self,
        photo: UInt8[Tensor, "height width 3"],
        absent: Bool[Tensor, "height width"] | None = None,
    ) -> None:
        self._photo, self.size = photo, (photo.shape[0], photo.shape[1])
        self._absent = absent

    def window(self, rows: Span, columns: Span) -> UInt8[Tensor, "rows columns 3"]:
        """RGB of these rows and columns."""
        return self._photo[slice(*rows), slice(*columns)].contiguous()

    def absent(self, rows: Span) -> Bool[Tensor, "rows width"] | None:
        """Which pixels of these rows have no data; None = all of the image have some."""
        return None if self._absent is None else self._absent[slice(*rows)]


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
        self._opacity = _opacity_counts(sample, reading, facts)
        self._partial = facts.partial
        self._rows: Span = (0, 0)
        self._strip = torch.empty(0, self.size[1], 3, dtype=torch.uint8)
        self._absent = torch.empty(0, self.size[1], dtype=torch.bool)

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
            (self._strip, self._absent), self._rows = self._read(rows), rows
        return self._strip[:, slice(*columns)].contiguous()

    def absent(self, rows: Span) -> Bool[Tensor, "rows width"] | None:
        """Which pixels of these rows have no data; None = all of the image have some.

        Raises:
            DataError: If they cannot be read.
        """
        if not self._partial:
            return None
        first, last = self._rows
        if not first <= rows[0] <= rows[1] <= last:
            self.window(rows, (0, 0))
            first = rows[0]
        return self._absent[rows[0] - first : rows[1] - first]

    def _read(self, rows: Span) -> tuple[UInt8[Tensor, "rows width 3"], Bool[Tensor, "_ width"]]:
        strip = np.empty((rows[1] - rows[0], self.size[1], 3), np.uint8)
        absent = np.zeros((len(strip) if self._partial else 0, self.size[1]), bool)
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
            part = replace(self._whole, values=values)
            there = slice(piece[0] - rows[0], piece[1] - rows[0])
            strip[there] = np.asarray(part.shown(self._reading, self._path).convert("RGB"))
            if self._partial:
                absent[there] = part.absent(self._reading, opacity=self._opacity)
        return torch.from_numpy(strip), torch.from_numpy(absent)


def _opacity_counts(sample: PixelValues, reading: Reading, facts: Header) -> bool:
    """Whether what is transparent in a scene has no data; in a drawing it is background."""
    alpha = reading.alpha
    return facts.georeferenced and alpha is not None and bool(sample.values[..., alpha].any())


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
        photo = read_image(path, value_range, bands)
        yield HeldImage(photo, _absent_of_whole(path, value_range, bands))
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


def undecide_absent(
    ids: UInt8[Tensor, "height width"], path: Path, settings: DataConfig
) -> UInt8[Tensor, "height width"]:
    """A mask that is undecided where its photograph, a file, says that it has no data.

    That is said by the nodata value of a TIFF, by nan and infinity, and by no opacity in one that
    is georeferenced. Other files are not read.

    Raises:
        DataError: If the photograph cannot be read.
    """
    if not _may_be_partial(path):
        return ids
    with open_large(path, settings.range, settings.bands) as image:
        absent = image.absent((0, ids.shape[0]))
    return ids if absent is None else ids.masked_fill(absent.to(ids.device), IGNORE)


def _may_be_partial(path: Path) -> bool:
    try:
        return read_header(path).partial
    except (Image.DecompressionBombError, *UNREADABLE):
        return False  # whoever reads it says what is wrong


def _absent_of_whole(
    path: Path, value_range: Range | None, bands: Bands | None
) -> Bool[Tensor, "height width"] | None:
    values = decode(path) if _may_be_partial(path) else None
    if not isinstance(values, PixelValues):
        return None
    facts = read_header(path)
    reading = values.reading(path, value_range, bands)
    found = values.absent(reading, opacity=_opacity_counts(values, reading, facts))
    return torch.from_numpy(upright(found, values.orientation)) if found.any() else None


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
