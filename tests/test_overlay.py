"""Colours of maps and masks."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch.nn import functional

from ssrseg.data.class_ids import voc_palette
from ssrseg.overlay import (
    ERROR_COLOURS,
    HATCH_PERIOD,
    error_overlay,
    heat,
    heat_overlay,
    ids_overlay,
    ids_to_rgb,
    line_width,
    mask_palette,
    outlined,
    target_overlay,
    upsample,
)

LUMA = np.array([0.299, 0.587, 0.114])
PALETTE = np.array([(0, 0, 0), (200, 40, 0), (0, 60, 220)], np.uint8)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB colours (IEC 61966-2-1)."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def test_heat_goes_from_black_to_pale_yellow_as_inferno_does() -> None:
    colours = heat(np.array([[0.0, 0.5, 0.55, 1.0]]))
    assert colours.tolist() == [[[0, 0, 4], [188, 55, 84], [204, 66, 72], [252, 255, 164]]]


def test_heat_becomes_lighter_with_every_step() -> None:
    ramp = luminance(heat(np.linspace(0, 1, 64, dtype=np.float32)[None]))[0]
    assert (np.diff(ramp) > 0).all()
    assert ramp[0] < 0.001 and ramp[-1] > 0.9


@pytest.mark.parametrize("wrong", [1.5, -0.1, np.nan])
def test_heat_refuses_what_is_no_share(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        heat(np.array([[0.5, wrong]]))


def test_heat_overlay_mixes_grey_and_colour(image: np.ndarray) -> None:
    values = np.linspace(0, 1, 480).reshape(20, 24)
    grey = np.repeat((image @ LUMA)[..., None], 3, -1)
    assert (heat_overlay(image, values, 0.0) == np.rint(grey)).all()
    assert (heat_overlay(image, values, 1.0) == heat(values)).all()
    quarter = heat_overlay(image, values, 0.25)
    assert np.abs(quarter - (0.75 * grey + 0.25 * heat(values))).max() <= 0.5


def test_strength_is_a_share(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"strength .* not 2"):
        heat_overlay(image, np.zeros((20, 24)), 2.0)


def test_ids_take_the_colour_of_the_palette_and_ignore_is_white() -> None:
    colours = ids_to_rgb(np.array([[0, 1], [2, 255]], np.uint8), PALETTE)
    assert colours.tolist() == [[[0, 0, 0], [200, 40, 0]], [[0, 60, 220], [255, 255, 255]]]


def test_an_id_without_colour_is_named() -> None:
    with pytest.raises(ValueError, match="class id 7 has no colour among 3"):
        ids_to_rgb(np.array([[7, 255]], np.uint8), PALETTE)


def test_ids_overlay_greys_the_background_and_leaves_its_input_untouched(image: np.ndarray) -> None:
    before = image.copy()
    ids = np.zeros((20, 24), np.uint8)
    assert (ids_overlay(image, ids, PALETTE) == np.rint(image @ LUMA)[..., None]).all()
    ids[4:12, 4:12], ids[4:12, 12:20], ids[14:18, 4:20] = 1, 2, 255
    out = ids_overlay(image, ids, PALETTE)
    assert (out[:3] == np.rint(image @ LUMA)[:3, :, None]).all()
    assert (image == before).all()


def test_ids_overlay_tints_inside_and_outlines_in_white_and_black(image: np.ndarray) -> None:
    ids = np.zeros((20, 24), np.uint8)
    ids[4:12, 4:12], ids[4:12, 12:20] = 1, 2
    out = ids_overlay(image, ids, PALETTE, strength=0.6)
    inside = 0.4 * (image @ LUMA)[5:11, 5:11, None] + 0.6 * PALETTE[1]
    assert np.abs(out[5:11, 5:11] - inside).max() <= 0.5
    for border in (out[4, 4:20], out[11, 4:20], out[4:12, 4], out[4:12, 11], out[4:12, 12]):
        assert (border == 255).all()
    for around in (out[3, 4:20], out[12, 4:20], out[4:12, 3], out[4:12, 20]):
        assert (around == 0).all()


def test_the_border_of_the_photograph_is_no_outline(image: np.ndarray) -> None:
    everywhere = np.ones((20, 24), np.uint8)
    out = ids_overlay(image, everywhere, PALETTE, strength=0.0)
    assert (out == np.rint(image @ LUMA)[..., None]).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_undecided_pixels_are_striped_black_and_white(level: int) -> None:
    ids = np.zeros((32, 32), np.uint8)
    ids[4:28, 4:28] = 255
    out = ids_overlay(np.full((32, 32, 3), level, np.uint8), ids, PALETTE, strength=1.0)
    rows, columns = np.indices(ids.shape)
    white = (rows + columns) % HATCH_PERIOD < HATCH_PERIOD // 2
    inside = ids == 255
    assert (out[inside & white] == 255).all() and (out[inside & ~white] == 0).all()
    assert (out[~inside] == level).all()


def test_lines_grow_with_the_picture() -> None:
    assert [line_width((side, side, 3)) for side in (20, 128, 320, 512)] == [1, 1, 2, 3]
    ids = np.zeros((512, 512), np.uint8)
    ids[100:400, 100:400] = 1
    out = ids_overlay(np.full((512, 512, 3), 128, np.uint8), ids, PALETTE)
    assert (out[250, 94:106, 0] == [128] * 3 + [0] * 3 + [255] * 3 + [out[250, 110, 0]] * 3).all()


def test_mask_colours_differ_from_each_other_and_from_grey() -> None:
    palette = mask_palette()
    assert palette.shape == (256, 3) and (palette[0] == 0).all()
    lab = rgb2lab(palette[1:22] / 255)  # VOC's classes and one more
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(21)
    assert apart.min() > 35
    assert apart[:12, :12].min() > 45  # the demo's classes
    assert np.hypot(lab[:, 1], lab[:, 2]).min() > 50
    assert len(np.unique(palette, axis=0)) == 256
    voc = rgb2lab(voc_palette()[1:22] / 255)
    assert (np.linalg.norm(voc[:, None] - voc[None], axis=-1) + 1000 * np.eye(21)).min() < 25


def test_target_overlay_keeps_targets_and_greys_the_rest(image: np.ndarray) -> None:
    target = np.zeros((20, 24), bool)
    target[5:10, 6:12] = True
    out = target_overlay(image, target)
    assert (out[target] == image[target]).all()
    for line in (out[4, 6:12], out[10, 6:12], out[5:10, 5], out[5:10, 12]):
        assert (line == 255).all()
    assert (out[4, 5] == out[4, 5, 0]).all() and out[4, 5, 0] < 255  # corners are no neighbours
    rest = out[12:]
    assert (rest == rest[..., :1]).all()
    assert np.abs(rest[..., 0] - (0.35 * (image @ LUMA)[12:] + 40)).max() <= 0.5


def test_upsample_is_bilinear_between_cell_centres() -> None:
    values = np.random.default_rng(1).random((5, 7), dtype=np.float32)
    expected = functional.interpolate(
        torch.from_numpy(values)[None, None], (40, 63), mode="bilinear", align_corners=False
    )
    assert np.abs(upsample(values, (40, 63)) - expected[0, 0].numpy()).max() < 1e-6


def test_upsample_stays_within_the_range() -> None:
    values = np.random.default_rng(2).random((6, 6))
    enlarged = upsample(values, (50, 41))
    assert enlarged.shape == (50, 41)
    assert enlarged.min() >= values.min() and enlarged.max() <= values.max()
    assert (upsample(np.ones((3, 3)), (10, 10)) == 1).all()


@pytest.mark.parametrize(
    ("overlay", "arguments"),
    [
        (heat_overlay, (np.zeros((10, 24)),)),
        (ids_overlay, (np.zeros((10, 24), np.uint8), PALETTE)),
        (target_overlay, (np.zeros((10, 24), bool),)),
    ],
)
def test_maps_of_another_size_are_refused(
    image: np.ndarray, overlay: Callable[..., np.ndarray], arguments: tuple[np.ndarray, ...]
) -> None:
    # Unwrapped, as users run it: the shape checks of the test run would refuse it before.
    with pytest.raises(ValueError, match=r"\(20, 24, 3\) and map \(10, 24\)"):
        inspect.unwrap(overlay)(image, *arguments)


def test_a_line_runs_just_outside_a_region(image: np.ndarray) -> None:
    region = np.zeros((20, 24), bool)
    region[5:9, 6:10] = True
    out = outlined(image, region)
    changed = (out != image).any(-1)
    assert (out[changed] == 255).all()
    expected = np.zeros((20, 24), bool)
    expected[4, 6:10] = expected[9, 6:10] = expected[5:9, 5] = expected[5:9, 10] = True
    assert (changed <= expected).all() and (out[expected] == 255).all()
    assert (outlined(image, np.ones((20, 24), bool)) == image).all()


def test_errors_have_the_colour_of_their_kind() -> None:
    image = np.full((1, 7, 3), 100, np.uint8)
    predicted = np.array([[1, 1, 1, 0, 0, 255, 2]], np.uint8)
    truth = np.array([[1, 2, 0, 2, 0, 1, 255]], np.uint8)
    kinds = ["hit", "other class", "background", "missed", None, None, None]
    out = error_overlay(image, predicted, truth, strength=1.0)
    for column, kind in enumerate(kinds):
        assert tuple(out[0, column]) == (ERROR_COLOURS[kind] if kind else (100, 100, 100))
    half = error_overlay(image, predicted, truth, strength=0.5)
    assert tuple(half[0, 0]) == (50, 129, 108)  # half of (0, 158, 115) and half of grey 100


def test_errors_of_another_size(image: np.ndarray) -> None:
    ids = np.zeros((20, 24), np.uint8)
    with pytest.raises(ValueError, match="differ"):
        inspect.unwrap(error_overlay)(image, ids, ids[:-1])
