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

from ssrseg.method import peers
from ssrseg.method.cam import min_max
from ssrseg.method.peers import (
    affinity_loss,
    box_patches,
    centre_prior,
    class_distribution_affinity,
    colour_position_kernel,
    decoder_gate,
    feature_affinity,
    jensen_shannon,
)

seeds = st.integers(0, 10_000)


def rand(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- CLIP-ES


def slow_boxes(cam: np.ndarray, high: float) -> np.ndarray:
    height, width = cam.shape
    grey = [[int(np.float32(value) * np.float32(255)) for value in row] for row in cam]
    threshold = int(high * max(max(row) for row in grey))
    inside = np.zeros((height, width), dtype=bool)
    seen: set[tuple[int, int]] = set()
    for start in np.ndindex(height, width):
        if start in seen or grey[start[0]][start[1]] <= threshold:
            continue
        area, queue = [], [start]
        seen.add(start)
        while queue:
            y, x = queue.pop()
            area.append((y, x))
            for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                in_grid = 0 <= near[0] < height and 0 <= near[1] < width
                if in_grid and near not in seen and grey[near[0]][near[1]] > threshold:
                    seen.add(near)
                    queue.append(near)
        rows, columns = [y for y, _ in area], [x for _, x in area]
        for y in range(min(rows), min(max(rows) + 1, height - 1)):
            for x in range(min(columns), min(max(columns) + 1, width - 1)):
                inside[y, x] = True
    return inside


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=seeds, high=st.sampled_from([0.4, 0.7, 0.9]), size=st.sampled_from([(6, 7), (9, 4)]))
def test_boxes_by_flood_fill(seed, high, size):
    cam = min_max(rand(seed, 2, 2, *size) ** 3)
    ours = box_patches(cam, high=high).view(cam.shape)
    for b, c in np.ndindex(2, 2):
        assert np.array_equal(ours[b, c].numpy(), slow_boxes(cam[b, c].numpy(), high))


def test_boxes_never_cover_the_last_row_and_column():
    cam = torch.ones(1, 1, 4, 5)
    boxes = box_patches(cam).view(4, 5)
    assert boxes[:3, :4].all()
    assert not boxes[3].any()
    assert not boxes[:, 4].any()


def test_two_areas_give_two_boxes_and_corners_connect():
    cam = torch.zeros(1, 1, 6, 7)
    cam[0, 0, 0, 0] = cam[0, 0, 1, 1] = cam[0, 0, 3, 4] = 1.0
    boxes = box_patches(cam).view(6, 7)
    wanted = torch.zeros(6, 7, dtype=torch.bool)
    wanted[:2, :2] = True
    wanted[3, 4] = True
    assert torch.equal(boxes, wanted)


def test_an_empty_cam_has_no_box():
    assert not box_patches(torch.zeros(1, 2, 3, 3)).any()


# --- WeCLIP


def attention(seed: int, n: int = 6, batch: int = 2) -> Tensor:
    """Softmax rows of n + 1 tokens without CLS: row sums below 1, as from an encoder."""
    logits = 2 * torch.randn(batch, n + 1, n + 1, generator=torch.Generator().manual_seed(seed))
    return logits.softmax(-1)[:, 1:, 1:]


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


def slow_affinity_loss(affinity: Tensor, ids: Tensor, grid: tuple[int, int], radius: int) -> float:
    """Every pair of patches, one by one."""
    height, width = ids.shape[1:]
    pull, push = [], []
    for b in range(len(ids)):
        for y in range(grid[0]):
            for x in range(grid[1]):
                for v in range(grid[0]):
                    for u in range(grid[1]):
                        if abs(y - v) > radius or abs(x - u) > radius:
                            continue
                        one = int(ids[b, y * height // grid[0], x * width // grid[1]])
                        other = int(ids[b, v * height // grid[0], u * width // grid[1]])
                        if 255 in (one, other):
                            continue
                        a = float(affinity[b, y * grid[1] + x, v * grid[1] + u])
                        if one == other:
                            pull.append(1 - a)
                        else:
                            push.append(a)
    return sum(pull) / (len(pull) + 1) / 2 + sum(push) / (len(push) + 1) / 2


@pytest.mark.parametrize("radius", [0, 1, 2, 8])
def test_affinity_loss_by_a_loop(radius):
    generator = torch.Generator().manual_seed(radius)
    grid = (3, 5)
    affinity = torch.rand(2, 15, 15, generator=generator)
    ids = torch.tensor([0, 0, 1, 2, 255], dtype=torch.uint8)
    mask = ids[torch.randint(0, 5, (2, 12, 20), generator=generator)]
    wanted = slow_affinity_loss(affinity, mask, grid, radius)
    assert wanted > 0.1
    assert float(affinity_loss(affinity, mask, grid, radius=radius)) == pytest.approx(wanted)


def test_a_perfect_affinity_costs_nothing_and_its_opposite_all_but_the_added_pair():
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    mask[:, :, 2:] = 1
    ids = mask.flatten(1)
    same = (ids[:, :, None] == ids[:, None]).float()
    assert affinity_loss(same, mask, (4, 4)).item() == 0
    pairs = 16 * 16 / 2  # of one class, and of two
    assert affinity_loss(1 - same, mask, (4, 4)).item() == pytest.approx(pairs / (pairs + 1))


def test_undecided_patches_have_no_affinity_gradient():
    affinity = torch.full((1, 4, 4), 0.5, requires_grad=True)
    mask = torch.tensor([[[0, 255], [1, 0]]], dtype=torch.uint8)
    affinity_loss(affinity, mask, (2, 2)).backward()
    reached = affinity.grad[0] != 0
    assert reached.tolist() == [[i != 1 and j != 1 for j in range(4)] for i in range(4)]
    assert affinity.grad[0, 0, 3] < 0 < affinity.grad[0, 0, 2]  # alike up, unlike down


def test_parts_of_a_batch_add_up_to_its_affinity_loss():
    generator = torch.Generator().manual_seed(0)
    affinity = torch.rand(3, 12, 12, generator=generator)
    mask = torch.randint(0, 3, (3, 6, 8), generator=generator).to(torch.uint8)
    mask[0] = 1  # no pair of two classes
    told = []
    whole = affinity_loss(affinity, mask, (3, 4), whole=lambda own: told.append(own) or own)
    parts = [slice(0, 1), slice(1, 3)]
    addends = [
        affinity_loss(affinity[part], mask[part], (3, 4), whole=lambda _: told[0]) for part in parts
    ]
    torch.testing.assert_close(sum(addends), whole)
    mean = sum(affinity_loss(affinity[part], mask[part], (3, 4)) for part in parts) / 2
    assert abs(mean - whole) > 1e-2


# --- CD-CLIP


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
    monkeypatch.setattr(peers, "BLOCK", 100)  # 2 of the 7 rows
    assert torch.equal(jensen_shannon(rows), whole)
    assert max(sizes) <= 100


def literal_cda(affinity: Tensor, features: Tensor, text: Tensor, tau: float) -> Tensor:
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
        wanted = literal_cda(affinity[b], features[b], text, tau).float()
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


# --- our controls


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


def test_the_centre_prior_is_one_minus_the_share_of_the_way_to_the_corner():
    rows, columns = 5, 8
    cam = centre_prior(torch.tensor([[2, 0, -1]]), (rows, columns))
    for y in range(rows):
        for x in range(columns):
            down, right = (y + 0.5) / rows - 0.5, (x + 0.5) / columns - 0.5
            way = (down**2 + right**2) ** 0.5 / 0.5**0.5
            assert cam[0, 0, y, x] == pytest.approx(1 - way, abs=1e-6)
    assert torch.equal(cam[0, 0], cam[0, 1])
    assert not cam[0, 2].any()
    torch.testing.assert_close(cam, cam.flip(-1).flip(-2))
