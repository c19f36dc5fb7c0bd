"""Pictures as their files store them, and what a viewer would show of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from ssrseg.data.colour import to_srgb
from ssrseg.data.levels import Range, black_and_white, scaled
from ssrseg.data.notices import note_once
from ssrseg.errors import DataError, counted

Bands = tuple[int, int, int]
"""Numbers of the bands that are red, green and blue, from 1."""

_PREMULTIPLIED, _ALPHA = 1, 2


@dataclass(frozen=True)
class Reading:
    """How samples become a photograph.

    Attributes:
        bands: Indices of the samples that are shown, one or three.
        span: Black and white; None for unsigned samples of at most 8 bits, which need none.
        alpha: Index of the opacity, if one counts.
        full: What is opaque.
    """

    bands: tuple[int, ...] = (0,)
    span: Range | None = None
    alpha: int | None = None
    full: float = 255.0


@dataclass(frozen=True)
class PixelValues:
    """PixelValues of a TIFF, or of another picture that Pillow would cut to 8 bits.

    Attributes:
        values: height x width, or height x width x samples.
        bits: Of a sample.
        palette: Colours by sample, if samples are indices.
        colour: The first three samples are red, green and blue.
        white_is_zero: The lowest sample is white.
        extra: Meaning of the samples behind the colours: 0 = unknown, 1 = alpha that colours are
            multiplied by, 2 = alpha.
        declared: Least and greatest sample by the header, if it says so.
        nodata: Value of pixels without data.
        orientation: EXIF's, 1 = upright.
        icc: Colour profile.
    """

    values: np.ndarray
    bits: int
    palette: UInt8[np.ndarray, "colours 3"] | None = None
    colour: bool = False
    white_is_zero: bool = False
    extra: tuple[int, ...] = ()
    declared: Range | None = None
    nodata: float | None = None
    orientation: int = 1
    icc: bytes | None = None

    def to_rgb(
        self, name: Path | str, value_range: Range | None, bands: Bands | None = None
    ) -> Image.Image:
        """As a viewer shows it, but not yet turned; noted once is what is interpreted or left out.

        Args:
            name: For messages.
            value_range: Black and white of more than 8 bits; None = see ``black_and_white``.
            bands: Which are red, green and blue, from 1; None = by the file.

        Raises:
            DataError: If it has more than three bands and nothing says which ones to read.
        """
        return self.shown(self.reading(name, value_range, bands), name)

    def reading(
        self, name: Path | str, value_range: Range | None, bands: Bands | None = None
    ) -> Reading:
        """How it is to be shown, from all or some of its pixels; see ``to_rgb``."""
        if self.palette is not None:
            refuse_bands(name, bands, "a palette")
            return Reading()
        values = self._bands
        count = values.shape[2]
        codes = list(enumerate(self.extra, count - len(self.extra)))
        first = min(3 if count >= 3 else 1, count)
        alpha = next((at for at, code in codes if at >= first and code in (1, 2)), None)
        if bands is not None:
            check_bands(name, bands, count)
            shown = tuple(band - 1 for band in bands)
            alpha = None if alpha in shown else alpha
        else:
            shown = tuple(range(first))
            self._say_what_is_left_out(name, count, first, alpha)
        full: float | None = None
        if alpha is not None:
            full = _full_opacity(values[..., alpha], name)
            alpha = None if full is None else alpha
        span: Range | None = None
        if values.dtype.kind not in "bu" or self.bits > 8:
            usual = values.dtype.kind not in "bu" or self.bits in (16, 32, 64)
            odd = None if usual else (0.0, 2.0**self.bits - 1)
            chosen, missing = values[..., shown], self._missing(values[..., shown])
            declared = self.declared or odd
            span = black_and_white(chosen, name, value_range, declared=declared, missing=missing)
        return Reading(shown, span, alpha, full or 255.0)

    def shown(self, reading: Reading, name: Path | str) -> Image.Image:
        """As ``reading`` says, which may be that of a larger picture that this one is a part of."""
        if self.palette is not None:
            return to_srgb(Image.fromarray(self.palette[self.values.astype(np.intp)]), self.icc)
        values, alpha = self._bands, reading.alpha
        levels = self._levels(values[..., reading.bands], reading.span)
        rgb = to_srgb(
            Image.fromarray(levels[..., 0] if len(reading.bands) == 1 else levels), self.icc
        )
        if alpha is None:
            return rgb
        band = values[..., alpha] * (255 / reading.full)
        opacity = np.rint(band).clip(0, 255).astype(np.uint8)
        if self.extra[alpha - values.shape[2]] == _PREMULTIPLIED:
            sums = np.array(rgb).astype(int) + 255 - opacity[..., None]
            return Image.fromarray(sums.clip(0, 255).astype(np.uint8))
        return on_white(rgb, opacity, name)

    def absent(self, reading: Reading, *, opacity: bool) -> Bool[np.ndarray, "height width"]:
        """Pixels without data: nodata, nan or infinite in each band that is shown.

        Args:
            opacity: Those without any opacity are, too.
        """
        shown = self._bands[..., reading.bands]
        absent = np.zeros(shown.shape, bool) if self.nodata is None else shown == self.nodata
        if shown.dtype.kind == "f":
            absent |= ~np.isfinite(shown)
        found = np.all(absent, -1)
        if opacity and reading.alpha is not None:
            found |= self._bands[..., reading.alpha] == 0
        return found

    @property
    def _bands(self) -> np.ndarray:
        return self.values if self.values.ndim == 3 else self.values[..., None]

    def _say_what_is_left_out(
        self, name: Path | str, count: int, shown: int, alpha: int | None
    ) -> None:
        rest = count - shown - (alpha is not None)
        if rest and shown == 3 and not self.colour:
            raise DataError(
                f"{name} has {count} bands, and nothing says which ones are red, green and blue."
                " Name them, counted from 1: --set data.bands=[3,2,1] (predict: --bands 3 2 1)."
            )
        if rest or (shown == 3 and not self.colour):
            first = (
                "the first three are read as red, green and blue" if shown == 3 else "one is read"
            )
            note_once(
                f"{count} bands {shown}",
                f"{name} has {count} bands, of which {first}; so are those of photographs like it."
                + (" data.bands (predict: --bands) chooses others." if rest else ""),
            )

    def _missing(self, values: np.ndarray) -> Bool[np.ndarray, "height width shown"] | None:
        if self.nodata is None:
            return None
        return np.broadcast_to((values == self.nodata).all(-1, keepdims=True), values.shape)

    def _levels(
        self, values: np.ndarray, span: Range | None
    ) -> UInt8[np.ndarray, "height width shown"]:
        if span is not None:
            missing = self._missing(values)
            return scaled(values, span, missing=missing, white_is_low=self.white_is_zero)
        full = 2**self.bits - 1
        if full == 255:
            return (255 - values if self.white_is_zero else values).astype(np.uint8)
        levels = ((values.astype(np.uint16) * 255 + full // 2) // full).astype(np.uint8)
        return 255 - levels if self.white_is_zero else levels


def check_bands(name: Path | str, bands: Bands, count: int) -> None:
    """Raise DataError if an image of ``count`` bands lacks one that is named."""
    if max(bands) > count:
        raise DataError(
            f"{name} has {counted(count, 'band', 'bands')}, but data.bands = {list(bands)} names"
            f" band {max(bands)}. Count them from 1, leave data.bands out, or keep images of other"
            " bands in a folder of their own."
        )


def refuse_bands(name: Path | str, bands: Bands | None, colours: str) -> None:
    """Raise DataError if bands are named of an image that has none, but ``colours``."""
    if bands not in (None, (1, 2, 3)):
        raise DataError(
            f"{name} has {colours} and no bands, but data.bands = {list(bands or ())} names some."
            " Leave data.bands out, or save it as RGB."
        )


def _full_opacity(band: np.ndarray, name: Path | str) -> float | None:
    """What is opaque in an alpha band; None if it looks like a picture, such as near infrared."""
    top = float(band.max())  # of 1, the band is a mask of what is valid
    full = 255.0 if band.dtype == np.uint8 and top > 1 else max(top, 1.0)
    picture = float(((band > 0) & (band < full)).mean())
    if picture > 0.5:
        note_once(
            "alpha is a band",
            f"{name} has a band tagged as alpha that is neither opaque nor transparent in"
            f" {100 * picture:.0f} % of its pixels, as near infrared is: it is left out, here"
            " and in photographs like it.",
        )
        return None
    return full


def on_white(
    rgb: Image.Image, opacity: UInt8[np.ndarray, "height width"], name: Path | str
) -> Image.Image:
    """Colours on white where they are transparent, unless nothing would be left of them."""
    if not opacity.any():
        note_once(
            "all transparent",
            f"{name} is transparent everywhere: its colours are read without transparency, and so"
            " are those of photographs like it.",
        )
        return rgb
    if opacity.max() == 1:  # a mask of what is valid
        opacity = opacity * np.uint8(255)
    soft = float(((opacity > 0) & (opacity < 255)).mean())
    if soft > 0.5:
        note_once(
            "soft transparency",
            f"{name} is half transparent in {100 * soft:.0f} % of its pixels: they are laid on"
            " white, here and in photographs like it.",
        )
    white = Image.new("RGB", rgb.size, "white")
    return Image.composite(rgb, white, Image.fromarray(opacity))
