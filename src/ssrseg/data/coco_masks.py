"""True masks from COCO's instances."""

from __future__ import annotations

from functools import partial
from reprlib import repr as brief
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from ssrseg.console import printable
from ssrseg.data.coco import ImageInstances, Instance
from ssrseg.data.ignored_warnings import IgnoredWarnings
from ssrseg.errors import DataError

_NUMPY_QUIET = IgnoredWarnings((DeprecationWarning, ""))  # of pycocotools' use of NumPy
_FARTHEST = 1e6  # pixels from the corner; pycocotools counts in 32-bit fifths of pixels
_LONGEST = 4e6  # pixels; pycocotools keeps every step of an outline, about 60 bytes a pixel


def semantic_mask(image: ImageInstances) -> UInt8[Tensor, "height width"]:
    """Class ids of an image: instances and crowds, smaller ones over larger ones.

    Overlaps are settled as in coco2voc, the tool that CLIP-ES's successors point to: by the
    annotation's own ``area`` (where none is given, by its pixels), and the earlier of two equal
    ones is on top. A crowd is its class, not ignored (docs/decisions.md, 0020).

    Raises:
        DataError: If pycocotools is not installed, or a segmentation is missing or none.
    """
    try:
        from pycocotools import mask as coder
    except ImportError as error:
        raise DataError(
            "COCO's masks are made by pycocotools, which is not installed: pip install pycocotools."
        ) from error
    ids = np.zeros(image.size, np.uint8)
    decode = partial(_decode, coder, image)

    def area(each: Instance) -> float:
        return float(decode(each).sum()) if each.area is None else each.area

    for each in reversed(sorted(image.instances, key=area)):
        ids[decode(each)] = each.class_id
    return torch.from_numpy(ids)


def _decode(coder: Any, image: ImageInstances, instance: Instance) -> Bool[np.ndarray, "h w"]:
    """Polygons (the parts of one object) or run lengths as a map of the image's size.

    Everything is checked first: pycocotools reads and writes beyond its memory if it is not what
    it expects, and takes a polygon of four numbers for a box.
    """
    try:
        if isinstance(instance.segmentation, dict):
            return _of_runs(_runs(instance.segmentation, image.size), image.size)
        parts = _polygons(instance.segmentation)
    except ValueError as error:
        raise DataError(
            f"{image.file}: the segmentation of annotation {printable(brief(instance.id))} (of"
            f" {printable(image.file_name)}) {error}. Correct or remove the annotation."
        ) from error
    if not parts:
        return np.zeros(image.size, bool)
    code = coder.merge(coder.frPyObjects(parts, *image.size))
    with _NUMPY_QUIET:
        return np.asarray(coder.decode(code), bool)


def _polygons(segmentation: Any) -> list[Any]:
    """The parts that have an area, as x, y, x, y, ...; ValueError if they are no polygons."""
    if segmentation is None or segmentation == []:
        raise ValueError("is missing; a box alone makes no mask")
    if not isinstance(segmentation, list) or not all(isinstance(p, list) for p in segmentation):
        raise ValueError("is neither a list of polygons nor run lengths")
    length = 0.0
    for part in segmentation:
        if not all(type(value) in (int, float) and abs(value) <= _FARTHEST for value in part):
            raise ValueError("holds a point whose coordinates are no numbers, or far outside")
        if len(part) % 2:
            raise ValueError("has a polygon with half a point")
        points = np.array(part, np.float64).reshape(-1, 2)
        if len(points):
            steps = np.abs(np.diff(points, axis=0, append=points[:1]))
            length += float(steps.max(1).sum())
    if length > _LONGEST:
        raise ValueError("has an outline of millions of pixels")
    # fewer than three points have no area
    return [part for part in segmentation if len(part) >= 6]


def _runs(segmentation: dict[str, Any], size: tuple[int, int]) -> list[int]:
    """Lengths of runs; ValueError if they do not make up an image of this size."""
    if segmentation.get("size") != list(size):
        raise ValueError(f"is not of the size of the image, {list(size)}")
    counts = segmentation.get("counts")
    runs = _packed_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("has no run lengths")
    if sum(runs) != size[0] * size[1]:
        raise ValueError("has run lengths that do not make up the image")
    return runs


def _packed_runs(text: str) -> list[int]:
    """COCO's compressed run lengths: 5 bits a letter, less significant ones first.

    From the fourth on, the difference to the one before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 30:
            raise ValueError("has damaged run lengths")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("has run lengths that are cut short")
    return runs


def _of_runs(runs: list[int], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Columns first, beginning with pixels outside."""
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size[::-1]).T
