from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssrseg.method.objective import affinity_loss, image_loss, segmentation_loss, ssr_loss


def case(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 3, 5, generator=generator)
    ids = torch.tensor([0, 0, 0, 1, 2, 3, 255], dtype=torch.uint8)
    return logits, ids[torch.randint(0, 7, (2, 3, 5), generator=generator)]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_segmentation_loss_by_a_loop(seed):
    logits, ids = case(seed)
    background, foreground = [], []
    for b in range(2):
        for y in range(3):
            for x in range(5):
                c = int(ids[b, y, x])
                if c == 255:
                    continue
                e = logits[b, :, y, x].exp()
                (foreground if c else background).append(float(-torch.log(e[c] / e.sum())))
    wanted = sum(sum(half) / max(len(half), 1) for half in (background, foreground)) / 2
    assert float(segmentation_loss(logits, ids)) == pytest.approx(wanted, abs=1e-5)


def test_both_halves_weigh_the_same_whatever_their_size():
    logits = torch.zeros(1, 2, 1, 100)
    ids = torch.zeros(1, 1, 100, dtype=torch.uint8)
    ids[..., 0] = 1
    logits[:, 0] = 3.0
    right, wrong = torch.tensor(3.0).sigmoid().log(), torch.tensor(-3.0).sigmoid().log()
    torch.testing.assert_close(segmentation_loss(logits, ids), -(right + wrong) / 2)


@pytest.mark.parametrize("only", [0, 2])
def test_a_missing_half_counts_zero(only):
    logits, _ = case(0)
    ids = torch.full((2, 3, 5), only, dtype=torch.uint8)
    wanted = -logits.log_softmax(1)[:, only].mean() / 2
    torch.testing.assert_close(segmentation_loss(logits, ids), wanted)


def test_nothing_but_ignore_gives_zero_and_a_zero_gradient():
    logits = case(0)[0].requires_grad_()
    loss = segmentation_loss(logits, torch.full((2, 3, 5), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_ignored_pixels_have_no_gradient_and_the_others_have():
    logits, ids = case(1)
    logits.requires_grad_()
    segmentation_loss(logits, ids).backward()
    reached = logits.grad.abs().sum(1) > 0
    assert torch.equal(reached, ids != 255)


@pytest.mark.parametrize(("weight", "wanted"), [(0.1, 2.4), (0.0, 2.0), (1.0, 6.0)])
def test_ssr_loss(weight, wanted):
    proto, seg = torch.tensor(2.0, requires_grad=True), torch.tensor(4.0, requires_grad=True)
    loss = ssr_loss(proto, seg, seg_weight=weight)
    assert loss.item() == pytest.approx(wanted)
    loss.backward()
    assert (proto.grad.item(), seg.grad.item()) == pytest.approx((1.0, weight))


def test_the_papers_weight_is_a_tenth():
    assert ssr_loss(torch.tensor(0.0), torch.tensor(1.0)).item() == pytest.approx(0.1)


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


def test_image_loss_by_hand():
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-3.0, 0.0], [0.6, 0.8]])  # the last: background
    labels = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 0]]).bool()
    found = image_loss(image, torch.tensor([0, 1, 1]), labels, text, 0.5)
    e = math.exp
    wanted = (
        -math.log(e(2) / (e(2) + e(-2)))  # class 0 against class 2; class 1 is there too
        - math.log(e(0) / (e(0) + e(-2)))  # class 1 of the same image, likewise
        - math.log(e(2) / (e(2) + e(0) + e(0)))  # class 1 against classes 0 and 2
    ) / 3
    assert found.item() == pytest.approx(wanted, abs=1e-6)


def test_image_loss_reaches_the_image_and_no_text():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, 3, generator=generator, requires_grad=True)
    text = torch.randn(5, 3, generator=generator, requires_grad=True)
    labels = torch.eye(4, dtype=torch.bool)
    image_loss(image, torch.arange(4), labels, text, 0.1).backward()
    assert image.grad.abs().sum(1).min() > 0
    assert text.grad is None
