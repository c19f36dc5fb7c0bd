"""K-means for a batch of point sets, on the device of the points."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

EXACT = "donot_use_mm_for_euclid_dist"  # the product's rounding would depend on the batch's size


def spread_seeds(
    points: Float[Tensor, "batch points dim"],
    valid: Bool[Tensor, "batch points"],
    k: int,
    generator: torch.Generator,
) -> Float[Tensor, "batch clusters dim"]:
    """Initial centroids by k-means++: each new one far from those already chosen.

    Args:
        valid: False = padding; at least one point per set is true.
        k: Centroids; repeats where a set has fewer distinct points.
        generator: On the CPU, so that every device draws the same numbers.

    Source: Arthur & Vassilvitskii 2007.
    """
    chosen: list[Tensor] = []
    draws = torch.rand(k, generator=generator).tolist()  # numbers: a GPU is sent nothing
    weight = valid.to(points.dtype)
    for share in draws:
        mass = weight.cumsum(-1)
        # One draw for all sets: a set's seeds must not depend on the rest of the batch.
        draw = share * mass[:, -1:]
        index = (mass <= draw).sum(-1).clamp(max=points.shape[1] - 1)
        seed = points[torch.arange(len(points), device=points.device), index]
        chosen.append(seed)
        squared = (points - seed[:, None]).square().sum(-1) * valid
        weight = squared if len(chosen) == 1 else torch.minimum(weight, squared)
        weight = torch.where(weight.sum(-1, keepdim=True) > 0, weight, valid.to(points.dtype))
    return torch.stack(chosen, 1)


def kmeans(
    points: Float[Tensor, "batch points dim"],
    centroids: Float[Tensor, "batch clusters dim"],
    valid: Bool[Tensor, "batch points"],
    *,
    iterations: int = 50,
) -> tuple[Int[Tensor, "batch points"], Float[Tensor, "batch clusters dim"]]:
    """Lloyd's algorithm from given centroids: cluster of each point, and the centroids.

    An empty cluster keeps its centroid; padding (``valid`` false) is assigned, but moves none. The
    CPU stops when no assignment changes; a GPU goes on, which changes nothing any more and needs no
    answer from it.
    """
    assignment = points.new_full(points.shape[:2], -1, dtype=torch.long)
    for _ in range(iterations):
        nearest = torch.cdist(points, centroids, compute_mode=EXACT).argmin(-1)
        if points.device.type == "cpu" and torch.equal(nearest, assignment):
            break
        assignment = nearest
        member = functional.one_hot(nearest, centroids.shape[1]).to(points) * valid[..., None]
        count = member.sum(1)[..., None]
        mean = member.mT @ points / count.clamp(min=1)
        centroids = torch.where(count > 0, mean, centroids)
    return assignment, centroids
