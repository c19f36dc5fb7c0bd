"""What is minimised: L_proto with its variants of Table 4, L_seg, and their sum (Eq. 12)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.method.cmpa import prototype_loss, prototype_similarity
from ssrseg.method.pseudo_mask import IGNORE

AlignmentLoss = Literal["crossmodal", "in_modal", "feature", "feature_infonce"]


def alignment_loss(
    loss: AlignmentLoss,
    image: Float[Tensor, "pairs dim"],
    classes: Int[Tensor, " pairs"],
    positive: Int[Tensor, " pairs"],
    text: Float[Tensor, "words dim"],
    image_prototypes: Float[Tensor, "proto dim"],
    temperature: float | Float[Tensor, ""],
    *,
    symmetric: bool = True,
    bg_negatives: bool = True,
) -> Float[Tensor, ""]:
    """L_proto and the other rows of Table 4.

    ``crossmodal``: images against text prototypes, texts against image prototypes (Eq. 6, both
    ways). ``in_modal``: images against image prototypes, texts against text prototypes.
    ``feature``: pull each pair together, no prototypes, no negatives. ``feature_infonce``: the
    pairs of the batch are each other's negatives.

    Args:
        loss: Which one.
        image: f_image of each pair, aligned (with gradient).
        classes: Class of each pair.
        positive: Prototype of each image feature (``pos`` of Eq. 4).
        text: T', all aligned texts, the classes first (with gradient). As K-means of C distinct
            rows into C clusters gives back the rows, the text prototypes P_T are T'[:C].
        image_prototypes: P_I, one row per class (no gradient).
        temperature: τ.
        symmetric: Also texts to prototypes; without it TSA has no gradient (Eq. 6, literally).
        bg_negatives: Background texts join P_T as further negatives.

    Source: Eq. 3-6; symmetric form and Table 4's definitions are our choice, spec §6.4-6.5.
    """
    n_classes = len(image_prototypes)
    pair_text = text[classes]
    if loss == "feature":
        return (1 - functional.cosine_similarity(image, pair_text, dim=-1)).mean()
    if loss == "feature_infonce":
        logits = prototype_similarity(image, pair_text, temperature)
        same = classes[:, None] == classes[None, :]
        twin = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
        logits = logits.masked_fill(twin, -torch.inf)  # another pair of the class is no negative
        target = torch.arange(len(logits), device=logits.device)
        return (prototype_loss(logits, target) + prototype_loss(logits.T, target)) / 2
    text_prototypes = (text if bg_negatives else text[:n_classes]).detach()
    image_side, text_side = (
        (text_prototypes, image_prototypes)
        if loss == "crossmodal"
        else (image_prototypes, text_prototypes)
    )
    value = prototype_loss(prototype_similarity(image, image_side, temperature), positive)
    if symmetric:
        backward = prototype_loss(prototype_similarity(pair_text, text_side, temperature), classes)
        value = (value + backward) / 2
    return value


def background_loss(
    background: Float[Tensor, "pairs dim"],
    word: Int[Tensor, " pairs"],
    text: Float[Tensor, "words dim"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Background-pooled features against all texts, the nearest background text as positive.

    Without it background texts are negatives only, drift away from everything and stop competing
    in the CAM's softmax.

    Args:
        background: Aligned MAP(1 - max CAM, V), one per image.
        word: Row of ``text`` that is the positive.
        text: T' (no gradient flows into it).
        temperature: τ.

    Source: our choice (``cmpa.bg_pairs``), spec §6.4.
    """
    return prototype_loss(prototype_similarity(background, text.detach(), temperature), word)


def segmentation_loss(
    logits: Float[Tensor, "batch classes height width"],
    pseudo_mask: UInt8[Tensor, "batch height width"],
) -> Float[Tensor, ""]:
    """Half the mean cross-entropy over background pixels plus half that over foreground pixels.

    The halves keep the background, most of the pixels, from drowning the classes.

    Args:
        logits: Channel 0 is the background.
        pseudo_mask: Class ids; 255 is ignored. A half without pixels counts 0.

    Source: WeCLIP; spec §9.
    """
    target = pseudo_mask.long()
    per_pixel = functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    background, foreground = target == 0, (target > 0) & (target != IGNORE)
    halves = [
        (per_pixel * chosen).sum() / chosen.sum().clamp(min=1)
        for chosen in (background, foreground)
    ]
    return (halves[0] + halves[1]) / 2


def ssr_loss(
    proto: Float[Tensor, ""], seg: Float[Tensor, ""], *, seg_weight: float = 0.1
) -> Float[Tensor, ""]:
    """L_SSR = L_proto + γ·L_seg (Eq. 12).

    The two terms share no parameter (masks are an argmax, CLIP is frozen) and AdamW ignores the
    scale of a gradient, so γ changes next to nothing.
    """
    return proto + seg_weight * seg
