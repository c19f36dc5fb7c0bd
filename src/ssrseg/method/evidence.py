"""How far a mask can be trusted, from what the encoders and the scores say of it: our choice.

Nothing here was fitted; docs/review.md measures each signal against true masks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.method.pseudo_mask import IGNORE

TOP_PATCHES = 20
"""The twentieth of the patches that speaks most for a class counts: things may be small."""


def class_evidence(
    patch_features: Float[Tensor, "batch patches dim"],
    text: Float[Tensor, "words dim"],
    scale: float | Float[Tensor, ""],
    n_classes: int,
) -> Float[Tensor, "batch classes"]:
    """Zero-shot evidence for every class, whatever the labels say, in [0, 1].

    The softmax of scaled cosines over all texts at every patch, averaged over the twentieth of the
    patches where it is highest for the class.

    Args:
        patch_features: V, any norm.
        text: T, any norm: the classes first, then the backgrounds.
        scale: 1 / temperature.
    """
    features = functional.normalize(patch_features, dim=-1)
    cosine = features @ functional.normalize(text, dim=-1).T
    probability = (scale * cosine).softmax(-1)[..., :n_classes]  # (batch, patches, classes)
    best = max(1, probability.shape[1] // TOP_PATCHES)
    return probability.topk(best, 1).values.mean(1)


def pixel_confidence(
    scores: Float[Tensor, "channels height width"],
) -> Float[Tensor, "height width"]:
    """Share of the best score among all scores of a pixel, in [0, 1]."""
    best, total = scores.amax(0), scores.sum(0)
    return best / total.clamp(min=1e-12)


def expected_iou(
    scores: Float[Tensor, "channels height width"],
    ids: UInt8[Tensor, "height width"],
    channel_ids: Int[Tensor, " channels"],
) -> Float[Tensor, " channels"]:
    """IoU that a mask would have if the scores were probabilities, class by class.

    Σ_{chosen} p / (Σ_{chosen} 1 + Σ_{others} p), with p the share of a class among the scores of a
    pixel: expected intersection over expected union.

    Args:
        scores: >= 0.
        ids: The mask; pixels of other ids, such as 255, are chosen by no channel.
        channel_ids: Class id that each channel stands for.
    """
    share = scores / scores.sum(0).clamp(min=1e-12)
    chosen = ids == channel_ids[:, None, None]
    hit = (share * chosen).sum((1, 2))
    union = chosen.sum((1, 2)) + share.sum((1, 2)) - hit
    return hit / union.clamp(min=1e-12)


def outline_share(ids: UInt8[Tensor, "height width"]) -> float:
    """Share of the image's outermost pixels that a class covers, in [0, 1].

    A mask that leaks into the background runs along the edge of the image.
    """
    outline = torch.cat([ids[0], ids[-1], ids[1:-1, 0], ids[1:-1, -1]])
    return float(((outline > 0) & (outline != IGNORE)).float().mean())


def cam_disagreement(
    cam: Float[Tensor, "slots grid_h grid_w"], refined_cam: Float[Tensor, "slots grid_h grid_w"]
) -> float:
    """Share of the patches whose class, or background, differs between two CAMs in [0, 1]."""
    if not len(cam):
        return 0.0
    one, other = (
        torch.cat([1 - each.amax(0, keepdim=True), each]).argmax(0) for each in (cam, refined_cam)
    )
    return float((one != other).float().mean())
