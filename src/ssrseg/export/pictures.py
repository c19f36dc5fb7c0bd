"""Masks to look at: over each photograph, and on contact sheets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ssrseg.console import printable
from ssrseg.data.class_ids import pixel_counts
from ssrseg.data.large import small_photo
from ssrseg.export.output import Output
from ssrseg.export.source import Mask
from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.overlay import HATCH_PERIOD, ids_overlay, mask_palette
from ssrseg.report.settings import Levels

LARGEST = 2000
"""Pixels of the longer side of an overlay."""

CELL, COLUMNS, ROWS = (300, 225), 5, 5
"""Width and height of a picture on a sheet, and how many there are on it."""

_MARGIN, _WHITE, _BLACK = 12, (255, 255, 255), (0, 0, 0)


class Pictures:
    """Overlays, written one by one, and contact sheets, written at the end.

    Letters are those of DejaVu Sans; others, such as Chinese, show as boxes.
    """

    def __init__(
        self,
        output: Output,
        classes: tuple[str, ...],
        levels: Levels = (None, None),
        *,
        overlays: bool,
        sheet: bool,
    ) -> None:
        """``levels`` says how photographs are read."""
        self._levels = levels
        self._output, self._overlays, self._sheet = output, overlays, sheet
        self._names = dict(enumerate(classes, 1)) | {IGNORE: "undecided"}
        self._cells: list[tuple[float, str, bytes, tuple[int, ...]]] = []

    def add(self, mask: Mask) -> None:
        """Write the overlay of a mask, keep its small picture; DataError without photograph."""
        if mask.photo is None or not (self._overlays or self._sheet):
            return
        photo = Image.fromarray(small_photo(mask.photo, LARGEST, *self._levels).numpy())
        shown = tuple(each for each in np.flatnonzero(pixel_counts(mask.ids)).tolist() if each)
        if self._overlays:
            picture = _overlay(photo, mask.ids, min(1.0, LARGEST / max(photo.size)))
            legend = _legend([self._names[each] for each in shown], shown, picture.width)
            page = Image.new("RGB", (picture.width, picture.height + legend.height), _WHITE)
            page.paste(picture)
            page.paste(legend, (0, picture.height))
            self._output.write(f"overlays/{mask.name}.jpg", _jpeg(page))
        if self._sheet:
            score = 2.0 if mask.score is None else mask.score
            ratio = min(CELL[0] / photo.width, CELL[1] / photo.height)
            small = _jpeg(_overlay(photo, mask.ids, ratio))
            self._cells.append((score, mask.name, small, shown))

    def finish(self) -> None:
        """Write the sheets: images to look at first come first."""
        cells, each = sorted(self._cells), COLUMNS * ROWS
        pages = [cells[start : start + each] for start in range(0, len(cells), each)]
        for number, page in enumerate(pages, 1):
            name = f"sheet-{number:0{max(2, len(str(len(pages))))}}.jpg"
            self._output.write(name, _jpeg(self._page(page)))

    def _page(self, cells: Sequence[tuple[float, str, bytes, tuple[int, ...]]]) -> Image.Image:
        columns = min(COLUMNS, len(cells))
        wide, tall = CELL[0] + _MARGIN, CELL[1] + _MARGIN + 22
        ids = sorted({each for *_, shown in cells for each in shown})
        width = max(columns * wide + _MARGIN, 500)
        legend = _legend([self._names[each] for each in ids], tuple(ids), width)
        height = legend.height + -(-len(cells) // COLUMNS) * tall + _MARGIN
        page = Image.new("RGB", (width, height), _WHITE)
        page.paste(legend)
        draw, font = ImageDraw.Draw(page), _font(13)
        for place, (score, name, picture, _) in enumerate(cells):
            left = _MARGIN + place % COLUMNS * wide
            top = legend.height + place // COLUMNS * tall
            with Image.open(io.BytesIO(picture)) as small:
                page.paste(small, (left, top + CELL[1] - small.height))
            text = "" if score > 1 else f"{score:.3f}  "
            text += _fitting(printable(name), CELL[0] - int(font.getlength(text)), font)
            draw.text((left, top + CELL[1] + 3), text, _BLACK, font)
        return page


def _overlay(
    photo: Image.Image, ids: UInt8[np.ndarray, "height width"], ratio: float
) -> Image.Image:
    """Photograph with its mask, ``ratio`` times as large."""
    size = max(1, round(photo.width * ratio)), max(1, round(photo.height * ratio))
    if size != photo.size:
        photo = photo.resize(size, Image.Resampling.LANCZOS)
    if ids.shape != size[::-1]:
        ids = np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
    return Image.fromarray(ids_overlay(np.asarray(photo), ids, strength=0.6))


def _legend(names: Sequence[str], ids: tuple[int, ...], width: int) -> Image.Image:
    """Colours with their names, in as many lines as it takes."""
    font, side, line = _font(15), 16, 26
    places, x, y = [], _MARGIN, 8
    texts = [_fitting(printable(name), width - 3 * _MARGIN - side, font) for name in names]
    for text in texts:
        room = side + 6 + round(font.getlength(text)) + 18
        if x > _MARGIN and x + room > width:
            x, y = _MARGIN, y + line
        places.append((x, y))
        x += room
    strip = Image.new("RGB", (width, y + line if places else 8), _WHITE)
    draw = ImageDraw.Draw(strip)
    for (x, y), text, number in zip(places, texts, ids, strict=True):
        if number == IGNORE:
            rows, columns = np.indices((side, side))
            stripes = np.where((rows + columns) % HATCH_PERIOD < HATCH_PERIOD // 2, 255, 0)
            strip.paste(Image.fromarray(stripes.astype(np.uint8)), (x, y))
        else:
            draw.rectangle((x, y, x + side, y + side), tuple(mask_palette()[number].tolist()))
        draw.rectangle((x, y, x + side, y + side), outline=_BLACK)
        draw.text((x + side + 6, y - 1), text, _BLACK, font)
    return strip


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text, without its middle if it is too long."""
    keep = len(text)
    shown = text
    while keep > 2 and font.getlength(shown) > width:
        keep -= 1
        shown = f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"
    return shown


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def _jpeg(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=90)
    return encoded.getvalue()
