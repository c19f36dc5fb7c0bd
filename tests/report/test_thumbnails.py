"""Small pictures: sizes, colours, stripes, many classes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ssrseg.overlay import heat, mask_palette
from ssrseg.report.thumbnails import COLOURED, ids_png, map_png, photo_jpeg, thumbnail_size


def rgba(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


@pytest.mark.parametrize(
    ("size", "small"), [((300, 500), (300, 500)), ((3000, 1000), (512, 171)), ((9000, 1), (512, 1))]
)
def test_nothing_is_enlarged(size: tuple[int, int], small: tuple[int, int]) -> None:
    assert thumbnail_size(*size) == small
    photo = np.full((*size, 3), (200, 30, 90), np.uint8)
    found = rgba(photo_jpeg(photo))
    assert found.shape[:2] == small
    assert np.abs(found[..., :3].astype(int) - photo[0, 0]).max() <= 3
    assert rgba(ids_png(np.zeros(size, np.uint8))).shape[:2] == small


def test_a_map_has_the_colours_of_heat() -> None:
    values = np.array([[0, 0.25, 0.5], [0.75, 1, np.nan]], np.float32)
    found = rgba(map_png(values))[..., :3].astype(int)
    wanted = heat(np.nan_to_num(values)).astype(int)
    assert np.abs(found - wanted).max() <= 4  # 64 levels
    assert found[1, 2].tolist() == found[0, 0].tolist()


def test_regions_keep_their_colours_whatever_their_ids() -> None:
    ids = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16), 6, 0).repeat(6, 1)
    found = rgba(ids_png(ids))
    inside = found[2::6, 2::6].reshape(256, 4)
    shown = [*range(1, 254)]  # as many as a palette has room for beside its three others
    assert (inside[shown, :3] == mask_palette()[shown]).all()
    assert (inside[shown, 3] == COLOURED).all()
    assert inside[0, 3] == 0


def test_undecided_pixels_are_striped_and_regions_have_two_lines() -> None:
    ids = np.zeros((40, 40), np.uint8)
    ids[:, 20:] = 255
    ids[10:20, 5:15] = 7
    found = rgba(ids_png(ids))
    stripes = found[30, 22:38]
    assert {tuple(each) for each in stripes.tolist()} == {(0, 0, 0, 255), (255, 255, 255, 255)}
    assert (stripes[:8] == stripes[8:]).all()
    column = [tuple(each) for each in found[7:13, 10].tolist()]
    assert column == [
        (0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 255), (255, 255, 255, 255),
        *[(*mask_palette()[7].tolist(), COLOURED)] * 2,
    ]  # fmt: skip
