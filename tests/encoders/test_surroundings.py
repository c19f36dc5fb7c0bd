"""Background words from the corners of photographs, on pictures that are made up."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
import yaml

from encoders.surroundings import WORDS, guess_surroundings

GREEN, BLUE, WHITE, GREY, BROWN = (
    (70, 120, 50), (110, 160, 220), (225, 228, 232), (120, 118, 116), (140, 115, 90),
)  # fmt: skip


def picture(
    top: tuple[int, int, int], bottom: tuple[int, int, int], *, rough: float = 0.0
) -> np.ndarray:
    """Two halves; ``rough`` is the deviation of the noise in the upper one."""
    rng = np.random.default_rng(0)
    pixels = np.empty((120, 160, 3))
    pixels[:60], pixels[60:] = top, bottom
    pixels[:60] += rng.normal(0, 1, (60, 160, 1)) * rough
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("top", "bottom", "rough", "above", "below"),
    [
        (BLUE, GREEN, 1.0, "sky", "grass"),
        (WHITE, GREEN, 1.0, "cloud", "grass"),
        (GREEN, GREEN, 20.0, "tree", "grass"),
        (BLUE, BLUE, 1.0, "sky", "water"),
        (BLUE, GREY, 1.0, "sky", "road"),
        (BLUE, BROWN, 1.0, "sky", "ground"),
        (GREY, GREEN, 30.0, "building", "grass"),
        (WHITE, BROWN, 1.0, "wall", "ground"),
    ],
)
def test_colour_and_roughness_tell_the_kind(
    top: tuple[int, int, int], bottom: tuple[int, int, int], rough: float, above: str, below: str
) -> None:
    found = guess_surroundings(picture(top, bottom, rough=rough))
    assert [corner.kind for corner in found] == [above, above, below, below]
    assert [(corner.y < 0.5, corner.x < 0.5) for corner in found] == [
        (True, True), (True, False), (False, True), (False, False),
    ]  # fmt: skip


def test_one_green_corner_does_not_make_a_room_a_meadow() -> None:
    room = picture(WHITE, BROWN)
    room[70:, :70] = GREEN
    assert "grass" not in {corner.kind for corner in guess_surroundings(room)}


def test_black_says_nothing() -> None:
    assert guess_surroundings(np.zeros((90, 120, 3), np.uint8)) == ()


def test_the_middle_is_not_looked_at() -> None:
    plain, changed = picture(BLUE, GREEN), picture(BLUE, GREEN)
    changed[30:90, 60:100] = (255, 0, 0)
    assert guess_surroundings(plain) == guess_surroundings(changed)


def test_every_word_is_a_background_prompt() -> None:
    text = (files("ssrseg.networks") / "prompts" / "voc.yaml").read_text(encoding="utf-8")
    prompts = set(yaml.safe_load(text)["background"])
    words = {word for group in WORDS.values() for word in group}
    assert words <= prompts
    # two things that no corner shows; captions of any words name them now and then
    assert prompts - words == {"keyboard", "helmet"}
