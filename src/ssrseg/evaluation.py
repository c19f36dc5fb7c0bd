"""Masks against true masks, one confusion matrix, image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ssrseg.console import note, track
from ssrseg.data.class_ids import (
    ZERO_AND_255,
    check_class_ids,
    only_0_and_255,
    read_class_ids,
)
from ssrseg.data.classes import read_classes_txt
from ssrseg.data.files import user_path, write_json
from ssrseg.data.find_masks import find_masks
from ssrseg.data.naming import match_masks
from ssrseg.data.open import labelled_images
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.text import fault_report, read_lines
from ssrseg.errors import DataError
from ssrseg.made_with import folder_made_with
from ssrseg.method.metrics import Scores, confusion_matrix, scores, undecided_pixels
from ssrseg.method.pseudo_mask import IGNORE


@dataclass(frozen=True)
class Evaluation:
    """How good a folder of masks is.

    Attributes:
        scores: mIoU, precision, recall, confusion ratio; per class too.
        classes: Background first.
        images: Images that show each class, by the true masks.
        matrix: Pixels, rows = truth, columns = prediction, without those left undecided.
        undecided: Share of scored pixels that the masks leave open (255), in [0, 1]. They count as
            missed, as in CLIP-ES's evaluation: in recall and IoU, but not in precision.
        scored: Number of images that were scored: those with a true mask.
        total: Number of images of the data set.
        data: Name of its folder.
        model: Digest of the model whose ``predict`` made the masks; empty = not known.
    """

    scores: Scores
    classes: tuple[str, ...]
    images: Int[Tensor, " classes"]
    matrix: Int[Tensor, "classes classes"]
    undecided: float
    scored: int
    total: int
    data: str = ""
    model: str = ""


def evaluate(predictions: str | Path, data: LabelledImages | str | Path) -> Evaluation:
    """Score ``masks/NAME.png`` against the true masks of a data set.

    Args:
        predictions: Folder written by ``masks`` or ``predict``, or any folder of masks named like
            the images (see ``read_class_ids``).
        data: Open data, or its folder; images without a true mask are left out.

    Raises:
        DataError: If masks are missing, unreadable, of another size, of other classes, or hold
            unknown ids, all of which are named at once; or if true masks or those of another
            program are black and white pictures, whose 255 would mean "ignore".
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
    # other programs may write flat folders
    names, everyone = [sample.name for sample, _ in known], [each.name for each in data.samples]
    masks, _ = match_masks(names, find_masks(folder), lambda: everyone)
    missing = [sample.name for sample, _ in known if sample.name not in masks]
    faults = []
    if missing:
        shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        faults.append(
            f"{folder} lacks the masks of {len(missing)} of {len(known)} images ({shown}). Finish"
            " the run that writes them, or name the --split they are of."
        )
    if len(missing) == len(known):
        raise DataError(faults[0])
    listed, here = predictions / "classes.txt", folder.absolute()
    if here.name == "masks" and not listed.is_file():  # given without the folder it lies in
        listed = here.parent / listed.name
    _same_classes(listed, data.classes)
    n_classes = 1 + len(data.classes)
    matrix = torch.zeros(n_classes, n_classes, dtype=torch.long)
    undecided, images = torch.zeros(2, n_classes, dtype=torch.long)
    binary_truths, ignoring, binary = [], 0, 0
    for sample, truth_path in track(known, "Scoring", len(known)):
        if sample.name not in masks:
            continue
        try:
            found, truth = _pair(masks[sample.name], truth_path, sample, len(data.classes))
        except DataError as error:
            faults.append(str(error))
            continue
        ignoring += bool((found == IGNORE).any())
        binary += set(found.unique().tolist()) <= {0, IGNORE}
        if sample.labels and only_0_and_255(truth):
            binary_truths.append(truth_path)
        scored, decided = truth != IGNORE, found != IGNORE
        undecided += undecided_pixels(found, truth, n_classes)
        matrix += confusion_matrix(found[decided], truth[decided], n_classes)
        images[truth[scored].unique().long()] += 1
    if faults:
        raise DataError(faults[0] if len(faults) == 1 else fault_report(folder, faults))
    _check_truths(binary_truths, sum(bool(sample.labels) for sample, _ in known))
    if not int(matrix.sum() + undecided.sum()):
        raise DataError(
            f"All pixels of the {len(known)} true masks of {data.root} are 255, which means ignore:"
            " nothing is left to score. Give true masks that hold class ids."
        )
    share = int(undecided.sum()) / max(int(matrix.sum() + undecided.sum()), 1)
    if ignoring and binary == len(known) and not listed.is_file():
        raise DataError(
            f"All masks of {folder} hold only 0 and 255, and 255 means undecided ({share:.1%} of"
            " the pixels). They are black and white pictures, most likely: replace 255 by the id of"
            " the class (1 = the first class), as in Python with ids[ids == 255] = 1."
        )
    classes, measures = ("background", *data.classes), scores(matrix, undecided)
    made_with = folder_made_with(listed.parent, "model")
    return Evaluation(
        measures,
        classes,
        images,
        matrix,
        share,
        len(known),
        len(data),
        data.root.resolve().name,
        "" if made_with is None else made_with.model,
    )


def _pair(
    path: Path, truth_path: Path, sample: Sample, n_classes: int
) -> tuple[UInt8[Tensor, "height width"], UInt8[Tensor, "height width"]]:
    """A mask and its true mask, or DataError."""
    found, truth = (
        read_class_ids(path, n_classes),
        read_class_ids(truth_path, n_classes, sample.labels),
    )
    if found.shape != truth.shape:
        raise DataError(
            f"{path} is {tuple(found.shape)[::-1]} pixels, its true mask {truth_path}"
            f" {tuple(truth.shape)[::-1]}. Masks must have the size of their image."
        )
    for each, ids in ((path, found), (truth_path, truth)):
        check_class_ids(each, ids, n_classes)
    return found, truth


def _check_truths(binary: list[Path], labelled: int) -> None:
    """Refuse true masks that are black and white pictures; a few among others are noted."""
    if not binary:
        return
    several = f"{len(binary)} of {labelled} true masks of labelled images (such as {binary[0]})"
    if 2 * len(binary) > labelled:
        raise DataError(f"{several} hold {ZERO_AND_255}")
    note(f"{several} hold {ZERO_AND_255}")


def _same_classes(listed: Path, classes: tuple[str, ...]) -> None:
    """Refuse masks whose ids stand for other classes; where nothing says it, trust them."""
    if not listed.is_file() or tuple(name for _, name in read_lines(listed)) == classes:
        return
    found = read_classes_txt(listed).names
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
        "undecided_counts_as": "missed",
        "images_scored": result.scored,
        "images": result.total,
        "data": result.data,
        "model": result.model,
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
