from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssrseg.data.naming import Names, match_masks, name_fault, sample_name


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("a.jpg", "a"),
        ("images/a.jpg", "a"),
        ("JPEGImages/x/a.b.JPG", "x/a.b"),
        ("images/images/a.jpg", "images/a"),
        ("images.jpg", "images"),
        ("photos/train/a.jpg", "photos/train/a"),
        ("2024.05.01/a", "2024.05.01/a"),
        ("train2014/COCO_train2014_000000000009.jpg", "train2014/COCO_train2014_000000000009"),
    ],
)
def test_a_name_is_made_of_the_own_path(image: str, name: str) -> None:
    assert sample_name(image) == name
    assert name_fault(name) == ""


def test_what_a_shorter_or_longer_path_means() -> None:
    names = Names(["train/a", "val/a", "val/b", "c"])
    assert names.like("val/a") == ["val/a"]
    assert names.like("a") == ["train/a", "val/a"]
    assert names.like("b") == ["val/b"]
    assert names.like("photos/val/b") == ["val/b"]
    assert names.like("train/b") == []
    assert names.like("x/c") == ["c"]
    assert names.like("al/b") == names.like("d") == []


def test_cocos_numbers_and_no_other_ones() -> None:
    nine = "train2014/COCO_train2014_000000000009"
    names = Names([nine, "camA_20240501123456", "camB_20240501123456", "val/000000000074"])
    for alike in ("000000000009", "train/000000000009", "train2017/000000000009"):
        assert names.like(alike) == [nine]
    assert names.like("COCO_val2014_000000000074") == ["val/000000000074"]
    for other in (
        "val/000000000009",
        "COCO_val2014_000000000009",
        "20240501123456",
        "camC_20240501123456",
    ):
        assert names.like(other) == []


def masks(*names: str) -> dict[str, Path]:
    return {name: Path(f"{name}.png") for name in names}


def test_masks_are_called_like_their_images_or_end_alike_where_that_is_clear() -> None:
    names = ["photos/train/a", "photos/train/b"]
    flat = masks("a", "b", "c")
    wanted = {name: Path(f"{name[-1]}.png") for name in names}
    assert match_masks(names, flat, lambda: names) == (wanted, [])
    more = [*names, "photos/val/c"]
    found, unclear = match_masks(more, flat, lambda: more)
    assert found == {**wanted, "photos/val/c": Path("c.png")}
    twins = [*names, "photos/val/a"]
    assert match_masks(twins, flat, lambda: twins) == (
        {"photos/train/b": Path("b.png")},
        ["photos/train/a", "photos/val/a"],
    )
    # also where only one of the twins is asked for
    assert match_masks(names[:1], flat, lambda: twins) == ({}, ["photos/train/a"])
    own = masks("a", "photos/val/a")
    found, unclear = match_masks(twins, own, lambda: twins)
    assert found == {"photos/val/a": Path("photos/val/a.png")}
    assert unclear == ["photos/train/a"]
    assert match_masks(["a"], masks("x/a", "y/a"), lambda: ["a"]) == ({}, ["a"])
    # the mask of an image that is not in the list is not another one's
    assert match_masks(["train/a"], masks("val/a"), lambda: ["train/a"]) == ({}, [])


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)


@given(st.sets(PATHS), st.sets(PATHS))
def test_no_two_images_ever_have_one_mask(names: set[str], there: set[str]) -> None:
    found, unclear = match_masks(names, masks(*there), lambda: names)
    assert len(set(found.values())) == len(found)
    assert not found.keys() & set(unclear)
    for name in names & there:
        assert found[name] == Path(f"{name}.png")


@given(st.sets(PATHS, min_size=1), PATHS)
def test_another_image_never_gives_an_image_another_mask(names: set[str], added: str) -> None:
    there = masks("a", "b", "a/b", "c/a")
    before, _ = match_masks(names, there, lambda: names)
    after, _ = match_masks(names, there, lambda: names | {added})
    assert after.items() <= before.items()
