from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssrseg.method.kmeans import kmeans, spread_seeds


def points_of(seed: int, sets: int = 2, n: int = 20, dim: int = 3) -> Tensor:
    return torch.randn(sets, n, dim, generator=torch.Generator().manual_seed(seed))


def everything(points: Tensor) -> Tensor:
    return torch.ones(points.shape[:2], dtype=torch.bool)


def slow_lloyd(
    points: Tensor, centroids: Tensor, valid: Tensor, iterations: int
) -> tuple[list[int], Tensor]:
    centroids = centroids.clone()
    assignment: list[int] = []
    for _ in range(iterations):
        assignment = [
            min(range(len(centroids)), key=lambda k, p=p: float((p - centroids[k]).square().sum()))
            for p in points
        ]
        for k in range(len(centroids)):
            mine = [p for p, a, v in zip(points, assignment, valid, strict=True) if v and a == k]
            if mine:
                centroids[k] = torch.stack(mine).mean(0)
    return assignment, centroids


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), iterations=st.integers(1, 8))
def test_equals_a_slow_lloyd(seed, iterations):
    points = points_of(seed)
    valid = torch.rand(2, 20, generator=torch.Generator().manual_seed(seed + 1)) > 0.2
    start = points[:, :4]
    assignment, centroids = kmeans(points, start, valid, iterations=iterations)
    for b in range(2):
        slow_assignment, slow_centroids = slow_lloyd(points[b], start[b], valid[b], iterations)
        assert assignment[b].tolist() == slow_assignment
        torch.testing.assert_close(centroids[b], slow_centroids)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_inertia_never_grows(seed):
    points = points_of(seed, sets=1, n=30)
    start = points[:, :5]
    inertias = [torch.cdist(points, start).amin(-1).square().sum().item()]
    for iterations in range(1, 10):
        _, centroids = kmeans(points, start, everything(points), iterations=iterations)
        inertias.append(torch.cdist(points, centroids).amin(-1).square().sum().item())
    assert all(after <= before + 1e-4 for before, after in itertools.pairwise(inertias))
    assert inertias[-1] < inertias[0]


def test_padding_moves_no_centroid():
    points = points_of(0)
    padded = torch.cat([points, torch.full((2, 5, 3), 1e6)], 1)
    valid = torch.cat([everything(points), torch.zeros(2, 5, dtype=torch.bool)], 1)
    assignment, centroids = kmeans(points, points[:, :4], everything(points))
    with_padding, same_centroids = kmeans(padded, points[:, :4], valid)
    assert torch.equal(with_padding[:, :20], assignment)
    torch.testing.assert_close(same_centroids, centroids)


def test_an_empty_cluster_keeps_its_centroid():
    points = points_of(1)
    far = torch.full((2, 1, 3), 500.0)
    assignment, centroids = kmeans(points, torch.cat([points[:, :2], far], 1), everything(points))
    assert (assignment != 2).all()
    assert torch.equal(centroids[:, 2:], far)


def test_every_set_is_clustered_by_itself():
    points = points_of(2, sets=3, n=40)
    together = kmeans(points, points[:, :6], everything(points))
    for b in range(3):
        one = points[b : b + 1]
        assignment, centroids = kmeans(one, one[:, :6], everything(one))
        assert torch.equal(assignment[0], together[0][b])
        assert torch.equal(centroids[0], together[1][b])


def test_separate_blobs_are_found_whatever_the_draw():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    blob = torch.arange(40) % 4
    noise = 0.1 * torch.randn(1, 40, 2, generator=torch.Generator().manual_seed(0))
    points = centres[blob][None] + noise
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        start = spread_seeds(points, everything(points), 4, generator)
        assignment, _ = kmeans(points, start, everything(points))
        assert len({(int(a), int(b)) for a, b in zip(assignment[0], blob, strict=True)}) == 4


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 8))
def test_seeds_are_distinct_valid_points(seed, k):
    points = points_of(seed)
    valid = torch.zeros(2, 20, dtype=torch.bool)
    valid[:, 3:12] = True
    seeds = spread_seeds(points, valid, k, torch.Generator().manual_seed(seed))
    for b in range(2):
        allowed = [tuple(p) for p in points[b, 3:12].tolist()]
        drawn = [tuple(p) for p in seeds[b].tolist()]
        assert set(drawn) <= set(allowed)
        assert len(set(drawn)) == k


def test_seeds_repeat_where_points_do():
    points = torch.zeros(1, 6, 2)
    points[0, 3:] = 1
    seeds = spread_seeds(points, everything(points), 5, torch.Generator().manual_seed(0))
    assert {tuple(p) for p in seeds[0].tolist()} == {(0.0, 0.0), (1.0, 1.0)}


def test_seeds_of_a_set_do_not_depend_on_the_batch():
    points = points_of(3, sets=4)
    together = spread_seeds(points, everything(points), 5, torch.Generator().manual_seed(9))
    for b in range(4):
        one = points[b : b + 1]
        alone = spread_seeds(one, everything(one), 5, torch.Generator().manual_seed(9))
        assert torch.equal(alone[0], together[b])


def test_far_points_are_drawn_in_proportion_to_their_squared_distance():
    """After a first seed at 0, the point at 3 is 9 times as likely as the one at 1."""
    points = torch.tensor([[[0.0], [1.0], [3.0]]])
    valid = everything(points)
    second = {1.0: 0, 3.0: 0}
    for seed in range(600):
        first, then = spread_seeds(points, valid, 2, torch.Generator().manual_seed(seed))[0, :, 0]
        if first == 0:
            second[float(then)] += 1
    assert sum(second.values()) > 150
    assert 0.83 < second[3.0] / sum(second.values()) < 0.97
