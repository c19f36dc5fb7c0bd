from __future__ import annotations

from pathlib import Path

import pytest

from ssrseg.data.find_images import ImageFinder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "x/a.JPG", "x/b.jpg", "x/b.JPG", "x/u\u0308.png", "x/c.Jpg", "x/c.JPG",
        "o\u0308/d.jpg", "n/000000000009.jpg", "n/000000000009.txt",
        "n/COCO_val2014_000000000042.jpg", "n/camA_000000000007.jpg",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("x/a.JPG", "x/a.JPG"),
        ("x/a.jpg", "x/a.JPG"),
        ("x/A.jpg", None),
        ("x/b.jpg", "x/b.jpg"),
        ("x/b.JPG", "x/b.JPG"),
        ("x/c.jpg", None),  # two files might be meant
        ("x/\u00fc.PNG", "x/u\u0308.png"),
        ("\u00f6/d.jpg", "o\u0308/d.jpg"),
        ("x/e.jpg", None),
        ("nowhere/a.jpg", None),
        ("", None),
        ("x/a\0.jpg", None),
        ("a/" * 3000 + "b.jpg", None),
        ("a" * 5000, None),
    ],
)
def test_spellings(root: Path, wanted: str, found: str | None) -> None:
    assert ImageFinder(root).find(wanted) == found


def test_both_forms_of_an_accent_are_two_files(tmp_path: Path) -> None:
    for name in ("\u00fc.jpg", "u\u0308.jpg"):
        (tmp_path / name).touch()
    finder = ImageFinder(tmp_path)
    assert finder.find("\u00fc.jpg") == "\u00fc.jpg"
    assert finder.find("u\u0308.jpg") == "u\u0308.jpg"


def test_cocos_numbers(root: Path) -> None:
    finder = ImageFinder(root)
    named = "n/COCO_train2014_000000000009.jpg"
    assert finder.find(named, numbered=True) == "n/000000000009.jpg"
    assert finder.find(named) is None
    assert finder.find("n/000000000042.jpg", numbered=True) == "n/COCO_val2014_000000000042.jpg"
    # another split's, and a camera's: not COCO's name
    assert finder.find("n/COCO_train2014_000000000042.jpg", numbered=True) is None
    assert finder.find("n/000000000007.jpg", numbered=True) is None
    assert finder.find("n/camB_000000000007.jpg", numbered=True) is None
