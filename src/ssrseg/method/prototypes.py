"""Image prototypes P_I: K-means over foreground features, one cluster matched to each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from ssrseg.method.cam import allowed_words, word_probability
from ssrseg.method.kmeans import kmeans


@dataclass(frozen=True)
class Prototypes:
    """P_I and how well its clusters agree with the classes.

    Attributes:
        image: P_I, unit norm; row c belongs to class c.
        purity: Share of pairs in [0, 1] whose cluster is matched to their class.
    """

    image: Float[Tensor, "proto dim"]
    purity: float


@torch.no_grad()
def confident_pairs(
    pooled: Float[Tensor, "batch slots dim"],
    present: Int[Tensor, "batch slots"],
    text: Float[Tensor, "words dim"],
    scale: float,
    n_classes: int,
    *,
    min_confidence: float,
) -> Bool[Tensor, "batch slots"]:
    """Pairs whose foreground feature CLIP itself takes for their class.

    The probability is the CAM's: a softmax over the image's classes and all backgrounds. Classes
    that the label rules out do not compete: they are the confusions that CMPA is to learn from.

    Args:
        pooled: MAP(CAM_c, V) in CLIP's own space.
        present: Class ids, -1 = empty slot (never confident).
        text: T, the classes first.
        scale: CLIP's exp(logit_scale).
        n_classes: Foreground texts.
        min_confidence: The probability has to exceed it.

    Source: VDA (CVPR 2026), with 0.95; docs/decisions/0036.
    """
    allowed = allowed_words(present, n_classes, len(text))
    probability = word_probability(pooled, text, scale, allowed)
    own = probability.gather(2, present.clamp(min=0)[..., None])[..., 0]
    return (present >= 0) & (own > min_confidence)


@torch.no_grad()
def image_prototypes(
    features: Float[Tensor, "pairs dim"],
    classes: Int[Tensor, " pairs"],
    fallback: Float[Tensor, "proto dim"],
    *,
    method: Literal["kmeans", "class_mean"] = "kmeans",
) -> Prototypes:
    """K-means with K = C, started from the class means, matched to classes (paper; spec §6.3).

    Clusters are matched by the Hungarian method on the counts of (cluster, class), so that row c of
    P_I and row c of P_T speak of the same class.

    Args:
        features: f_image of the whole training set, aligned, any norm.
        classes: Class of each pair.
        fallback: Row c stands in for a class without a single pair (its aligned text).
        method: ``class_mean`` skips K-means.
    """
    unit = functional.normalize(features, dim=-1)
    n_classes = len(fallback)
    member = functional.one_hot(classes, n_classes).to(unit)
    count = member.sum(0)
    start = functional.normalize(member.T @ unit, dim=-1)
    start = torch.where(count[:, None] > 0, start, functional.normalize(fallback, dim=-1))
    if method == "class_mean":
        return Prototypes(start, 1.0)
    valid = torch.ones(1, len(unit), dtype=torch.bool, device=unit.device)
    assignment, centroids = kmeans(unit[None], start[None], valid)
    counts = functional.one_hot(assignment[0], n_classes).to(unit).T @ member
    own = torch.eye(n_classes, device=unit.device) / (n_classes + 1)  # among equals, c stays c
    cluster, matched = linear_sum_assignment(-(counts + own).cpu().numpy())
    order = torch.empty(n_classes, dtype=torch.long)
    order[torch.from_numpy(matched)] = torch.from_numpy(cluster)
    purity = float(counts[cluster, matched].sum() / counts.sum().clamp(min=1))
    rows = functional.normalize(centroids[0][order.to(unit.device)], dim=-1)
    return Prototypes(torch.where(count[:, None] > 0, rows, start), purity)


def positive_index(
    features: Float[Tensor, "pairs dim"],
    prototypes: Float[Tensor, "proto dim"],
    classes: Int[Tensor, " pairs"],
    labels: Bool[Tensor, "pairs proto"],
    rule: Literal["cluster", "class", "cluster_present"],
) -> Int[Tensor, " pairs"]:
    """Which prototype is a pair's positive (``pos`` of Eq. 4).

    Args:
        features: f_image of each pair, aligned.
        prototypes: P_I.
        classes: Class of each pair.
        labels: Classes present in each pair's image.
        rule: ``cluster``: the nearest prototype, the paper's "cluster-generated pseudo label".
            ``cluster_present``: the nearest among the image's classes. ``class``: the pair's class.
    """
    if rule == "class":
        return classes
    near = functional.normalize(features, dim=-1) @ functional.normalize(prototypes, dim=-1).T
    if rule == "cluster_present":
        near = near.masked_fill(~labels, -torch.inf)
    return near.argmax(-1)
