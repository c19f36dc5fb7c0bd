"""Pixel values of any type and range as the 256 levels of a photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from ssrseg.data.notices import note_once
from ssrseg.errors import DataError

Range = tuple[float, float]

_WHITES = (1, 255, 1023, 4095, 16383, 65535)  # floats from 0 to 1; 8, 10, 12, 14 and 16 bits
_OUTLIERS = 10_000  # one pixel of so many, such as a hot one, may lie outside the range


def to_levels(
    values: np.ndarray,
    name: Path | str,
    chosen: Range | None,
    *,
    declared: Range | None = None,
    missing: Bool[np.ndarray, ...] | None = None,
    white_is_low: bool = False,
) -> UInt8[np.ndarray, ...]:
    """Scale integers of more than 8 bits, signed ones, or floats to 0 .. 255.

    Args:
        name: For messages.
        chosen: Black and white; None = as ``black_and_white`` finds them.
        declared: Black and white by the file's header; ignored where values lie outside.
        missing: Pixels without a value; they become black, as nan and infinity do.
        white_is_low: The lowest value is white.

    Raises:
        DataError: If no pixel has a value, or they are complex.
    """
    span = black_and_white(values, name, chosen, declared=declared, missing=missing)
    return scaled(values, span, missing=missing, white_is_low=white_is_low)


def black_and_white(
    values: np.ndarray,
    name: Path | str,
    chosen: Range | None,
    *,
    declared: Range | None = None,
    missing: Bool[np.ndarray, ...] | None = None,
) -> Range:
    """Black and white of a picture, from all or some of its values.

    They are those that are ``chosen`` (``data.range``), else those that the file declares, else 0
    and the least white of 8, 10, 12, 14 or 16 bits (or 1.0 of floats) that the values stay below.
    Where they then would span less than a quarter of the levels, or are negative, they are
    stretched from the darkest to the brightest. All but the usual is noted, once for photographs of
    a kind.

    Raises:
        DataError: If no pixel has a value, or they are complex.
    """
    if values.dtype.kind not in "iuf":
        raise DataError(
            f"{name} holds {values.dtype.name} values, of which no photograph can be made. Save"
            " their magnitude, or whatever is meant, as 16-bit integers."
        )
    absent = _absent(values, missing)
    known = values[~absent] if absent.any() else values.reshape(-1)
    if known.size == 0:
        raise DataError(f"{name} has no pixel with a value: all are nan, infinite or nodata.")
    if len(known) < values.size:
        note_once(
            "missing pixels",
            f"{name}: {100 - 100 * len(known) / values.size:.2g} % of the values are nan, infinite"
            " or nodata; they are read as black, here and in photographs like it.",
        )
    low, high = chosen or _range(known, name, declared)
    _say_if_flat(known, name, low, high)
    return low, high


def scaled(
    values: np.ndarray,
    span: Range,
    *,
    missing: Bool[np.ndarray, ...] | None = None,
    white_is_low: bool = False,
) -> UInt8[np.ndarray, ...]:
    """Values as 0 .. 255 from black to white; see ``to_levels``."""
    absent = _absent(values, missing)
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:  # a table is faster
        least = np.iinfo(values.dtype).min
        table = _scaled(np.arange(least, np.iinfo(values.dtype).max + 1), *span)
        levels = table[values.astype(np.int32) - least]
    else:
        levels = _scaled(np.where(absent, span[0], values), *span)
    if white_is_low:
        levels = 255 - levels
    levels[absent] = 0
    return levels


def _absent(values: np.ndarray, missing: np.ndarray | None) -> Bool[np.ndarray, ...]:
    absent = np.zeros(values.shape, bool) if missing is None else missing
    return absent | ~np.isfinite(values) if values.dtype.kind == "f" else absent


def _scaled(values: np.ndarray, low: float, high: float) -> UInt8[np.ndarray, ...]:
    return np.rint(((values - np.float64(low)) * (255 / (high - low))).clip(0, 255)).astype(
        np.uint8
    )


def _range(known: np.ndarray, name: Path | str, declared: Range | None) -> Range:
    """Black and white of a picture, noted unless they are the usual ones of its type."""
    kind = known.dtype.kind
    outside = len(known) // _OUTLIERS
    ordered = np.partition(known, (outside, len(known) - 1 - outside))
    low, high = float(ordered[outside]), float(ordered[-1 - outside])
    usual = 1 if kind == "f" else 65535
    whites: tuple[int, ...] = _WHITES
    if kind == "i" and known.dtype.itemsize <= 2:
        usual = int(np.iinfo(known.dtype).max)
        whites = (*(white for white in _WHITES if white < usual), usual)
    if declared is not None and declared[0] <= low <= high <= declared[1]:
        if declared != (0, usual):
            _say(known, name, declared, "as its header says")
        return declared
    whites = tuple(white for white in whites if high <= white and (white > 1 or kind == "f"))
    if low >= 0 and whites and (high - low >= whites[0] / 4 or high == low):
        found = (0.0, float(whites[0]))
        if whites[0] != usual:
            bits = (
                f"as {whites[0].bit_length()} bits" if kind != "f" else "by their brightest pixel"
            )
            _say(known, name, found, bits)
        return found
    if low == high:
        low, high = low - 1, high + 1
    _say(known, name, (low, high), "stretched", kind_of_note="stretched")
    return low, high


def _say_if_flat(known: np.ndarray, name: Path | str, low: float, high: float) -> None:
    """Note a picture that will be almost black or grey, as a few hot pixels or nodata make it."""
    some = known[:: 1 + len(known) // 1_000_000]
    some = some[(some > some.min()) & (some < some.max())]
    if some.size < 100:
        return
    darkest, brightest = np.percentile(some, [1, 99])
    if brightest - darkest < (high - low) / 16:
        note_once(
            f"flat {known.dtype}",
            f"{name} has almost all of its values between {darkest:.6g} and {brightest:.6g}, which"
            f" is little of black = {low:.6g} to white = {high:.6g}: it looks all alike. Set"
            " data.range (predict: --range), for photographs like it too.",
        )


def _say(
    known: np.ndarray, name: Path | str, found: Range, how: str, kind_of_note: str = ""
) -> None:
    top = f" of {np.iinfo(known.dtype).max}" if known.dtype.kind in "iu" else ""
    low, high = (f"{value:.6g}" for value in found)
    note_once(
        f"range {known.dtype} {kind_of_note or found}",
        f"{name}: darkest pixel {known.min():.6g}, brightest {known.max():.6g}{top}. It and"
        f" photographs like it are read {how}: black = {low}, white = {high}. data.range (predict:"
        " --range) chooses other values.",
    )
