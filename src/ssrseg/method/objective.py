"""What is minimised: L_proto with its variants of Table 4, L_seg, and their sum (Eq. 12)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
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


def image_loss(
    image: Float[Tensor, "pairs dim"],
    classes: Int[Tensor, " pairs"],
    labels: Bool[Tensor, "pairs proto"],
    text: Float[Tensor, "words dim"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """The whole image's feature against the text prototypes, once for each of its classes.

    GradCAM feeds ISA the mean of all patches, which L_proto alone never shows it. The image's other
    classes are no negatives, and neither are the backgrounds: the mean holds them too.

    Args:
        image: ISA(v) of each pair's image.
        classes: Class of each pair.
        labels: Classes present in its image.
        text: T', the classes first (no gradient flows into it).
        temperature: τ.

    Source: our choice (``cmpa.also_image``), spec §6.6.
    """
    similarity = prototype_similarity(image, text[: labels.shape[1]].detach(), temperature)
    own = functional.one_hot(classes, labels.shape[1]).bool()
    return prototype_loss(similarity.masked_fill(labels & ~own, -torch.inf), classes)


def affinity_loss(
    affinity: Float[Tensor, "batch patches patches"],
    pseudo_mask: UInt8[Tensor, "batch height width"],
    grid: tuple[int, int],
    *,
    radius: int = 8,
) -> Float[Tensor, ""]:
    """Half the mean of 1 - A over near patches of one class, plus half that of A over near others.

    Args:
        affinity: A_dec, in (0, 1).
        pseudo_mask: Class ids, read at each patch's first pixel; pairs with a 255 do not count.
        grid: Patch rows and columns.
        radius: Rows and columns between two patches of a pair, at most.

    Source: WeCLIP, AFA. One is added to both counts, as there.
    """
    ids = functional.interpolate(pseudo_mask[:, None].float(), grid, mode="nearest").flatten(1)
    row, column = (torch.arange(side, device=ids.device) for side in grid)
    near_rows = (row[:, None] - row).abs() <= radius
    near_columns = (column[:, None] - column).abs() <= radius
    near = torch.kron(near_rows.byte(), near_columns.byte()).bool()
    known = ids != IGNORE
    counted = near & known[:, :, None] & known[:, None]
    same = ids[:, :, None] == ids[:, None]
    alike, unlike = counted & same, counted & ~same
    pull = ((1 - affinity) * alike).sum() / (alike.sum() + 1)
    push = (affinity * unlike).sum() / (unlike.sum() + 1)
    return (pull + push) / 2


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
