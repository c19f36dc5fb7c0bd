"""The photographs that come with the package: whose they are, what they show, how large."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from ssrseg.data.images import read_image
from ssrseg.data.open import open_images, open_labelled
from ssrseg.demo.photographs import SAMPLE, read_credits
from ssrseg.errors import DataError
from ssrseg.packaged import unpacked

FREE = {"public domain", "CC0 1.0", "CC BY 1.0", "CC BY 2.0"}


def test_they_open_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = open_labelled("ssrseg:photos/sample")
    labels = {each.name: [data.classes[k] for k in each.labels] for each in data.samples}
    assert len(labels) == 14
    assert labels["bee"] == ["bee", "flower"]
    assert labels["pan"] == ["frying pan"]
    assert data.prompts["rocket"] == "missile"
    assert data.notices == ()
    assert open_images(Path(SAMPLE)) == {each.name: each.image for each in data.samples}
    assert {label for each in labels.values() for label in each} == set(data.classes)


def test_another_name_is_no_folder() -> None:
    with pytest.raises(DataError, match=r"photos.smaple"):
        open_labelled("ssrseg:photos/smaple")


def test_each_is_free_and_says_whose_it_is() -> None:
    data, owners = open_labelled(SAMPLE), read_credits()
    assert list(owners) == [each.name for each in data.samples]
    for owner in owners.values():
        terms = owner.pop("terms", "")
        assert owner.keys() == {"title", "author", "licence", "source", "from"}
        assert terms.startswith("https://creativecommons.org/") == owner["licence"].startswith("CC")
        assert owner["licence"] in FREE
        assert re.fullmatch(r"https://\S+", owner["source"])


def test_they_are_small() -> None:
    files = [each.image for each in open_labelled(SAMPLE).samples]
    assert max(max(read_image(file).shape[:2]) for file in files) == 512
    assert sum(file.stat().st_size for file in files) < 500_000
    for file in files:
        with Image.open(file) as image:
            assert image.format == "JPEG"
            assert not image.getexif()


def test_nothing_lies_beside_them() -> None:
    folder = Path(unpacked(SAMPLE))
    images = {each.image for each in open_labelled(SAMPLE).samples}
    words = {folder / name for name in ("labels.csv", "classes.yaml", "credits.yaml")}
    assert {path for path in folder.rglob("*") if path.is_file()} == images | words
