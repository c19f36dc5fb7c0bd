"""What the photo CLIP is said to know covers what the package asks it by itself."""

from __future__ import annotations

import pytest

from encoders.words import KINDS, NAMES, TAGS, known_names
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.data.open import open_labelled
from ssrseg.networks.vocabulary import build_vocabulary, describe_unlearnt


def test_names_are_in_order_and_in_lower_case() -> None:
    names = known_names()
    assert list(names) == sorted({name.lower() for name in names})
    assert {*NAMES, *KINDS, *TAGS} - set(names) == set()
    assert len(names) == 1125


@pytest.mark.parametrize("classes", [VOC_CLASSES, ("dog",)])
def test_vocs_prompts_and_backgrounds_are_known(classes: tuple[str, ...]) -> None:
    assert describe_unlearnt(build_vocabulary(classes, "voc"), set(known_names())) == ""


def test_the_labels_of_the_sample_are_known() -> None:
    data = open_labelled("ssrseg:photos/sample")
    vocabulary = build_vocabulary(data.classes, "voc", data.prompts)
    assert describe_unlearnt(vocabulary, set(known_names())) == ""


@pytest.mark.parametrize(
    ("name", "known"),
    [("axolotl", True), ("dog", True), ("suspension bridge", True), ("Golden Retriever", True),
     ("my dog", False), ("panda", False), ("suspension tower", False), ("moose", False)],
)  # fmt: skip
def test_which_names_are_known(name: str, known: bool) -> None:
    said = describe_unlearnt(build_vocabulary((name,), "voc"), set(known_names()))
    assert said.startswith(f'CLIP has not learnt "{name}": ') != known
