from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ssrseg.method.pseudo_mask import IGNORE, class_ids, class_scores

PRESENT = torch.tensor([[4, 0], [2, -1]])


def rand(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_scores_by_hand():
    cam = torch.tensor([[[[2.0, 4.0]], [[0.0, 0.5]]]])
    scores = class_scores(cam, (1, 2))
    assert scores.shape == (1, 3, 1, 2)
    torch.testing.assert_close(scores[0, :, 0], torch.tensor([[1.0, 0], [0, 1], [0, 1]]))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_background_is_what_the_strongest_class_leaves(alpha):
    scores = class_scores(rand(0, 2, 3, 4, 4), (8, 8), alpha=alpha)
    for y, x in [(0, 0), (3, 5), (7, 7)]:
        strongest = max(float(scores[1, c, y, x]) for c in (1, 2, 3))
        assert float(scores[1, 0, y, x]) == pytest.approx((1 - strongest) ** alpha, abs=1e-5)


def test_the_scale_is_set_on_the_patches_then_enlarged():
    """As in CLIP-ES: bilinear values between a 0 and a 1, not stretched again."""
    cam = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])
    row = class_scores(cam, (2, 8))[0, 1, 0]
    torch.testing.assert_close(row, torch.tensor([0, 0, 1, 3, 5, 7, 8, 8]) / 8, atol=1e-6, rtol=0)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), alpha=st.floats(1, 10), gain=st.floats(0.01, 1000))
def test_scores_stay_in_range_whatever_the_cams_scale(seed, alpha, gain):
    cam = rand(seed, 2, 2, 3, 5)
    scores = class_scores(cam, (9, 11), alpha=alpha)
    assert scores.min() >= 0
    assert scores.max() <= 1
    rescaled = class_scores(cam * gain, (9, 11), alpha=alpha)
    torch.testing.assert_close(rescaled, scores, atol=5e-3, rtol=0)


def test_a_plateau_of_ones_enlarged_by_odd_factors_stays_in_range():
    cam = torch.zeros(1, 1, 4, 4)
    cam[..., :3, :3] = 5.0
    for rows in range(3, 40):
        scores = class_scores(cam, (rows * 7, rows * 11), alpha=0.5)
        assert scores.isfinite().all()
        assert scores.max() <= 1


def test_a_larger_alpha_leaves_less_to_the_background():
    cam = rand(1, 2, 2, 6, 6)
    shares = [
        float((class_ids(class_scores(cam, (12, 12), alpha=a), PRESENT) == 0).float().mean())
        for a in (0.5, 1.0, 4.0)
    ]
    assert shares[0] > shares[1] > shares[2]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), min_score=st.sampled_from([None, 0.3, 0.6]))
def test_ids_by_a_loop(seed, min_score):
    scores = rand(seed, 2, 3, 4, 5)
    valid = rand(seed + 1, 2, 4, 5) > 0.2
    ids = class_ids(scores, PRESENT, valid=valid, min_score=min_score)
    assert ids.dtype == torch.uint8
    for b in range(2):
        for y in range(4):
            for x in range(5):
                candidates = {0: float(scores[b, 0, y, x])}
                for slot, c in enumerate(PRESENT[b].tolist()):
                    if c >= 0:
                        candidates[1 + c] = float(scores[b, 1 + slot, y, x])
                best = max(candidates, key=candidates.__getitem__)
                too_low = min_score is not None and candidates[best] < min_score
                wanted = IGNORE if too_low or not valid[b, y, x] else best
                assert int(ids[b, y, x]) == wanted


def test_an_empty_slot_is_never_chosen_however_it_scores():
    scores = torch.zeros(1, 3, 2, 2)
    scores[:, 2] = 9.0
    scores[:, 1] = 0.1
    assert (class_ids(scores, torch.tensor([[6, -1]])) == 7).all()


def test_an_image_without_classes_is_background():
    cam = torch.zeros(1, 2, 3, 3)
    ids = class_ids(class_scores(cam, (6, 6)), torch.tensor([[-1, -1]]))
    assert (ids == 0).all()


def test_the_whole_way_from_cam_to_mask():
    cam = torch.zeros(1, 2, 2, 2)
    cam[0, 0, 0, 0] = 0.2
    cam[0, 1, 1, 1] = 7.0
    ids = class_ids(class_scores(cam, (2, 2)), torch.tensor([[3, 1]]))
    assert ids.tolist() == [[[4, 0], [0, 2]]]
    padded = functional.pad(torch.ones(1, 2, 1, dtype=torch.bool), (0, 1))
    ids = class_ids(class_scores(cam, (2, 2)), torch.tensor([[3, 1]]), valid=padded)
    assert ids.tolist() == [[[4, 255], [0, 255]]]
