"""What is minimised: L_seg, and its sum with L_proto (Eq. 12)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.method.pseudo_mask import IGNORE

Counts = Callable[[Int[Tensor, " halves"]], Int[Tensor, " halves"]]
"""Makes of how often something is there in a part of a batch how often it is in all of it."""


def all_there(counts: Int[Tensor, " halves"]) -> Int[Tensor, " halves"]:
    """``Counts`` of a part that is the whole batch."""
    return counts


def _cross_entropy(
    logits: Float[Tensor, "batch classes grid_h grid_w"],
    target: Int[Tensor, "batch height width"],
) -> Float[Tensor, "batch height width"]:
    """Of every pixel, from logits that are resized to the size of ``target``."""
    size = (target.shape[1], target.shape[2])
    at_size = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    return functional.cross_entropy(at_size, target, ignore_index=IGNORE, reduction="none")


def segmentation_loss(
    logits: Float[Tensor, "batch classes grid_h grid_w"],
    pseudo_mask: UInt8[Tensor, "batch height width"],
    *,
    whole: Counts = all_there,
) -> Float[Tensor, ""]:
    """Half the mean cross-entropy over background pixels plus half that over foreground pixels.

    The halves keep the background, most of the pixels, from drowning the classes. The paper says
    cross-entropy; the halves are WeCLIP's. Channel 0 of the logits is the background, 255 in the
    mask is ignored, and a half without pixels counts 0. Logits are resized to the mask.

    Of a part of a batch it is the part's addend: sums over the part, divided by the pixels of the
    ``whole`` batch.
    """
    target = pseudo_mask.long()
    # the largest thing in training; on a CPU one image's is near the processor, a batch's is not
    together = 1 if logits.device.type == "cpu" else len(logits)
    parts = zip(logits.split(together), target.split(together), strict=True)
    per_pixel = torch.cat([_cross_entropy(*part) for part in parts])
    halves = target == 0, (target > 0) & (target != IGNORE)  # background, foreground
    pixels = whole(torch.stack([chosen.sum() for chosen in halves])).clamp(min=1)
    means = [
        (per_pixel * chosen).sum() / count for chosen, count in zip(halves, pixels, strict=True)
    ]
    return (means[0] + means[1]) / 2


def ssr_loss(
    proto: Float[Tensor, ""], seg: Float[Tensor, ""], *, seg_weight: float = 0.1
) -> Float[Tensor, ""]:
    """L_SSR = L_proto + γ·L_seg (Eq. 12).

    The two terms share no parameter (masks are an argmax, CLIP is frozen) and AdamW ignores the
    scale of a gradient, so γ changes next to nothing.
    """
    return proto + seg_weight * seg
