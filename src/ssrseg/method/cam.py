"""The initial CAM: GradCAM on the last block's ln_1, softmax over present + background texts.

"Slots" are the classes present in an image: ``present`` holds their ids, padded with -1, so that
images with different numbers of classes share one batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def min_max(maps: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch height width"]:
    """Each map to [0, 1]: (x - min) / (max - min + 1e-7). A constant map becomes 0."""
    low = maps.amin((-2, -1), keepdim=True)
    return (maps - low) / ((maps - low).amax((-2, -1), keepdim=True) + 1e-7)


def allowed_words(
    present: Int[Tensor, "batch slots"], n_classes: int, n_words: int
) -> Bool[Tensor, "batch words"]:
    """True for the texts that compete in an image: its present classes and every background.

    Words 0 .. n_classes - 1 are the classes, the others backgrounds.
    """
    allowed = torch.zeros(len(present), n_words + 1, dtype=torch.bool, device=present.device)
    allowed.scatter_(1, torch.where(present < 0, n_words, present), True)
    allowed[:, n_classes:n_words] = True
    return allowed[:, :n_words]


def word_probability(
    features: Float[Tensor, "batch *patches dim"],
    text: Float[Tensor, "words dim"],
    scale: float | Float[Tensor, ""],
    allowed: Bool[Tensor, "batch words"],
) -> Float[Tensor, "batch *patches words"]:
    """Softmax of scaled cosines over the texts that an image allows.

    The softmax makes classes compete: without it, images with several classes collapse onto one.
    As in CLIP-ES.

    Args:
        features: Image features (v or V, before or after ISA), any norm.
        text: Text features, any norm.
        scale: 1 / temperature: CLIP's own exp(logit_scale), or 1 / τ in CMPA mode.
        allowed: See ``allowed_words``.
    """
    cosine = functional.normalize(features, dim=-1) @ functional.normalize(text, dim=-1).T
    shape = (len(allowed),) + (1,) * (features.ndim - 2) + (allowed.shape[1],)
    return (scale * cosine).masked_fill(~allowed.view(shape), -torch.inf).softmax(-1)


def gradcam(
    last_block: Callable[[Tensor], Tensor],
    normed: Float[Tensor, "batch tokens dim"],
    probability: Callable[[Tensor], Tensor],
    present: Int[Tensor, "batch slots"],
    grid: tuple[int, int],
) -> Float[Tensor, "batch slots grid_h grid_w"]:
    """GradCAM of every present class of every image, from one evaluation of the last block.

    CAM_c = ReLU(Σ_k α_ck a_k), α_ck = mean over patches of ∂p_c / ∂a_k, where a = ``normed`` and
    p_c is the probability of class c. Images do not interact, so one backward pass serves the same
    slot of all images. Each CAM is in [0, 1] by itself. The layer and the softmax are CLIP-ES's:
    the paper says GradCAM only.

    Args:
        last_block: ln_1 output (batch, tokens, dim) -> patch features (batch, patches, dim1).
        normed: Output of ln_1 of the last block, CLS first.
        probability: Mean patch feature (batch, dim1) -> probability of each text (batch, words).
        present: Class ids, -1 for an empty slot (its CAM is 0); at least one slot.
    """
    with torch.enable_grad():
        normed = normed.detach().requires_grad_()
        # p of each text from the mean patch feature v: (batch, words)
        probabilities = probability(last_block(normed).mean(1))
        weights = []
        # α of each slot: (batch, slots, dim)
        for slot in range(present.shape[1]):
            chosen = probabilities.gather(1, present[:, slot : slot + 1].clamp(min=0)).sum()
            last = slot == present.shape[1] - 1
            (gradient,) = torch.autograd.grad(chosen, normed, retain_graph=not last)
            weights.append(gradient[:, 1:].mean(1))
    return weighted_cam(normed.detach(), torch.stack(weights, 1), present, grid)


def weighted_cam(
    normed: Float[Tensor, "batch tokens dim"],
    weights: Float[Tensor, "batch slots dim"],
    present: Int[Tensor, "batch slots"],
    grid: tuple[int, int],
) -> Float[Tensor, "batch slots grid_h grid_w"]:
    """ReLU(Σ_k α_ck a_k) on the patch grid, min-max normalised.

    Min-max runs twice as in CLIP-ES: raw maxima of 1e-6 .. 1e-4 are not small against the 1e-7 in
    the denominator, so the second pass matters.
    """
    raw = functional.relu(weights @ normed[:, 1:].mT).view(*present.shape, *grid)
    return _empty_slots_to_zero(min_max(min_max(raw)), present)


def patch_cam(
    patch_features: Float[Tensor, "batch patches dim"],
    text: Float[Tensor, "words dim"],
    scale: float | Float[Tensor, ""],
    allowed: Bool[Tensor, "batch words"],
    present: Int[Tensor, "batch slots"],
    grid: tuple[int, int],
) -> Float[Tensor, "batch slots grid_h grid_w"]:
    """The probability of each present class at every patch: the ``patch`` read-out, our choice.

    CMPA is trained on pooled patches, and this reads patches. Each map is in [0, 1] by itself, and
    0 for an empty slot.
    """
    probability = word_probability(patch_features, text, scale, allowed)  # (batch, patches, words)
    index = present.clamp(min=0)[:, None].expand(-1, probability.shape[1], -1)
    cam = probability.gather(2, index).mT.reshape(*present.shape, *grid)
    return _empty_slots_to_zero(min_max(cam), present)


def combined_cam(
    patch: Float[Tensor, "batch slots grid_h grid_w"],
    gradcam: Float[Tensor, "batch slots grid_h grid_w"],
) -> Float[Tensor, "batch slots grid_h grid_w"]:
    """The geometric mean of a ``patch`` map and a GradCAM, in [0, 1]: the ``combined`` read-out.

    Our choice: each is wrong in places of its own, and a place has to convince both.
    """
    return min_max((patch * gradcam).sqrt())


def _empty_slots_to_zero(
    cam: Float[Tensor, "batch slots grid_h grid_w"], present: Int[Tensor, "batch slots"]
) -> Float[Tensor, "batch slots grid_h grid_w"]:
    # Not a product: an image without any text to choose from has nan probabilities.
    return cam.masked_fill((present < 0)[:, :, None, None], 0.0)
