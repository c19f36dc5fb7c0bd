from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrseg.method.metrics import (
    activation_shares,
    confusion_matrix,
    error_kinds,
    scores,
    undecided_pixels,
)

# rows = truth: class 0 has 6 hits of 8, class 1 has 3 of 4, class 2 has 2 of 8
MATRIX = torch.tensor([[6, 1, 1], [1, 3, 0], [5, 1, 2]])


def test_three_classes_by_hand():
    result = scores(MATRIX)
    assert result.iou.tolist() == pytest.approx([6 / 14, 3 / 6, 2 / 9])
    assert result.class_precision.tolist() == pytest.approx([6 / 12, 3 / 5, 2 / 3])
    assert result.class_recall.tolist() == pytest.approx([6 / 8, 3 / 4, 2 / 8])
    assert result.miou == pytest.approx((6 / 14 + 3 / 6 + 2 / 9) / 3)
    assert result.precision == pytest.approx((6 / 12 + 3 / 5 + 2 / 3) / 3)
    assert result.recall == pytest.approx((6 / 8 + 3 / 4 + 2 / 8) / 3)
    assert result.confusion_ratio == pytest.approx((6 / 6 + 2 / 3 + 1 / 2) / 3)
    assert result.classes_without_hit == 0


def test_rows_are_truth_and_255_is_not_counted():
    truth = torch.tensor([[0, 0, 1], [2, 255, 255]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 1], [0, 2, 1]])
    assert confusion_matrix(prediction, truth, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_a_class_without_hit_is_left_out_of_the_ratio_only():
    result = scores(torch.tensor([[6, 0, 2], [2, 0, 0], [1, 0, 3]]))
    assert result.classes_without_hit == 1
    assert result.confusion_ratio == pytest.approx((3 / 6 + 2 / 3) / 2)
    assert result.iou.tolist() == pytest.approx([6 / 11, 0, 3 / 6])
    assert result.precision == pytest.approx((6 / 9 + 0 + 3 / 5) / 3)


def test_a_class_without_truth_is_left_out_of_every_mean():
    # class 1: no truth, 2 wrong pixels, which class 0 pays for in its recall
    result = scores(torch.tensor([[6, 2, 0], [0, 0, 0], [0, 0, 4]]))
    for per_class in result.iou, result.class_precision, result.class_recall:
        assert math.isnan(per_class[1])
    assert result.miou == pytest.approx((6 / 8 + 1) / 2)
    assert result.recall == pytest.approx((6 / 8 + 1) / 2)
    assert (result.precision, result.confusion_ratio) == (1, 0)
    assert result.classes_without_hit == 0


def test_nothing_to_score_is_nan_without_a_warning():
    empty = confusion_matrix(torch.zeros(4, dtype=torch.uint8), torch.full((4,), 255), 2)
    result = scores(empty)
    assert math.isnan(result.miou) and math.isnan(result.confusion_ratio)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ([0, 255], [0, 1], r"prediction has class ids \[255\]"),
        ([0, 255], [0, 255], r"prediction has class ids \[255\]"),
        ([0, 3], [0, 1], r"prediction has class ids \[3\] outside \[0, 3\)"),
        ([0, -1], [0, 1], r"prediction has class ids \[-1\]"),
        ([0, 1], [0, 7], r"truth has class ids \[7\]"),
    ],
)
def test_ids_out_of_range_are_refused(prediction, truth, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(torch.tensor(prediction), torch.tensor(truth), 3)


def test_shapes_must_agree(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        confusion_matrix(torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), 2)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n_classes=st.integers(1, 5), pixels=st.integers(1, 40))
def test_equals_counting_sets_of_pixels(data, n_classes, pixels):
    ids = st.integers(0, n_classes - 1)
    prediction = data.draw(st.lists(ids, min_size=pixels, max_size=pixels))
    truth = data.draw(st.lists(ids | st.just(255), min_size=pixels, max_size=pixels))
    cut = data.draw(st.integers(0, pixels))
    streamed = sum(
        confusion_matrix(
            torch.tensor(prediction[part], dtype=torch.uint8),
            torch.tensor(truth[part], dtype=torch.uint8),
            n_classes,
        )
        for part in (slice(cut), slice(cut, None))
    )
    result = scores(streamed)

    iou, precision, recall, ratio = [], [], [], []
    for one in range(n_classes):
        said = {i for i in range(pixels) if prediction[i] == one and truth[i] != 255}
        real = {i for i in range(pixels) if truth[i] == one}
        hits = len(said & real)
        if hits:
            ratio.append(len(said - real) / hits)
        if real:
            iou.append(hits / len(said | real))
            precision.append(hits / len(said) if said else 0)
            recall.append(hits / len(real))
    for actual, values in (
        (result.miou, iou),
        (result.precision, precision),
        (result.recall, recall),
        (result.confusion_ratio, ratio),
    ):
        expected = sum(values) / len(values) if values else math.nan
        assert actual == pytest.approx(expected, nan_ok=True)
    assert result.classes_without_hit == len(iou) - len(ratio)


def test_kinds_of_error_by_hand() -> None:
    #               predicted: background, a, b
    matrix = torch.tensor([[50, 6, 4], [3, 20, 5], [2, 10, 15]])
    found = error_kinds(matrix)
    assert found.hit == pytest.approx(35 / 60)
    assert found.other_class == pytest.approx(15 / 60)
    assert found.background == pytest.approx(10 / 60)
    assert found.missed == pytest.approx(5 / 55)
    assert found.hit + found.other_class + found.background == pytest.approx(1)


def test_kinds_of_error_where_nothing_is_predicted_or_true() -> None:
    found = error_kinds(torch.tensor([[9, 0], [4, 0]]))
    assert math.isnan(found.hit) and math.isnan(found.background)
    assert found.missed == 1.0
    assert math.isnan(error_kinds(torch.tensor([[9, 2], [0, 0]])).missed)


def test_activation_shares_by_hand() -> None:
    cam = torch.tensor([[0.5, 0.25, 1.0], [0.25, 0.0, 1.0]])
    truth = torch.tensor([[2, 0, 255], [1, 2, 0]], dtype=torch.uint8)
    found = activation_shares(cam, truth, 2)
    assert (found.own_class, found.other_classes, found.background) == pytest.approx(
        (0.25, 0.125, 0.625)
    )
    assert math.isnan(activation_shares(torch.zeros(2, 3), truth, 2).own_class)


def test_undecided_pixels_are_missed_but_nobodys_false_hits() -> None:
    truth = torch.tensor([0, 0, 1, 1, 1, 255])
    found = torch.tensor([0, 255, 1, 255, 255, 255])
    undecided = undecided_pixels(found, truth, 2)
    assert undecided.tolist() == [1, 2]
    decided = found != 255
    result = scores(confusion_matrix(found[decided], truth[decided], 2), undecided)
    assert result.iou.tolist() == pytest.approx([1 / 2, 1 / 3])
    assert result.class_recall.tolist() == pytest.approx([1 / 2, 1 / 3])
    assert result.class_precision.tolist() == [1, 1]
