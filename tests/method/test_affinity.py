from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssrseg.method.affinity import balance, feature_attention, fuse_attention


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


def test_feature_attention_by_a_loop():
    features = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(4))
    found = feature_attention(features, 0.2)
    for b in range(2):
        unit = [row / row.norm() for row in features[b]]
        for i in range(6):
            weights = [math.exp(float(unit[i] @ other) / 0.2) for other in unit]
            for j in range(6):
                assert abs(found[b, i, j] - weights[j] / sum(weights)) < 1e-5
            assert found[b, i].argmax() == i  # nothing is more like a patch than itself
    longer = features * torch.rand(2, 6, 1).add(0.5)
    assert (feature_attention(longer, 0.2) - found).abs().max() < 1e-6


def test_feature_attention_finds_groups_and_fuses_as_an_attention():
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    noise = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(5))
    found = feature_attention(torch.eye(8)[:3][groups][None] + 0.05 * noise, 0.1)
    same = groups[:, None] == groups
    assert found[0][~same].max() < 0.01
    assert found[0][same].min() > 0.4
    other = attention(0, batch=1)
    rows = other / other.sum(-1, keepdim=True)
    torch.testing.assert_close(fuse_attention(other, found), 0.4 * rows + 0.6 * found)
