from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ssrseg.method.evidence import (
    cam_disagreement,
    class_evidence,
    expected_iou,
    outline_share,
    pixel_confidence,
)


def test_class_evidence_is_the_mean_of_the_best_twentieth() -> None:
    features, text = torch.randn(2, 60, 5), torch.randn(4, 5)
    found = class_evidence(features, text, 3.0, 3)
    assert found.shape == (2, 3)
    for image in range(2):
        rows = []
        for patch in features[image]:
            cosine = torch.stack(
                [functional.cosine_similarity(patch, word, dim=0) for word in text]
            )
            rows.append((3.0 * cosine).softmax(0))
        for index in range(3):
            best = sorted((float(row[index]) for row in rows), reverse=True)[:3]
            assert found[image, index].item() == pytest.approx(sum(best) / 3, abs=1e-5)


def test_class_evidence_of_few_patches_is_the_best_one() -> None:
    features, text = torch.eye(2)[None], torch.eye(2)
    found = class_evidence(features, text, 2.0, 2)
    assert found[0].tolist() == pytest.approx([torch.tensor([2.0, 0.0]).softmax(0)[0].item()] * 2)


def test_pixel_confidence() -> None:
    scores = torch.tensor([[[3.0, 0.0]], [[1.0, 0.0]]])
    assert pixel_confidence(scores).tolist() == [[0.75, 0.0]]


def test_expected_iou_of_certain_scores_is_one_where_they_are_chosen() -> None:
    ids = torch.tensor([[0, 0, 3], [0, 3, 3]], dtype=torch.uint8)
    channels = torch.tensor([0, 3])
    certain = torch.stack([ids == 0, ids == 3]).float() * 7
    assert expected_iou(certain, ids, channels).tolist() == pytest.approx([1.0, 1.0])
    assert expected_iou(certain.flip(0), ids, channels).tolist() == pytest.approx([0.0, 0.0])


def test_expected_iou_by_hand() -> None:
    # two pixels, the first chosen: 0.8 / (1 + 0.3); the second is undecided
    scores = torch.tensor([[[0.8, 0.3]], [[0.2, 0.7]]])
    ids = torch.tensor([[5, 255]], dtype=torch.uint8)
    found = expected_iou(scores, ids, torch.tensor([5, 6]))
    assert found.tolist() == pytest.approx([0.8 / 1.3, 0.0])


def test_expected_iou_is_that_of_masks_drawn_from_the_scores() -> None:
    scores = torch.rand(3, 40, 40) ** 3
    ids = scores.argmax(0).byte()
    share = (scores / scores.sum(0)).flatten(1).T
    drawn = torch.multinomial(share, 200, replacement=True).T.view(200, 40, 40)
    found = expected_iou(scores, ids, torch.arange(3))
    for index in range(3):
        hit = ((drawn == index) & (ids == index)).sum((1, 2))
        union = ((drawn == index) | (ids == index)).sum((1, 2))
        assert found[index].item() == pytest.approx((hit / union).mean().item(), abs=0.01)


def test_outline_share_counts_each_outer_pixel_once() -> None:
    ids = torch.zeros(4, 5, dtype=torch.uint8)
    ids[1:3, 1:4] = 2  # inside
    assert outline_share(ids) == 0
    ids[0, :3], ids[3, 4] = 1, 255
    assert outline_share(ids) == pytest.approx(3 / 14)
    assert outline_share(torch.ones(4, 5, dtype=torch.uint8)) == 1


def test_cam_disagreement() -> None:
    cam = torch.tensor([[[0.9, 0.1, 0.6, 0.2]], [[0.3, 0.2, 0.7, 0.9]]])
    assert cam_disagreement(cam, cam) == 0
    other = cam.clone()
    other[:, 0, 0] = torch.tensor([0.2, 0.3])  # now background
    assert cam_disagreement(cam, other) == 0.25
    assert cam_disagreement(cam[:0], cam[:0]) == 0
