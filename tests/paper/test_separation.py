"""How far classes and modalities lie apart."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score
from torch.nn import functional

from ssrseg.paper.separation import distance_ratio, modality_gap, separation, silhouette


def cloud(seed: int, n: int = 40, dim: int = 6, classes: int = 4) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(n) % classes
    centres = torch.randn(classes, dim, generator=generator)
    return centres[ids] + 0.7 * torch.randn(n, dim, generator=generator), ids


@pytest.mark.parametrize("seed", range(5))
def test_silhouette_is_scikit_learns(seed: int) -> None:
    features, ids = cloud(seed)
    expected = silhouette_score(features.numpy(), ids.numpy(), metric="cosine")
    assert float(silhouette(features, ids)) == pytest.approx(expected, abs=1e-6)


def test_the_only_member_of_a_class_counts_nothing() -> None:
    features, ids = cloud(3, n=13)
    ids = torch.where(torch.arange(13) == 5, 9, ids)  # ids need not be without gaps
    expected = silhouette_score(features.numpy(), ids.numpy(), metric="cosine")
    assert float(silhouette(features, ids)) == pytest.approx(expected, abs=1e-6)


def test_two_bundles_at_right_angles() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 5.0]])
    ids = torch.tensor([0, 0, 1, 1])
    assert float(silhouette(features, ids)) == pytest.approx(1.0)
    assert float(distance_ratio(features, ids)) == pytest.approx(0.0)


def test_silhouette_of_four_directions_by_hand() -> None:
    angles = torch.tensor([0.0, 60.0, 90.0, 150.0]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], 1)
    ids = torch.tensor([0, 0, 1, 1])

    def distance(degrees: float) -> float:
        return 1 - math.cos(math.radians(degrees))

    outer = ((distance(90) + distance(150)) / 2, distance(60))
    inner = ((distance(30) + distance(90)) / 2, distance(60))
    widths = [(b - a) / max(a, b) for b, a in (outer, inner)]
    assert float(silhouette(features, ids)) == pytest.approx(sum(widths) / 2, abs=1e-6)
    within, between = distance(60), (2 * distance(90) + distance(150) + distance(30)) / 4
    assert float(distance_ratio(features, ids)) == pytest.approx(within / between, abs=1e-6)


def test_distance_ratio_by_a_slow_loop() -> None:
    features, ids = cloud(7, n=11, classes=3)
    unit = functional.normalize(features.double(), dim=-1)
    within, between = [], []
    for i in range(11):
        for j in range(i):
            distance = 1 - float(unit[i] @ unit[j])
            (within if ids[i] == ids[j] else between).append(distance)
    expected = sum(within) / len(within) / (sum(between) / len(between))
    assert float(distance_ratio(features, ids)) == pytest.approx(expected, abs=1e-9)


def test_one_class_has_nothing_to_lie_apart_from() -> None:
    features = torch.randn(5, 3)
    assert math.isnan(float(silhouette(features, torch.zeros(5, dtype=torch.long))))
    assert math.isnan(float(distance_ratio(features, torch.zeros(5, dtype=torch.long))))
    assert math.isnan(float(distance_ratio(features, torch.arange(5))))
    assert float(silhouette(features, torch.arange(5))) == 0.0


def test_modality_gap_from_nothing_to_opposite() -> None:
    image = torch.tensor([[2.0, 0.0], [5.0, 0.0]])
    assert float(modality_gap(image, image)) == pytest.approx(0.0)
    assert float(modality_gap(image, -image)) == pytest.approx(2.0)
    across = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    assert float(modality_gap(image, across)) == pytest.approx(math.sqrt(2))


def test_a_pairs_text_is_that_of_its_class() -> None:
    image = torch.eye(3)[[0, 0, 1]]
    text = torch.eye(3)[[1, 2]]
    found = separation(image, torch.tensor([0, 0, 1]), text)
    # means (2/3, 1/3, 0) and (0, 2/3, 1/3)
    assert found.modality_gap == pytest.approx(math.sqrt(4 + 1 + 1) / 3)
    assert found.distance_ratio == pytest.approx(0.0)
    assert found.silhouette == pytest.approx(2 / 3)  # the only pair of class 1 counts nothing


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_neither_order_nor_length_of_features_matters(seed: int, scale: float) -> None:
    features, ids = cloud(seed, n=18, classes=3)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(seed))
    lengths = torch.linspace(scale, 1.0, 18)[:, None]
    text = torch.randn(3, 6, generator=torch.Generator().manual_seed(seed + 1))
    first = separation(features, ids, text)
    second = separation((features * lengths)[order], ids[order], scale * text)
    assert second.silhouette == pytest.approx(first.silhouette, abs=1e-5)
    assert second.distance_ratio == pytest.approx(first.distance_ratio, abs=1e-5)
    assert second.modality_gap == pytest.approx(first.modality_gap, abs=1e-5)
    assert -1 <= first.silhouette <= 1
    assert first.distance_ratio >= 0
    assert 0 <= first.modality_gap <= 2
