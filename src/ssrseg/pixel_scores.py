"""From refined CAMs to a mask under the settings ``pseudo.*``: photograph and CAM, no encoder."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.config import PseudoConfig
from ssrseg.data.photos import present_slots
from ssrseg.method.par import pixel_adaptive_refinement
from ssrseg.method.pseudo_mask import class_ids, class_scores, crf_scores, unit_class_scores


@torch.no_grad()
def mask_scores(
    refined_cam: Float[Tensor, "batch slots grid_h grid_w"],
    present: Int[Tensor, "batch slots"],
    photo: Float[Tensor, "batch 3 height width"],
    settings: PseudoConfig,
) -> Float[Tensor, "batch channels height width"]:
    """Background and class scores at the size of ``photo``, sharpened along its edges."""
    size = (photo.shape[2], photo.shape[3])
    scores = class_scores(refined_cam, size, alpha=settings.alpha)
    return sharpen_scores(scores, present, photo, settings)


@torch.no_grad()
def sharpen_scores(
    scores: Float[Tensor, "batch channels height width"],
    present: Int[Tensor, "batch slots"],
    photo: Float[Tensor, "batch 3 height width"],
    settings: PseudoConfig,
) -> Float[Tensor, "batch channels height width"]:
    """PAR or DenseCRF, as the settings say."""
    if settings.refine == "par" and settings.par_iterations:
        rounds, dilations = settings.par_iterations, settings.par_dilations
        return pixel_adaptive_refinement(photo, scores, iterations=rounds, dilations=dilations)
    if settings.refine == "crf":
        return crf_scores(scores, photo, present, settings.crf)
    return scores


def mask_of_cam(
    refined_cam: Float[Tensor, "slots grid_h grid_w"],
    labels: tuple[int, ...],
    photo: Float[Tensor, "3 height width"],
    settings: PseudoConfig,
) -> tuple[UInt8[Tensor, "height width"], Float[Tensor, "channels height width"]]:
    """Class ids of one photograph, and the scores that they are the best of.

    Args:
        refined_cam: In [0, 1], one per label.
        labels: Class indices.
        photo: RGB in [0, 1] on the device that is to compute.
    """
    present = present_slots([labels]).to(photo.device)
    cam = refined_cam.to(photo.device)
    if not labels:  # an empty slot, so that there is a background score
        cam = photo.new_zeros(1, *refined_cam.shape[1:])
    scores = unit_class_scores(cam[None], (photo.shape[1], photo.shape[2]), alpha=settings.alpha)
    scores = sharpen_scores(scores, present, photo[None], settings)
    return class_ids(scores, present, min_score=settings.min_score)[0], scores[0]


def enlarged(values: Float[Tensor, "_ _"], size: tuple[int, int]) -> Float[Tensor, "height width"]:
    """A map at another size, bilinear."""
    return functional.interpolate(values[None, None], size, mode="bilinear")[0, 0]


def enlarged_ids(ids: UInt8[Tensor, "_ _"], size: tuple[int, int]) -> UInt8[Tensor, "height width"]:
    """Class ids at another size, each pixel's that of its nearest one."""
    return functional.interpolate(ids[None, None], size, mode="nearest")[0, 0]
