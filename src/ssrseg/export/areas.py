"""A table of areas: a line for each class of each image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ssrseg.data.class_ids import pixel_counts
from ssrseg.data.csv_lines import csv_line
from ssrseg.export.output import Output
from ssrseg.export.source import Mask
from ssrseg.method.pseudo_mask import IGNORE

COLUMNS = (
    "image", "class", "pixels", "share", "confidence", "undecided", "width", "height", "score",
)  # fmt: skip


def write_areas(
    masks: Iterable[Mask], output: Output, classes: tuple[str, ...], *, file: str = "areas.csv"
) -> None:
    """Write the table ``file``.

    Classes that an image does not show have a line with 0, and so does the background. ``share`` is
    that of the decided pixels, in [0, 1], and ``undecided`` the number of the others.
    ``confidence`` is the mean over the pixels of the class, in [0, 1]; empty where it has none, a
    person has corrected the mask, or no confidence is known.
    """
    with output.text(file) as table:
        table.write(csv_line(COLUMNS))
        for mask in masks:
            pixels, sure = pixel_counts(mask.ids), None
            if mask.confidence is not None:
                sure = np.zeros(256)
                for ids, shares in zip(mask.ids, mask.confidence, strict=True):  # row by row
                    sure += np.bincount(ids, shares / 255, minlength=256)
            undecided = int(pixels[IGNORE])
            decided = mask.ids.size - undecided
            height, width = mask.ids.shape
            score = "" if mask.score is None else f"{mask.score:.3f}"
            for number, name in enumerate(("background", *classes)):
                share = f"{pixels[number] / decided:.6f}" if decided else ""
                mean = ""
                if sure is not None and pixels[number]:
                    mean = f"{sure[number] / pixels[number]:.4f}"
                cells = (pixels[number], share, mean, undecided, width, height, score)
                table.write(csv_line((mask.file, name, *cells)))
