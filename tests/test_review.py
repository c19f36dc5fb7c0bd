from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from ssrseg.review import (
    DOUBTFUL,
    Doubt,
    Review,
    describe_reviews,
    review_mask,
    review_order,
    review_prediction,
    write_doubts,
)

CLASSES = ("cat", "dog", "bird")


def found(ids: torch.Tensor, **evidence: float) -> Review:
    """A mask of cat and dog whose scores are certain, and whose CAMs agree."""
    scores = torch.stack([ids == 0, ids == 1, ids == 2]).float()
    cam = torch.rand(2, 4, 4)
    known = {"cat": 0.5, "dog": 0.5, "bird": 0.01} | evidence
    return review_mask(scores, ids, (cam, cam), (0, 1), known, CLASSES)


@pytest.fixture
def ids() -> torch.Tensor:
    ids = torch.zeros(10, 10, dtype=torch.uint8)
    ids[2:5, 2:5], ids[6:9, 2:8] = 1, 2
    return ids


def test_a_certain_mask_inside_the_image(ids: torch.Tensor) -> None:
    assert found(ids) == Review(1.0)


def test_the_outline_that_is_covered_lowers_the_score(ids: torch.Tensor) -> None:
    ids[:, 0] = 1
    assert found(ids).score == pytest.approx(1 - 10 / 36, abs=1e-3)
    ids[:, 9], ids[0] = 1, 1
    review = found(ids)
    assert review.score == pytest.approx(1 - 28 / 36, abs=1e-3)
    assert review.reasons == ("mask runs along the edge of the image",)


def test_a_label_that_the_image_does_not_look_like(ids: torch.Tensor) -> None:
    review = found(ids, dog=DOUBTFUL / 2, bird=0.75)
    assert review.score == pytest.approx((1 + 1 + 0.5) / 3, abs=1e-3)
    assert review.reasons == ("hardly looks like dog", "looks like bird too")
    assert review.doubts == (Doubt("dog", True, DOUBTFUL / 2), Doubt("bird", False, 0.75))
    assert found(ids, dog=DOUBTFUL, bird=0.19).reasons == ()


def test_a_class_without_evidence_was_added_later(ids: torch.Tensor) -> None:
    scores = torch.stack([ids == 0, ids == 1]).float()
    cam = torch.rand(1, 4, 4)
    review = review_mask(scores, ids, (cam, cam), (0,), {"cat": 0.5}, CLASSES)
    assert review.doubts == ()


def test_a_label_without_a_pixel(ids: torch.Tensor) -> None:
    ids[ids == 2] = 0
    review = found(ids)
    assert review.reasons == ("nothing of dog found",)
    assert review.score == pytest.approx(2 / 3, abs=1e-3)


def test_masks_that_cover_almost_everything_or_nothing(ids: torch.Tensor) -> None:
    ids[1:9, 1:], ids[0, 1:] = 1, 2
    assert "mask covers almost everything" in found(ids).reasons
    ids[:] = 0
    ids[4, 4], ids[5, 5] = 1, 2
    assert found(ids).reasons == ("mask covers almost nothing",)


def test_low_confidence_and_cams_that_disagree(ids: torch.Tensor) -> None:
    cam = torch.zeros(2, 4, 4)
    cam[0, :, :2], cam[1, :, 2:] = 0.9, 0.9
    known = dict.fromkeys(CLASSES[:2], 0.5)
    scores = torch.ones(3, 10, 10)
    review = review_mask(scores, ids, (cam, cam.flip(0)), (0, 1), known, CLASSES)
    assert review.reasons == ("low confidence", "CAM and refined CAM disagree")


def test_an_image_of_none_of_the_classes() -> None:
    ids = torch.zeros(5, 5, dtype=torch.uint8)
    cam = torch.zeros(0, 4, 4)
    known = {"cat": 0.9, "dog": 0.01, "bird": 0.0}
    review = review_mask(torch.ones(2, 5, 5), ids, (cam, cam), (), known, CLASSES)
    assert review == Review(1.0, ("looks like cat too",), (Doubt("cat", False, 0.9),))


def test_a_prediction_counts_the_classes_that_it_shows(ids: torch.Tensor) -> None:
    probabilities = torch.full((4, 10, 10), 0.1)
    probabilities[ids.long(), torch.arange(10)[:, None], torch.arange(10)] = 0.7
    review = review_prediction(probabilities, ids)
    expected = [0.7 * n / (n + 0.1 * (100 - n)) for n in (73, 9, 18)]
    assert review.score == pytest.approx(sum(expected) / 3, abs=1e-3)
    assert review.doubts == ()
    empty = review_prediction(probabilities, torch.zeros_like(ids))
    assert empty.reasons == ("mask covers almost nothing",)


def test_text_and_back() -> None:
    review = Review(0.125, ("nothing of käfer found",), (Doubt("\udce4", True, 0.01),))
    assert review.to_text().isascii()
    assert Review.from_text(review.to_text()) == review
    damaged = ("", "3", "{}", '{"score": "a", "reasons": [], "doubts": []}', '{"score": NaN}')
    assert [Review.from_text(text) for text in damaged] == [None] * 5


def test_order_and_what_is_told(tmp_path: Path) -> None:
    doubt = Doubt("dog", True, 0.01)
    reviews = {f"i{n}": Review(n / 10, (f"reason {n}", "low confidence")) for n in range(7)}
    reviews["b"], reviews["a"] = Review(0.05, ("x",), (doubt,)), Review(0.05, (), (doubt, doubt))
    ordered = review_order(reviews)
    assert list(ordered)[:4] == ["i0", "a", "b", "i1"]
    lines = describe_reviews(tmp_path, ordered)
    assert len(lines) == 7 and "columns score and reasons" in lines[0]
    assert lines[1:3] == ["  0.000  i0  reason 0; low confidence", "  0.050  a"]
    assert lines[6].startswith("Labels to check: 3 in 2 images")
    assert describe_reviews(tmp_path, {}) == []


def test_labels_to_check(tmp_path: Path) -> None:
    reviews = {
        "a": Review(0.5, (), (Doubt("dog", True, 0.05), Doubt("cat", False, 0.3))),
        "=b": Review(0.9, (), (Doubt("dog", False, 0.6), Doubt("cat", True, 0.01))),
    }
    write_doubts(tmp_path, reviews)
    lines = (tmp_path / "labels_to_check.csv").read_text().splitlines()
    assert [tuple(row.values()) for row in csv.DictReader(lines)] == [
        ("'=b", "cat", "yes", "0.0100"),
        ("a", "dog", "yes", "0.0500"),
        ("'=b", "dog", "no", "0.6000"),
        ("a", "cat", "no", "0.3000"),
    ]
    write_doubts(tmp_path, {"a": Review(0.5)})
    assert not (tmp_path / "labels_to_check.csv").exists()
