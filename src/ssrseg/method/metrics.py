"""Confusion matrix -> mIoU, precision, recall and confusion ratio."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from ssrseg.method.pseudo_mask import IGNORE


@dataclass(frozen=True)
class Scores:
    """How good a segmentation is; fractions in [0, 1] unless said otherwise.

    The numbers are means of the class tensors below. Classes without a pixel of truth are nan there
    and left out of every mean.

    Attributes:
        confusion_ratio: >= 0, lower is better. A class without a hit (TP = 0) has no ratio and is
            left out, which flatters the mean: see ``classes_without_hit``.
        classes_without_hit: How many are left out so, though they have truth.
        iou: TP / (TP + FP + FN).
        class_precision: TP / (TP + FP); 0 for a class that is never predicted.
        class_recall: TP / (TP + FN).
        class_confusion_ratio: FP / TP; nan for a class without a hit.
    """

    miou: float
    precision: float
    recall: float
    confusion_ratio: float
    classes_without_hit: int
    iou: Float[Tensor, " classes"]
    class_precision: Float[Tensor, " classes"]
    class_recall: Float[Tensor, " classes"]
    class_confusion_ratio: Float[Tensor, " classes"]


def confusion_matrix(
    prediction: Integer[Tensor, "*size"], truth: Integer[Tensor, "*size"], n_classes: int
) -> Int[Tensor, "truth prediction"]:
    """Count pixels by true and predicted class; the matrices of many images add up.

    Args:
        prediction: Class ids in [0, n_classes), everywhere: "no answer" cannot be scored.
        truth: Class ids in [0, n_classes), or 255 where pixels do not count.
        n_classes: Background included.

    Raises:
        ValueError: If the shapes differ, or an id is out of range (255 in the prediction too).
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape"
        )
    counted = truth != IGNORE
    for name, ids in ("prediction", prediction), ("truth", truth[counted]):
        outside = ids[(ids < 0) | (ids >= n_classes)]
        if len(outside):
            raise ValueError(
                f"{name} has class ids {sorted(set(outside.tolist()))} outside [0, {n_classes})"
            )
    pairs = truth[counted].long() * n_classes + prediction[counted].long()
    return torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes)


def undecided_pixels(
    prediction: Integer[Tensor, "*size"], truth: Integer[Tensor, "*size"], n_classes: int
) -> Int[Tensor, " classes"]:
    """Count pixels that a prediction leaves open (255), by true class (ids as above)."""
    return torch.bincount(
        truth[(truth != IGNORE) & (prediction == IGNORE)].long(), minlength=n_classes
    )


def scores(
    matrix: Int[Tensor, "classes classes"], undecided: Int[Tensor, " classes"] | None = None
) -> Scores:
    """All measures of a confusion matrix (rows = truth).

    The confusion ratio is SeCo's. Precision 0 for a class never predicted, and nan for one without
    truth, are our choice: SeCo divides by zero there.

    Args:
        undecided: Pixels without a prediction, by true class. They are missed, but no false hit of
            any class, as in CLIP-ES's evaluation.
    """
    counts = matrix.double()
    hits, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    truth = truth if undecided is None else truth + undecided
    iou = (hits / (truth + predicted - hits)).masked_fill(truth == 0, torch.nan)
    precision = (hits / predicted.clamp(min=1)).masked_fill(truth == 0, torch.nan)
    recall = hits / truth
    ratio = ((predicted - hits) / hits).masked_fill(hits == 0, torch.nan)
    return Scores(
        miou=iou.nanmean().item(),
        precision=precision.nanmean().item(),
        recall=recall.nanmean().item(),
        confusion_ratio=ratio.nanmean().item(),
        classes_without_hit=int(((hits == 0) & (truth > 0)).sum()),
        iou=iou,
        class_precision=precision,
        class_recall=recall,
        class_confusion_ratio=ratio,
    )


@dataclass(frozen=True)
class ErrorKinds:
    """What a mask's pixels are, by the truth (Figure 1a); nan where there are none to share.

    Attributes:
        hit: Share of the predicted foreground that is of the predicted class, in [0, 1].
        other_class: Share of it that is of another class: over-activation.
        background: Share of it that is background: background noise.
        missed: Share of the true foreground that is predicted as background.
    """

    hit: float
    other_class: float
    background: float
    missed: float


def error_kinds(matrix: Int[Tensor, "classes classes"]) -> ErrorKinds:
    """The kinds of error of a confusion matrix (rows = truth, 0 = background)."""
    counts = matrix.double()
    foreground = counts[1:, 1:]
    hits = foreground.diagonal().sum()
    predicted, truth = counts[:, 1:].sum(), counts[1:].sum()
    return ErrorKinds(
        hit=float(hits / predicted),
        other_class=float((foreground.sum() - hits) / predicted),
        background=float(counts[0, 1:].sum() / predicted),
        missed=float(counts[1:, 0].sum() / truth),
    )


@dataclass(frozen=True)
class ActivationShares:
    """Where the activation of a class's CAM lies; the three add up to 1, nan without activation."""

    own_class: float
    other_classes: float
    background: float


def activation_shares(
    cam: Float[Tensor, "height width"], truth: Integer[Tensor, "height width"], class_id: int
) -> ActivationShares:
    """How much of a CAM (>= 0) lies on its class, on other classes and on background (id 0)."""
    values, ids = cam.double()[truth != IGNORE], truth[truth != IGNORE]
    total = values.sum()
    own, background = values[ids == class_id].sum(), values[ids == 0].sum()
    return ActivationShares(
        float(own / total), float((total - own - background) / total), float(background / total)
    )
