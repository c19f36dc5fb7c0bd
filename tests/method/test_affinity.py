from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssrseg.method.affinity import (
    balance,
    colour_position_kernel,
    decoder_gate,
    feature_affinity,
    fuse_attention,
)


def attention(seed: int, n: int = 6, batch: int = 2) -> Tensor:
    """Softmax rows of n + 1 tokens without CLS: row sums below 1, as from an encoder."""
    logits = 2 * torch.randn(batch, n + 1, n + 1, generator=torch.Generator().manual_seed(seed))
    return logits.softmax(-1)[:, 1:, 1:]


def test_fusion_by_a_loop():
    clip, dino = attention(0), attention(1)
    fused = fuse_attention(clip, dino)
    for b in range(2):
        for i in range(6):
            for j in range(6):
                wanted = 0.4 * clip[b, i, j] / clip[b, i].sum() + 0.6 * (
                    dino[b, i, j] / dino[b, i].sum()
                )
                assert abs(fused[b, i, j] - wanted) < 1e-6


def test_only_the_ratio_of_the_weights_counts():
    clip, dino = attention(0), attention(1)
    torch.testing.assert_close(
        fuse_attention(clip, dino, clip_weight=2.0, dino_weight=3.0), fuse_attention(clip, dino)
    )


def test_weights_mean_what_they_say_whatever_the_encoders_row_sums():
    clip, dino = attention(0), attention(1)
    torch.testing.assert_close(fuse_attention(0.01 * clip, dino), fuse_attention(clip, dino))


def test_a_single_encoder_is_returned_as_it_is():
    clip, dino = attention(0), attention(1)
    assert torch.equal(fuse_attention(clip, dino, clip_weight=1.0, dino_weight=0.0), clip)
    assert torch.equal(fuse_attention(None, dino, clip_weight=0.0, dino_weight=0.1), dino)


@pytest.mark.parametrize(
    ("clip", "dino", "weights"),
    [(None, 1, (0.4, 0.6)), (0, None, (0.4, 0.6)), (0, 1, (0.0, 0.0)), (None, None, (1.0, 0.0))],
)
def test_a_weight_without_attention_is_refused(clip, dino, weights):
    maps = [None if seed is None else attention(seed) for seed in (clip, dino)]
    with pytest.raises(ValueError, match=f"weights {weights[0]} : {weights[1]}"):
        fuse_attention(*maps, clip_weight=weights[0], dino_weight=weights[1])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 12))
def test_sinkhorn_row_sums_go_to_one(seed, n):
    affinity = balance(attention(seed, n))
    assert affinity.isfinite().all()
    assert (affinity >= 0).all()
    assert torch.equal(affinity, affinity.mT)
    # rows are exactly 1 before the symmetric part is taken, so all sums together are n
    torch.testing.assert_close(affinity.sum((1, 2)), torch.full((2,), float(n)))
    settled = balance(attention(seed, n), rounds=300)
    torch.testing.assert_close(settled.sum(-1), torch.ones(2, n), atol=1e-2, rtol=0)


def test_more_rounds_bring_rows_and_columns_nearer_to_one():
    raw = attention(4, 12)
    off = [(balance(raw, rounds=r).sum(-1) - 1).abs().max().item() for r in (0, 1, 3, 30)]
    assert off[0] > off[1] > off[2] > off[3]
    assert off[3] < 1e-4


def test_balance_by_a_loop():
    raw = attention(7, 5, batch=1)
    a = raw[0].clone()
    for _ in range(3):
        for j in range(5):
            a[:, j] = a[:, j] / a[:, j].sum()
        for i in range(5):
            a[i] = a[i] / a[i].sum()
    torch.testing.assert_close(balance(raw)[0], (a + a.T) / 2)


def test_no_rounds_give_the_symmetric_part():
    raw = attention(3)
    torch.testing.assert_close(balance(raw, rounds=0), (raw + raw.mT) / 2)


def test_a_patch_that_nobody_looks_at_stays_finite():
    raw = attention(2)
    raw[:, :, 3] = 0
    raw[:, 4] = 0
    assert balance(raw).isfinite().all()


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), grid=st.sampled_from([(2, 2), (3, 5), (8, 8)]))
def test_kernel_is_symmetric_with_ones_on_the_diagonal(seed, grid):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, grid[0] * 4, grid[1] * 4, generator=generator)
    kernel = colour_position_kernel(image, grid)
    n = grid[0] * grid[1]
    assert kernel.shape == (2, n, n)
    assert torch.equal(kernel, kernel.mT)
    torch.testing.assert_close(kernel.diagonal(dim1=1, dim2=2), torch.ones(2, n))
    assert (kernel >= 0).all()
    assert (kernel <= 1).all()


def test_kernel_of_two_flat_patches_by_hand():
    image = torch.zeros(1, 3, 2, 4)
    image[0, 0, :, 2:] = 0.1
    kernel = colour_position_kernel(image, (1, 2), sigma_colour=0.1, sigma_position=0.5)
    wanted = torch.tensor(-(0.1**2) / (2 * 0.1**2) - 0.5**2 / (2 * 0.5**2)).exp()
    torch.testing.assert_close(kernel[0, 0, 1], wanted)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_feature_affinity_by_a_loop():
    features = randn(0, 2, 5, 3)
    found = feature_affinity(features)
    for b in range(2):
        for i in range(5):
            for j in range(5):
                dot = sum(float(features[b, i, k] * features[b, j, k]) for k in range(3))
                assert float(found[b, i, j]) == pytest.approx(1 / (1 + math.exp(-dot)), abs=1e-6)


def literal_gate(attention: Tensor, decoder_affinity: Tensor) -> Tensor:
    """WeCLIP's rule for one image, number by number, in double precision."""
    layers, n = attention.shape[:2]
    doubt = [
        sum(float(decoder_affinity[i, j]) - float(a[i, j]) for i in range(n) for j in range(n))
        for a in attention
    ]
    kept = [a for a, d in zip(attention, doubt, strict=True) if d <= sum(doubt) / layers]
    assert 0 < len(kept) < layers
    return sum(kept) / len(kept) * decoder_affinity


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_gate_by_a_loop(seed):
    blocks = torch.stack([attention(seed + k, 4) for k in range(5)], 1)
    alike = feature_affinity(randn(seed, 2, 4, 3))
    found = decoder_gate(blocks, alike)
    for b in range(2):
        torch.testing.assert_close(found[b], literal_gate(blocks[b], alike[b]))


def test_each_image_keeps_blocks_of_its_own():
    much, little = torch.full((3, 3), 0.3), torch.full((3, 3), 0.1)
    blocks = torch.stack([torch.stack([much, little]), torch.stack([little, much])])
    alike = torch.tensor([0.5, 0.25])[:, None, None].expand(2, 3, 3)
    found = decoder_gate(blocks, alike)
    torch.testing.assert_close(found[0], torch.full((3, 3), 0.15))
    torch.testing.assert_close(found[1], torch.full((3, 3), 0.075))


def test_equal_blocks_all_stay():
    for seed in range(12):  # the mean of seven equal sums is rounded up in every fourth case
        one = attention(seed, 5, batch=1).double() / 3
        blocks = one[:, None].repeat(1, 7, 1, 1)
        found = decoder_gate(blocks, torch.ones(1, 5, 5, dtype=torch.float64))
        torch.testing.assert_close(found, one)
