"""How far classes and modalities lie apart in a feature space: the figures beside Figure 6.

Every distance is the cosine distance 1 - cos, in [0, 2]; features may have any norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Separation:
    """Figure 6 in three numbers; nan where they do not exist.

    Attributes:
        silhouette: Mean silhouette of the image features by class, in [-1, 1], higher is better.
        distance_ratio: Mean distance within classes over mean distance between classes, >= 0,
            lower is better.
        modality_gap: Length of (mean f_image - mean f_text) of unit features, in [0, 2].
    """

    silhouette: float
    distance_ratio: float
    modality_gap: float


def separation(
    image: Float[Tensor, "pairs dim"],
    classes: Int[Tensor, " pairs"],
    text: Float[Tensor, "classes dim"],
) -> Separation:
    """All three numbers of one feature space.

    Args:
        image: f_image of each (image, class) pair.
        classes: Class of each pair.
        text: Text features by class; a pair's f_text is the row of its class.

    Source: silhouette by Rousseeuw 1987, modality gap by Liang et al. 2022.
    """
    return Separation(
        float(silhouette(image, classes)),
        float(distance_ratio(image, classes)),
        float(modality_gap(image, text[classes])),
    )


def silhouette(
    features: Float[Tensor, "pairs dim"], classes: Int[Tensor, " pairs"]
) -> Float[Tensor, ""]:
    """Mean of (b - a) / max(a, b): a to one's own class, b to the nearest other class.

    The only member of a class counts 0, as in scikit-learn.

    Returns:
        In [-1, 1]; nan with fewer than two classes.
    """
    sums, own = _distance_sums(features, classes)
    count = own.sum(0)
    if len(count) < 2:
        return sums.new_tensor(torch.nan)
    within = sums[own] / (count[own.int().argmax(1)] - 1)  # nan for the only member of a class
    between = (sums / count).masked_fill(own, torch.inf).amin(1)
    width = (between - within) / torch.maximum(within, between)
    return width.nan_to_num(0.0).mean()


def distance_ratio(
    features: Float[Tensor, "pairs dim"], classes: Int[Tensor, " pairs"]
) -> Float[Tensor, ""]:
    """Mean distance of two features of one class, over that of two features of two classes.

    Returns:
        >= 0; nan with fewer than two classes, or where no class has two members.
    """
    sums, own = _distance_sums(features, classes)
    count = own.sum(0)
    within = sums[own].sum() / (count * (count - 1)).sum()
    between = sums[~own].sum() / (len(features) ** 2 - (count**2).sum())
    return within / between


def modality_gap(
    image: Float[Tensor, "pairs dim"], text: Float[Tensor, "pairs dim"]
) -> Float[Tensor, ""]:
    """Euclidean distance of the mean unit image feature and the mean unit text feature."""
    means = [functional.normalize(rows, dim=-1).mean(0) for rows in (image, text)]
    gap: Tensor = (means[0] - means[1]).norm()
    return gap


def _distance_sums(
    features: Float[Tensor, "pairs dim"], classes: Int[Tensor, " pairs"]
) -> tuple[Float[Tensor, "pairs present"], Tensor]:
    """Sum of the distances from each feature to each class, and which class is its own."""
    unit = functional.normalize(features.double(), dim=-1)
    distance = (1 - unit @ unit.T).clamp(min=0).fill_diagonal_(0)  # not the rounding errors
    own = functional.one_hot(classes).bool()
    own = own[:, own.any(0)]  # classes that are there
    return distance @ own.double(), own
