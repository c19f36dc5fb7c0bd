"""Masks as lengths of runs, and the regions of a map of class ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int, UInt8
from scipy import ndimage

from ssrseg.method.pseudo_mask import IGNORE

Box = tuple[slice, slice]


def class_boxes(ids: UInt8[np.ndarray, "height width"]) -> Iterator[tuple[int, Box]]:
    """Class ids that occur, ascending, each with the rows and columns it lies in."""
    for number, box in enumerate(ndimage.find_objects(ids), 1):
        if box is not None and number != IGNORE:
            yield number, box


def run_lengths(inside: Bool[np.ndarray, " pixels"]) -> Int[np.ndarray, " runs"]:
    """Lengths of runs outside, inside, outside, ... in turn; the first may be 0."""
    ends = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], ends, [len(inside)]]))
    return np.concatenate([[0], lengths]) if inside[0] else lengths


def packed(runs: Int[np.ndarray, " runs"]) -> str:
    """COCO's compressed text: 5 bits a letter, less significant ones first, bit 5 = more follow.

    From the fourth run on, the difference to the one before the last.
    """
    values = runs.copy()
    values[3:] -= runs[1:-2]
    letters = []
    for value in values.tolist():
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            letters.append(48 + (bits | 32 * more))
    return bytes(letters).decode("ascii")
