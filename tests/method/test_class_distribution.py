from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import Tensor
from torch.nn import functional

from ssrseg.method import class_distribution
from ssrseg.method.class_distribution import class_distribution_affinity, jensen_shannon


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), sharpness=st.sampled_from([0.3, 3.0, 30.0]))
def test_divergence_is_scipys(seed, sharpness):
    rows = (sharpness * randn(seed, 2, 5, 4)).softmax(-1)
    found = jensen_shannon(rows)
    assert torch.allclose(found, found.mT, atol=1e-6)
    assert found.diagonal(dim1=1, dim2=2).abs().max() < 1e-6
    for b in range(2):
        for i in range(5):
            for j in range(5):
                one, other = rows[b, i].double().numpy(), rows[b, j].double().numpy()
                # scipy's is the square root, and nan where rounding makes its square negative
                wanted = np.nan_to_num(jensenshannon(one, other, base=2)) ** 2
                assert float(found[b, i, j]) == pytest.approx(wanted, abs=1e-5)


def test_disjoint_rows_differ_by_one_bit():
    rows = torch.eye(3)[None]
    torch.testing.assert_close(jensen_shannon(rows), 1 - torch.eye(3)[None])


def test_blocks_of_rows_change_nothing(monkeypatch):
    rows = randn(0, 2, 7, 3).softmax(-1)
    whole = jensen_shannon(rows)
    sizes: list[int] = []
    original = torch.special.entr

    def spying(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return original(x)

    monkeypatch.setattr(torch.special, "entr", spying)
    monkeypatch.setattr(class_distribution, "BLOCK", 100)  # 2 of the 7 rows
    assert torch.equal(jensen_shannon(rows), whole)
    assert max(sizes) <= 100


def literal(affinity: Tensor, features: Tensor, text: Tensor, tau: float) -> Tensor:
    """A_d of one image by its formulas."""
    n, words = len(features), len(text)
    cosine = (
        functional.normalize(features.double(), dim=1)
        @ functional.normalize(text.double(), dim=1).mT
    )
    scaled = torch.zeros(n, words, dtype=torch.float64)
    for w in range(words):
        column = cosine[:, w]
        scaled[:, w] = (column - column.min()) / (column.max() - column.min())
    rows = [[math.exp(x) for x in row] for row in scaled.tolist()]
    rows = [[x / sum(row) for x in row] for row in rows]

    def entropy(row: list[float]) -> float:
        return -sum(x * math.log2(x) for x in row if x > 0)

    shared = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            mixed = [(a + b) / 2 for a, b in zip(rows[i], rows[j], strict=True)]
            divergence = entropy(mixed) - (entropy(rows[i]) + entropy(rows[j])) / 2
            shared[i, j] = math.exp((1 - divergence - 1) / tau)
        shared[i] /= shared[i].sum()
    return shared @ affinity.double()


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01])
def test_affinity_by_its_formulas(tau):
    affinity = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(1))
    features, text = 5 * randn(2, 2, 6, 4), 3 * randn(3, 5, 4)
    found = class_distribution_affinity(affinity, features, text, tau)
    for b in range(2):
        wanted = literal(affinity[b], features[b], text, tau).float()
        torch.testing.assert_close(found[b], wanted, atol=1e-4, rtol=1e-3)


def test_patches_that_the_texts_judge_alike_receive_alike():
    kinds = torch.tensor([0, 1, 0, 2, 1])
    features = randn(4, 3, 8)[kinds][None]
    affinity = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(0))
    found = class_distribution_affinity(affinity, features, randn(5, 6, 8), 1e-4)[0]
    for kind in range(3):
        mean = affinity[0, kinds == kind].mean(0)
        torch.testing.assert_close(found[kinds == kind], mean.expand(sum(kinds == kind), 5))


def test_the_limits_of_the_temperature():
    affinity = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0))
    features, text = randn(0, 1, 6, 4), randn(1, 5, 4)
    cold = class_distribution_affinity(affinity, features, text, 1e-7)
    hot = class_distribution_affinity(affinity, features, text, 1e4)
    torch.testing.assert_close(cold, affinity)
    torch.testing.assert_close(hot, affinity.mean(1, keepdim=True).expand(1, 6, 6))


def test_a_text_that_all_patches_like_the_same_tells_nothing_and_stays_finite():
    features = torch.cat([randn(0, 1, 6, 3), torch.zeros(1, 6, 1)], -1)
    text = torch.cat([randn(1, 4, 3), torch.zeros(4, 1)], -1)
    affinity = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0))
    more = torch.cat([text, torch.eye(4)[3:]])  # cosine 0 with every patch
    assert class_distribution_affinity(affinity, features, more, 0.01).isfinite().all()
