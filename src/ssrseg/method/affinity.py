"""Patch affinity from the attention of two frozen encoders (Eq. 9)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

TINY = 1e-12


def fuse_attention(
    clip_attention: Float[Tensor, "batch patches patches"] | None,
    dino_attention: Float[Tensor, "batch patches patches"] | None,
    *,
    clip_weight: float = 0.4,
    dino_weight: float = 0.6,
) -> Float[Tensor, "batch patches patches"]:
    """Weighted mean of the two attentions: the paper's "concat" with ratio 0.4 : 0.6 (Eq. 9).

    Two encoders are brought to row sums of 1 first (dropping CLS broke them), so that the weights
    mean what they say. A single encoder is returned as it is, as in CLIP-ES.

    Args:
        clip_attention: Ā_clip, mean over heads and blocks; row i looks, column j is looked at.
        dino_attention: Ā_dino on the same grid.
        clip_weight: 0 switches CLIP off.
        dino_weight: 0 switches DINO off.

    Raises:
        ValueError: If no attention has a positive weight, or one with a weight is missing.
    """
    pairs = [(clip_attention, clip_weight), (dino_attention, dino_weight)]
    asked = [attention for attention, weight in pairs if weight > 0]
    given = [attention for attention in asked if attention is not None]
    if not given or len(given) < len(asked):
        raise ValueError(f"weights {clip_weight} : {dino_weight} ask for an attention not given")
    if len(given) == 1:
        return given[0]
    clip, dino = (rows / rows.sum(-1, keepdim=True).clamp(min=TINY) for rows in given)
    total = clip_weight + dino_weight
    return clip * (clip_weight / total) + dino * (dino_weight / total)


def feature_attention(
    features: Float[Tensor, "batch patches dim"], temperature: float
) -> Float[Tensor, "batch patches patches"]:
    """An attention made of the likeness of patch features: softmax of cos(F_i, F_j) / temperature.

    It takes the place of Ā_dino in Eq. 9; rows sum to 1. Our choice: a patch looks at those that
    are like it, wherever the model itself would look.

    Args:
        features: F, any norm.
        temperature: How much less like a patch others may be; above 1 all are equal.
    """
    unit = functional.normalize(features, dim=-1)
    return (unit @ unit.mT / temperature).softmax(-1)


def balance(
    attention: Float[Tensor, "batch patches patches"], *, rounds: int = 3
) -> Float[Tensor, "batch patches patches"]:
    """Sinkhorn rounds (columns, then rows, to sum 1), then the symmetric part (A + Aᵀ) / 2.

    Columns are brought to 1 as well, so that a patch that everybody looks at does not swallow the
    map. From CLIP-ES; the squaring that follows there is two steps of
    ``ssrseg.method.sgc.corrected_cam``. ``attention`` is non-negative; row sums of the result
    are about 1.
    """
    for _ in range(rounds):
        for axis in (-2, -1):
            attention = attention / attention.sum(axis, keepdim=True).clamp(min=TINY)
    return (attention + attention.mT) / 2
