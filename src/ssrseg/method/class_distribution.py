"""Affinity from what all texts say of a patch: the class-distribution affinity of CD-CLIP."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

TINY = 1e-12
BLOCK = 2**24
"""Numbers alive at once where patches x patches x words are needed: 64 MB."""


def jensen_shannon(
    distribution: Float[Tensor, "batch patches words"],
) -> Float[Tensor, "batch patches patches"]:
    """Jensen-Shannon divergence of every two rows, in bits: 0 = equal, 1 = disjoint.

    JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2. The first term is no product of matrices: it
    takes patches² x words logarithms, and goes through memory in blocks of rows.

    Args:
        distribution: Rows >= 0 that sum to 1.
    """
    batch, patches, words = distribution.shape
    half = distribution / 2
    rows = max(1, BLOCK // max(1, batch * patches * words))
    blocks = [half[:, first : first + rows, None] for first in range(0, patches, rows)]
    mixed = torch.cat([torch.special.entr(block + half[:, None]).sum(-1) for block in blocks], 1)
    own = torch.special.entr(distribution).sum(-1)
    nats: Tensor = mixed - (own[:, :, None] + own[:, None]) / 2
    return (nats / math.log(2)).clamp(0, 1)


def class_distribution_affinity(
    affinity: Float[Tensor, "batch patches patches"],
    patch_features: Float[Tensor, "batch patches dim"],
    text: Float[Tensor, "words dim"],
    temperature: float,
) -> Float[Tensor, "batch patches patches"]:
    """A_d: a patch receives what all patches that the texts judge alike would receive along A.

    S_a = min-max of cos(V, T), text by text; S_d = (1 - JS of the rows of softmax(S_a)) / τ_d;
    A_d = softmax(S_d)·A.

    Args:
        affinity: A of Eq. 9. Row i receives, column j sends.
        patch_features: V, any norm.
        text: T, every text, any norm.
        temperature: τ_d. JS of rows as soft as these is small, so useful values are small too.

    Source: CD-CLIP (CVPR 2026); what its formulas leave open is in docs/decisions/0035.
    """
    cosine = functional.normalize(patch_features, dim=-1) @ functional.normalize(text, dim=-1).T
    low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    distribution = ((cosine - low) / (high - low).clamp(min=TINY)).softmax(-1)
    alike = ((1 - jensen_shannon(distribution)) / temperature).softmax(-1)
    return alike @ affinity
