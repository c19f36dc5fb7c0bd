"""The answer to an image: its mask as PNG or run lengths, or a table of its classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssrseg.data.class_ids import pixel_counts
from ssrseg.data.stamped_mask import mask_png
from ssrseg.export.coco import class_annotations
from ssrseg.export.runs import packed, run_lengths
from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.model import PhotoSegments


@dataclass(frozen=True)
class Segmented:
    """A photograph's mask and what is known about it.

    Attributes:
        classes: Names; class ``classes[i]`` has id i + 1.
        made_for: Stamp of the mask, as ``predict`` writes it.
    """

    found: PhotoSegments
    classes: tuple[str, ...]
    made_for: str


def as_png(segmented: Segmented) -> bytes:
    """The file that ``predict`` writes: indexed, in VOC's colours, with stamp and review."""
    found = segmented.found
    return mask_png(found.pseudo_mask, segmented.made_for, found.review.to_text())


def as_rle(segmented: Segmented) -> bytes:
    """COCO's compressed run lengths of each class that is shown; all else is background."""
    ids = segmented.found.pseudo_mask.numpy()
    regions = []
    for annotation in class_annotations(ids):
        number = annotation.pop("category_id")
        del annotation["iscrowd"]
        regions.append({"id": number, "name": segmented.classes[number - 1], **annotation})
    undecided = np.ascontiguousarray(ids.T).ravel() == IGNORE
    table = {"height": ids.shape[0], "width": ids.shape[1], "classes": regions}
    if undecided.any():
        counts = packed(run_lengths(undecided))
        table["undecided"] = {"size": list(ids.shape), "counts": counts}
    return json.dumps(table).encode()


def as_table(segmented: Segmented) -> bytes:
    """Background and classes that are shown: pixels, share of the decided ones, confidence.

    With it the expected quality of the mask, and why it may be wrong.
    """
    found = segmented.found
    ids, review = found.pseudo_mask.numpy(), found.review
    pixels, sure = pixel_counts(ids), _sums(ids, found.confidence)
    undecided = int(pixels[IGNORE])
    decided = max(1, ids.size - undecided)
    rows = [
        {
            "id": number,
            "name": name,
            "pixels": int(pixels[number]),
            "share": round(int(pixels[number]) / decided, 6),
            "confidence": round(float(sure[number] / pixels[number]), 4),
        }
        for number, name in enumerate(("background", *segmented.classes))
        if pixels[number]
    ]
    table = {
        "height": ids.shape[0],
        "width": ids.shape[1],
        "classes": rows,
        "undecided": undecided,
        "score": review.score,
        "reasons": list(review.reasons),
    }
    return json.dumps(table).encode()


def _sums(ids: np.ndarray, confidence: Tensor) -> np.ndarray:
    """Confidence by id, summed row by row: at once it would take eight bytes a pixel."""
    sums = np.zeros(256)
    for row, shares in zip(ids, confidence.numpy(), strict=True):
        sums += np.bincount(row, shares, minlength=256)
    return sums


@dataclass(frozen=True)
class Form:
    """A form of answers.

    Attributes:
        media_type: By which ``Accept`` asks for it.
        encode: Makes it.
    """

    media_type: str
    encode: Callable[[Segmented], bytes]


FORMS = {
    "png": Form("image/png", as_png),
    "rle": Form("application/vnd.ssrseg.rle+json", as_rle),
    "json": Form("application/json", as_table),
}
"""By the name in ``?as=``; the first one is what a client gets that has no wish."""


def accepted_form(accept: str) -> str | None:
    """The name of the form that a header ``Accept`` likes best; None if it likes none."""
    wishes = {}
    for part in accept.split(","):
        media_type, *parameters = (word.strip().lower() for word in part.split(";"))
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        try:
            wishes[media_type] = float(quality)
        except ValueError:
            wishes[media_type] = 0.0
    best, liked = None, 0.0
    for name, form in FORMS.items():
        kind = form.media_type.partition("/")[0]
        ways = (form.media_type, f"{kind}/*", "*/*")
        wish = next((wishes[way] for way in ways if way in wishes), 0.0)
        if wish > liked:
            best, liked = name, wish
    return best
