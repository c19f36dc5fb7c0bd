"""Patch affinity from the attention of two frozen encoders (Eq. 9), and what peers make of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

TINY = 1e-12
EXACT = "donot_use_mm_for_euclid_dist"  # else the diagonal is not exactly 0


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
    map.

    Args:
        attention: Non-negative.
        rounds: Sinkhorn rounds.

    Returns:
        Symmetric affinity; row sums are about 1.

    Source: CLIP-ES; spec §7.2. The squaring that follows there is two steps of
    :func:`ssrseg.method.sgc.corrected_cam`.
    """
    for _ in range(rounds):
        attention = attention / attention.sum(-2, keepdim=True).clamp(min=TINY)
        attention = _rows_to_one(attention)
    return (attention + attention.mT) / 2


def feature_affinity(
    features: Float[Tensor, "batch patches width"],
) -> Float[Tensor, "batch patches patches"]:
    """A_dec = sigmoid(F Fᵀ): how alike the decoder finds two patches, in (0, 1).

    Args:
        features: F, the decoder's fused features, not normalised.

    Source: WeCLIP.
    """
    return (features @ features.mT).sigmoid()


def decoder_gate(
    attention: Float[Tensor, "batch layers patches patches"],
    decoder_affinity: Float[Tensor, "batch patches patches"],
) -> Float[Tensor, "batch patches patches"]:
    """Keep the blocks that the decoder doubts least, average them, weigh by A_dec: WeCLIP's RFM.

    A block l stays if Σ(A_dec - A_l) is at most the mean of these sums over the blocks. A_dec is
    the same in all of them, so what decides is the attention that a block leaves to patches: it is
    computed so, and the sums of a hundred thousand sigmoids do not drown the difference.

    Args:
        attention: A_l of each block, averaged over heads, without CLS.
        decoder_affinity: A_dec, see :func:`feature_affinity`.

    Source: WeCLIP, as its code has it; docs/decisions/0032.
    """
    on_patches = attention.sum((-2, -1), dtype=torch.float64)
    mean = on_patches.mean(1, keepdim=True)
    # equal blocks all stay, whatever their mean is rounded to
    kept = on_patches >= torch.minimum(mean, on_patches.amax(1, keepdim=True))
    share = (kept / kept.sum(1, keepdim=True)).to(attention)
    return torch.einsum("bl,blij->bij", share, attention) * decoder_affinity


def colour_position_kernel(
    image: Float[Tensor, "batch 3 height width"],
    grid: tuple[int, int],
    *,
    sigma_colour: float = 0.1,
    sigma_position: float = 0.15,
) -> Float[Tensor, "batch patches patches"]:
    """A Gaussian affinity of mean patch colour and position: the control without a network.

    Args:
        image: RGB in [0, 1].
        grid: Patch rows and columns.
        sigma_colour: Width in RGB units.
        sigma_position: Width in units of the longer side.

    Source: our control row; a learned affinity that loses to it has not learned objects.
    """
    colour = functional.adaptive_avg_pool2d(image, grid).flatten(2).mT
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], device=image.device),
        torch.arange(grid[1], device=image.device),
        indexing="ij",
    )
    position = torch.stack([rows, columns], -1).flatten(0, 1).to(image) / max(grid)
    far = torch.cdist(position, position, compute_mode=EXACT).square() / (2 * sigma_position**2)
    unlike = torch.cdist(colour, colour, compute_mode=EXACT).square() / (2 * sigma_colour**2)
    return torch.exp(-unlike - far)
