"""Masks against true masks, one confusion matrix, image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from ssrseg.console import track
from ssrseg.data.files import user_path, write_json
from ssrseg.data.images import check_class_ids, read_truth
from ssrseg.data.open import labelled_images
from ssrseg.data.sample import LabelledImages
from ssrseg.data.text import read_lines
from ssrseg.errors import DataError
from ssrseg.method.metrics import Scores, confusion_matrix, scores
from ssrseg.method.pseudo_mask import IGNORE


@dataclass(frozen=True)
class Evaluation:
    """How good a folder of masks is.

    Attributes:
        scores: mIoU, precision, recall, confusion ratio; per class too.
        classes: Background first.
        images: Images that show each class, by the true masks.
        matrix: Pixels, rows = truth, columns = prediction.
        undecided: Share of scored pixels that the masks leave open (255), in [0, 1]; these are
            left out of the matrix.
    """

    scores: Scores
    classes: tuple[str, ...]
    images: Int[Tensor, " classes"]
    matrix: Int[Tensor, "classes classes"]
    undecided: float


def evaluate(predictions: str | Path, data: LabelledImages | str | Path) -> Evaluation:
    """Score ``masks/NAME.png`` against the true masks of a data set.

    Args:
        predictions: Folder written by ``masks`` or ``predict``, or any folder of indexed PNGs
            named like the images.
        data: Open data, or its folder; images without a true mask are left out.

    Raises:
        DataError: If masks are missing, of another size, of other classes, or hold unknown ids.
    """
    predictions, data = user_path(predictions, "masks"), labelled_images(data)
    folder = predictions / "masks" if (predictions / "masks").is_dir() else predictions
    if not folder.is_dir():
        raise DataError(f"{predictions} (--masks): there is no such folder of masks.")
    known = [(sample, sample.truth) for sample in data.samples if sample.truth is not None]
    if not known:
        raise DataError(
            f"No image of {data.root} has a true mask. Put indexed PNGs (0 = background, 1 = first"
            " class, ..., 255 = ignore) into SegmentationClass/, named like the images."
        )
    missing = [sample.name for sample, _ in known if not (folder / f"{sample.name}.png").is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks the masks of {len(missing)} of {len(known)} images (such as"
            f" {missing[0]}.png). Finish the run that writes them, or name the --split they are of."
        )
    _same_classes(predictions / "classes.txt", data.classes)
    classes = ("background", *data.classes)
    matrix = torch.zeros(len(classes), len(classes), dtype=torch.long)
    images = torch.zeros(len(classes), dtype=torch.long)
    open_pixels = all_pixels = 0
    for sample, truth_path in track(known, "Scoring", len(known)):
        file = folder / f"{sample.name}.png"
        found, truth = read_truth(file), read_truth(truth_path)
        if found.shape != truth.shape:
            raise DataError(
                f"{file} is {tuple(found.shape)[::-1]} pixels, its true mask {truth_path}"
                f" {tuple(truth.shape)[::-1]}. Masks must have the size of their image."
            )
        for path, ids in ((file, found), (truth_path, truth)):
            check_class_ids(path, ids, len(data.classes))
        scored, decided = truth != IGNORE, found != IGNORE
        all_pixels += int(scored.sum())
        open_pixels += int((scored & ~decided).sum())
        matrix += confusion_matrix(found[decided], truth[decided], len(classes))
        images[truth[scored].unique().long()] += 1
    return Evaluation(scores(matrix), classes, images, matrix, open_pixels / max(all_pixels, 1))


def _same_classes(listed: Path, classes: tuple[str, ...]) -> None:
    """Refuse masks whose ids stand for other classes; where nothing says it, trust them."""
    if not listed.is_file():
        return
    found = tuple(name for _, name in read_lines(listed))
    if found != classes:
        raise DataError(
            f"{listed} lists other classes ({len(found)}: {', '.join(found[:5])}, ...) than the"
            f" data ({len(classes)}: {', '.join(classes[:5])}, ...), so ids mean different things."
            " Make the masks anew from these data, or score against the data they were made from."
        )


def save_evaluation(result: Evaluation, path: Path) -> None:
    """Write the figures as JSON, shares in [0, 1]; a class without pixels is null."""
    table = {
        **mean_figures(result.scores),
        "classes_without_hit": result.scores.classes_without_hit,
        "undecided": result.undecided,
        "classes": class_figures(result.scores, result.classes, result.images),
    }
    write_json(path, table)


def mean_figures(found: Scores) -> dict[str, float | None]:
    """The four measures, ready for JSON; None = not defined."""
    names = ("miou", "precision", "recall", "confusion_ratio")
    return {name: _defined(getattr(found, name)) for name in names}


def class_figures(
    found: Scores, classes: tuple[str, ...], images: Int[Tensor, " classes"]
) -> dict[str, dict[str, float | int | None]]:
    """Measures by class, background first, and number of images that show it, ready for JSON."""
    columns = {
        "images": images,
        "iou": found.iou,
        "precision": found.class_precision,
        "recall": found.class_recall,
        "confusion_ratio": found.class_confusion_ratio,
    }
    return {
        name: {key: _defined(values[index].item()) for key, values in columns.items()}
        for index, name in enumerate(classes)
    }


def _defined(value: float | int) -> float | int | None:
    return None if math.isnan(value) else value
