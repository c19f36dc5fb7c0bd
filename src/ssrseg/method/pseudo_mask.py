"""From refined CAMs to a mask of class ids: background score, argmax, ignore."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.method.cam import min_max
from ssrseg.method.crf import dense_crf

IGNORE = 255


def class_scores(
    refined_cam: Float[Tensor, "batch slots grid_h grid_w"],
    size: tuple[int, int],
    *,
    alpha: float = 1.0,
) -> Float[Tensor, "batch channels height width"]:
    """Background score first, then one score per slot, at image size, as in WeCLIP and CLIP-ES.

    bg = (1 - max_c CAM_c)^α: a larger α leaves less to the background. CAMs are brought to [0, 1]
    class by class.
    """
    return unit_class_scores(min_max(refined_cam), size, alpha=alpha)


def unit_class_scores(
    cam: Float[Tensor, "batch slots grid_h grid_w"], size: tuple[int, int], *, alpha: float = 1.0
) -> Float[Tensor, "batch channels height width"]:
    """The same of CAMs that are in [0, 1] already; ``min_max`` twice is not ``min_max`` once."""
    # to image size: (batch, slots, height, width)
    cam = functional.interpolate(cam, size, mode="bilinear", align_corners=False)
    cam = cam.clamp(max=1)  # interpolation may round beyond 1, and (1 - cam)^α would be nan
    background = (1 - cam.amax(1, keepdim=True)) ** alpha
    return torch.cat([background, cam], 1)


def crf_scores(
    scores: Float[Tensor, "batch channels height width"],
    photo: Float[Tensor, "batch 3 height width"],
    present: Int[Tensor, "batch slots"],
    parameters: tuple[float, float, float, float, float],
) -> Float[Tensor, "batch channels height width"]:
    """Scores refined by a DenseCRF over the classes that an image shows, as in CLIP-ES.

    Args:
        scores: From ``class_scores``; those of an empty slot become 0.
        photo: RGB in [0, 1].
        parameters: Gaussian reach and weight, bilateral reach, colour reach, weight.
    """
    refined = torch.zeros_like(scores)
    for image, maps, slots, into in zip(photo, scores, present, refined, strict=True):
        used = functional.pad(slots >= 0, (1, 0), value=True)
        levels = (image * 255).round().to(torch.uint8).permute(1, 2, 0)
        into[used] = dense_crf(levels.cpu(), maps[used].cpu(), *parameters).to(maps)
    return refined


def class_ids(
    scores: Float[Tensor, "batch channels height width"],
    present: Int[Tensor, "batch slots"],
    *,
    valid: Bool[Tensor, "batch height width"] | None = None,
    min_score: float | None = None,
) -> UInt8[Tensor, "batch height width"]:
    """The best-scoring class of every pixel: 0 = background, 1 + class index, 255 = ignore.

    Args:
        scores: From ``class_scores``; an empty slot is never chosen.
        valid: False = padding, ignored.
        min_score: Pixels whose best score is below it are ignored (CLIP-ES: 0.95 after the CRF).
    """
    # best channel of each pixel, then its class id: (batch, height, width)
    empty = functional.pad(present < 0, (1, 0))
    best, slot = scores.masked_fill(empty[:, :, None, None], -torch.inf).max(1)
    ids = functional.pad(present + 1, (1, 0)).gather(1, slot.flatten(1)).view_as(slot)
    if valid is not None:
        ids = ids.masked_fill(~valid, IGNORE)
    if min_score is not None:
        ids = ids.masked_fill(best < min_score, IGNORE)
    return ids.to(torch.uint8)
