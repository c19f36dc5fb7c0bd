"""Patch affinity from the attention of two frozen encoders (Eq. 9)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

TINY = 1e-12


def _rows_to_one(
    matrix: Float[Tensor, "batch patches patches"],
) -> Float[Tensor, "batch patches patches"]:
    return matrix / matrix.sum(-1, keepdim=True).clamp(min=TINY)


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
        clip_weight: Share of CLIP; 0 switches it off.
        dino_weight: Share of DINO; 0 switches it off.

    Raises:
        ValueError: If no attention has a positive weight, or one with a weight is missing.
    """
    pairs = [(clip_attention, clip_weight), (dino_attention, dino_weight)]
    used = [(attention, weight) for attention, weight in pairs if weight > 0]
    if not used or any(attention is None for attention, _ in used):
        raise ValueError(f"weights {clip_weight} : {dino_weight} ask for an attention not given")
    if len(used) == 1:
        assert used[0][0] is not None
        return used[0][0]
    total = clip_weight + dino_weight
    assert clip_attention is not None and dino_attention is not None
    clip_share, dino_share = clip_weight / total, dino_weight / total
    return _rows_to_one(clip_attention) * clip_share + _rows_to_one(dino_attention) * dino_share


def balance(
    attention: Float[Tensor, "batch patches patches"], *, rounds: int = 3
) -> Float[Tensor, "batch patches patches"]:
    """Sinkhorn rounds (columns, then rows, to sum 1), then the symmetric part (A + Aᵀ) / 2.

    Columns are brought to 1 as well, so that a patch that everybody looks at does not swallow the
    map. From CLIP-ES; the squaring that follows there is two steps of
    ``ssrseg.method.sgc.corrected_cam``.

    Args:
        attention: Non-negative.
        rounds: Sinkhorn rounds.

    Returns:
        Symmetric affinity; row sums are about 1.
    """
    for _ in range(rounds):
        attention = attention / attention.sum(-2, keepdim=True).clamp(min=TINY)
        attention = _rows_to_one(attention)
    return (attention + attention.mT) / 2
