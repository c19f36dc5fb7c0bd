from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ssrseg.method.objective import segmentation_loss, ssr_loss


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


def test_parts_of_a_batch_add_up_to_it():
    logits, ids = case(2)
    parts = [(logits[:1], ids[:1]), (logits[1:], ids[1:])]
    # the first part has little background, so that a mean of two means would be another
    ids[0][ids[0] == 0] = 1
    ids[0, 0, 0] = 0
    counts = torch.stack([(ids == 0).sum(), ((ids > 0) & (ids != 255)).sum()])
    whole = segmentation_loss(logits, ids)
    addends = [segmentation_loss(*part, whole=lambda _: counts) for part in parts]
    torch.testing.assert_close(sum(addends), whole)
    mean = sum(segmentation_loss(*part) for part in parts) / 2
    assert abs(mean - whole) > 1e-2


def test_logits_are_resized_to_the_mask_and_images_do_not_interact():
    logits = torch.randn(3, 4, 5, 6, requires_grad=True)
    ids = torch.randint(0, 4, (3, 11, 17)).to(torch.uint8)
    at_size = functional.interpolate(logits, (11, 17), mode="bilinear")
    wanted = functional.cross_entropy(at_size, ids.long(), reduction="none")
    wanted = (wanted[ids == 0].mean() + wanted[ids > 0].mean()) / 2
    found = segmentation_loss(logits, ids)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(each, logits)[0] for each in (found, wanted)))


@pytest.mark.parametrize(("weight", "wanted"), [(0.1, 2.4), (0.0, 2.0), (1.0, 6.0)])
def test_ssr_loss(weight, wanted):
    proto, seg = torch.tensor(2.0, requires_grad=True), torch.tensor(4.0, requires_grad=True)
    loss = ssr_loss(proto, seg, seg_weight=weight)
    assert loss.item() == pytest.approx(wanted)
    loss.backward()
    assert (proto.grad.item(), seg.grad.item()) == pytest.approx((1.0, weight))


def test_the_papers_weight_is_a_tenth():
    assert ssr_loss(torch.tensor(0.0), torch.tensor(1.0)).item() == pytest.approx(0.1)
