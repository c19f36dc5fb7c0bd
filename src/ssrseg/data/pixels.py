"""Pictures as their files store them, and what a viewer would show of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssrseg.data.colour import to_srgb
from ssrseg.data.levels import Range, to_levels
from ssrseg.data.notices import note_once

_PREMULTIPLIED, _ALPHA = 1, 2


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

    def to_rgb(self, name: Path | str, value_range: Range | None) -> Image.Image:
        """As a viewer shows it, but not yet turned; noted once is what is interpreted or left out.

        Args:
            name: For messages.
            value_range: Black and white of more than 8 bits; None = see ``to_levels``.
        """
        if self.palette is not None:
            return to_srgb(Image.fromarray(self.palette[self.values.astype(np.intp)]), self.icc)
        values = self.values if self.values.ndim == 3 else self.values[..., None]
        count = values.shape[2]
        shown = 3 if count >= 3 else 1
        codes = enumerate(self.extra, count - len(self.extra))
        alpha = next((at for at, code in codes if at >= shown and code in (1, 2)), None)
        rest = count - shown - (alpha is not None)
        if rest or (shown == 3 and not self.colour):
            first = (
                "the first three are read as red, green and blue" if shown == 3 else "one is read"
            )
            note_once(
                f"{count} bands {shown}",
                f"{name} has {count} bands, of which {first}; so are those of photographs like it.",
            )
        levels = self._levels(values[..., :shown], name, value_range)
        rgb = to_srgb(Image.fromarray(levels[..., 0] if shown == 1 else levels), self.icc)
        if alpha is None:
            return rgb
        opacity = self._opacity(values[..., alpha], name)
        if opacity is None:
            return rgb
        if self.extra[alpha - count] == _PREMULTIPLIED:
            sums = np.array(rgb).astype(int) + 255 - opacity[..., None]
            return Image.fromarray(sums.clip(0, 255).astype(np.uint8))
        return on_white(rgb, opacity, name)

    def _levels(
        self, values: np.ndarray, name: Path | str, value_range: Range | None
    ) -> UInt8[np.ndarray, "height width shown"]:
        if values.dtype.kind in "bu" and self.bits <= 8:
            full = 2**self.bits - 1
            levels = ((values.astype(np.uint16) * 255 + full // 2) // full).astype(np.uint8)
            return 255 - levels if self.white_is_zero else levels
        missing = None
        if self.nodata is not None:
            missing = np.broadcast_to((values == self.nodata).all(-1, keepdims=True), values.shape)
        usual = values.dtype.kind not in "bu" or self.bits in (16, 32, 64)
        odd = None if usual else (0.0, 2.0**self.bits - 1)
        return to_levels(
            values,
            name,
            value_range,
            declared=self.declared or odd,
            missing=missing,
            white_is_low=self.white_is_zero,
        )

    def _opacity(
        self, band: np.ndarray, name: Path | str
    ) -> UInt8[np.ndarray, "height width"] | None:
        """The alpha band from 0 to 255; None if it looks like a picture, such as near infrared."""
        top = float(band.max())  # of 1, the band is a mask of what is valid
        full = 255 if band.dtype == np.uint8 and top > 1 else max(top, 1)
        picture = float(((band > 0) & (band < full)).mean())
        if picture > 0.5:
            note_once(
                "alpha is a band",
                f"{name} has a band tagged as alpha that is neither opaque nor transparent in"
                f" {100 * picture:.0f} % of its pixels, as near infrared is: it is left out, here"
                " and in photographs like it.",
            )
            return None
        return np.rint(band * (255 / float(full))).clip(0, 255).astype(np.uint8)


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
