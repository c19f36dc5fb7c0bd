"""Which images a figure shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.errors import DataError
from ssrseg.paper.image_choice import (
    confusable,
    first_of_several,
    named,
    named_with_truth,
    one_per_class,
)

CLASSES = ("bottle", "chair", "diningtable", "dog", "sofa")


def images(*labels: tuple[int, ...], truth: bool = True) -> LabelledImages:
    samples = [
        Sample(f"i{k}", Path(f"i{k}.jpg"), each, Path(f"i{k}.png") if truth else None)
        for k, each in enumerate(labels)
    ]
    return LabelledImages(Path("photos"), CLASSES, tuple(samples))


DATA = images((), (3,), (1,), (1, 3), (0, 2), (1, 4), (3,), (0, 2, 3))


def shown(choice: object) -> list[tuple[str, str]]:
    return [(each.sample.name, CLASSES[each.class_index]) for each in choice.shown]  # type: ignore[attr-defined]


def test_pairs_that_are_taken_for_each_other_come_first() -> None:
    choice = confusable(DATA, 5)
    assert shown(choice) == [
        ("i5", "sofa"),
        ("i4", "diningtable"),
        ("i3", "chair"),  # several classes, in the order of the split
        ("i7", "bottle"),
        ("i1", "dog"),
    ]
    assert "sofa and chair" in choice.rule
    assert choice.names == ["i5", "i4", "i3", "i7", "i1"]


def test_an_image_is_shown_for_one_pair_only() -> None:
    assert shown(confusable(images((0, 1, 2, 4)), 9)) == [("i0", "sofa")]


def test_one_image_per_class_then_the_rest() -> None:
    assert shown(one_per_class(DATA, 6)) == [
        *(("i1", "dog"), ("i2", "chair"), ("i4", "bottle")),
        # the first of its class, though not by its first label
        *(("i5", "sofa"), ("i7", "diningtable"), ("i3", "chair")),
    ]
    assert len(one_per_class(DATA, 2).shown) == 2


def test_images_with_a_true_mask_come_first() -> None:
    with_truth, without = images((), (), (0,)), images((1,), (0,), truth=False)
    renamed = (replace(sample, name=f"x{sample.name}") for sample in without.samples)
    mixed = LabelledImages(Path("photos"), CLASSES, (*renamed, *with_truth.samples))
    assert [each.sample.truth is None for each in one_per_class(mixed, 3).shown] == [
        False,
        True,
        True,
    ]


def test_the_first_image_of_several_classes_with_truth() -> None:
    assert shown(first_of_several(DATA)) == [("i3", "chair")]
    assert shown(first_of_several(images((3,), (1,)))) == [("i0", "dog")]
    with pytest.raises(DataError, match=r"true mask.*SegmentationClass"):
        first_of_several(images((3,), truth=False))


def test_named_images_and_classes() -> None:
    choice = named(DATA, " i7:dog, i5 ,")
    assert shown(choice) == [("i7", "dog"), ("i5", "chair")]
    assert choice.rule == "named on the command line"


def test_a_named_image_that_needs_a_true_mask() -> None:
    assert shown(named_with_truth(DATA, "i7:dog,i5")) == [("i7", "dog")]
    with pytest.raises(DataError, match=r"i1 of photos is no image that has a true mask"):
        named_with_truth(images((3,), (1,), truth=False), "i1")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("i77", r'no image "i77" among the 8 of photos\. Did you mean "i7"\?'),
        ("i77:dog", r'no image "i77"'),
        ("i7:sofa", r'i7 is labelled bottle, diningtable, dog, not "sofa"'),
        ("i0", r"i0 is labelled with no class\. Leave it away"),
        (" , ", "names no image"),
    ],
)
def test_what_cannot_be_shown(wanted: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        named(DATA, wanted)


def test_no_image_with_a_class() -> None:
    for rule in (confusable, one_per_class):
        with pytest.raises(DataError, match="No image of photos shows a class"):
            rule(images((), ()), 3)
