"""Pixel-adaptive refinement (PAR): class scores flow between pixels of similar colour."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

DILATIONS = (1, 2, 4, 8, 12, 24)
DIRECTIONS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
TINY = 1e-8
W1, W2 = 0.3, 0.01
"""Width of both kernels in standard deviations, and weight of the position term [AFA]."""


def _neighbours(
    maps: Float[Tensor, "batch channels height width"], dilations: Sequence[int]
) -> list[Float[Tensor, "batch channels height width"]]:
    """The maps shifted to each neighbour, edges replicated: views of one padded copy."""
    margin, (height, width) = max(dilations), maps.shape[2:]
    padded = functional.pad(maps, [margin] * 4, mode="replicate")
    return [
        padded[:, :, margin + dy * d :, margin + dx * d :][:, :, :height, :width]
        for d in dilations
        for dy, dx in DIRECTIONS
    ]


@torch.no_grad()
def pixel_affinity(
    image: Float[Tensor, "batch 3 height width"], *, dilations: Sequence[int] = DILATIONS
) -> Float[Tensor, "neighbours batch 1 height width"]:
    """How much every pixel takes from each of its dilated neighbours.

    softmax_n(-mean_rgb((|I_n - I| / (w1 σ))²)) + w2 softmax_n(-(p_n / (w1 σ_p))²), where σ is the
    channel's unbiased standard deviation over the neighbours (the pixel itself left out), p_n the
    distance in pixels and σ_p its deviation. A channel's scale and offset cancel out, up to the
    10⁻⁸ added to σ, so any normalisation of the image gives the same affinity. ``dilations`` are
    distances of the eight neighbours in pixels; the edge is replicated.

    The result is >= 0 and sums to 1 + w2 over the neighbours, which come dilation by dilation, each
    in reading order (north-west first).

    Source: AFA (Ru et al., CVPR 2022); the deviation was settled by WeCLIP's output.
    """
    neighbours = _neighbours(image, dilations)
    mean = torch.zeros_like(image)
    for neighbour in neighbours:
        mean += neighbour
    mean /= len(neighbours)
    # Two passes: the squares of a flat neighbourhood would cancel to noise larger than TINY.
    width, difference = torch.zeros_like(image), torch.empty_like(image)
    for neighbour in neighbours:
        torch.sub(neighbour, mean, out=difference)
        width.addcmul_(difference, difference)
    width.div_(len(neighbours) - 1).sqrt_().add_(TINY).mul_(W1 * image.shape[1] ** 0.5)
    narrow = width.reciprocal_()

    # The maps are the largest thing in memory: each is finished while it is at hand.
    colour = image.new_empty(len(neighbours), len(image), 1, *image.shape[2:])
    least = torch.full_like(colour[0], torch.inf)
    for neighbour, exponent in zip(neighbours, colour, strict=True):
        torch.sub(neighbour, image, out=difference)
        first, *others = difference.mul_(narrow).split(1, 1)
        torch.mul(first, first, out=exponent)
        for each in others:
            exponent.addcmul_(each, each)
        torch.minimum(least, exponent, out=least)
    distance = torch.tensor(
        [d * (dy * dy + dx * dx) ** 0.5 for d in dilations for dy, dx in DIRECTIONS],
        dtype=image.dtype,
    ).to(image.device, non_blocking=True)
    position = (-(distance / (distance.std() + TINY) / W1).square()).softmax(0)
    # softmax of -colour, in place
    total = torch.zeros_like(least)
    for exponent in colour:
        total.add_(torch.sub(least, exponent, out=exponent).exp_())
    share = total.reciprocal_()
    for weight, near in zip(colour, W2 * position, strict=True):
        weight.mul_(share).add_(near)
    return colour


@torch.no_grad()
def pixel_adaptive_refinement(
    image: Float[Tensor, "batch 3 height width"],
    scores: Float[Tensor, "batch channels height width"],
    *,
    iterations: int = 20,
    dilations: Sequence[int] = DILATIONS,
) -> Float[Tensor, "batch channels height width"]:
    """Replace every pixel's scores by the affinity-weighted sum of its neighbours', repeatedly.

    The affinity depends on the image alone and is computed once. Each iteration adds up shifted
    views in place, which avoids the (batch, channels, neighbours, height, width) array that the
    peers build twenty times. As weights sum to 1 + w2, the range of the scores grows by this factor
    in every iteration.

    Raises:
        ValueError: If image and scores differ in batch or size.

    Source: AFA (Ru et al., CVPR 2022); settings of WeCLIP, whose pseudo mask is reproduced.
    """
    if len(image) != len(scores) or image.shape[2:] != scores.shape[2:]:
        raise ValueError(
            f"image {tuple(image.shape)} and scores {tuple(scores.shape)} need the same batch, "
            "height and width"
        )
    image = image.to(scores.dtype)
    if scores.device.type != "cpu":
        return _refined(image, scores, iterations, dilations)
    # One image's affinities and scores stay nearer to the processor than a batch's, and a score
    # that is 0 everywhere (an empty slot) stays 0.
    result = torch.zeros_like(scores)
    for row, (photo, maps) in enumerate(zip(image, scores, strict=True)):
        live = maps.flatten(1).any(1)
        if live.any():
            result[row, live] = _refined(photo[None], maps[None, live], iterations, dilations)[0]
    return result


def _refined(
    image: Float[Tensor, "batch 3 height width"],
    scores: Float[Tensor, "batch channels height width"],
    iterations: int,
    dilations: Sequence[int],
) -> Float[Tensor, "batch channels height width"]:
    affinity = pixel_affinity(image, dilations=dilations)
    for _ in range(iterations):
        neighbours = _neighbours(scores, dilations)
        scores = neighbours[0] * affinity[0]
        for neighbour, weight in zip(neighbours[1:], affinity[1:], strict=True):
            scores.addcmul_(neighbour, weight)
    return scores
