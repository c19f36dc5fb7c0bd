"""What the small CLIP learns, against closed forms and the library's own forward."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.clip import ClipObjective, ClipRecipe, clip_loss, contrast, encode_windows
from encoders.scenes import CaptionedScenes, caption_windows
from ssrseg.demo.scenes import render_scene
from ssrseg.networks.clip import PIXEL_MEAN, PIXEL_STD, FrozenCLIP

TINY = ClipRecipe(
    views=32, batch=8, width=32, depth=2, heads=2, text_width=16, text_depth=1, dim=16,
    late_share=0.25,
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> CaptionedScenes:
    return CaptionedScenes(TINY, checked=1)


def test_whole_picture_as_window_is_the_librarys_forward(scenes: CaptionedScenes) -> None:
    model = ClipObjective(TINY, scenes).build_model().eval()
    pixels = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        tokens = encode_windows(model, pixels, torch.arange(256).expand(2, -1))
        expected = model.get_image_features(pixels).pooler_output
    assert torch.allclose(tokens[:, 0], expected, atol=1e-5)


def test_windows_come_with_the_places_of_their_patches() -> None:
    # a scene that holds its own coordinates: every patch must lie where it says it does
    index = np.arange(16).repeat(8).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(index[:, None], index[None, :], index[None, :]), -1)
    scene = replace(render_scene(0), image=image)
    batch = caption_windows(TINY, [scene], step=0)
    assert batch.pixels.shape == (8, 3, 48, 48)
    assert len(batch.captions) == 8
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    raw = (255 * (batch.pixels * std[:, None, None] + mean[:, None, None])).round().long()
    raw = raw[:, :, ::8, ::8].flatten(2)
    assert torch.equal(raw[:, 0], batch.places // 16)
    assert torch.equal(raw[:, 1], batch.places % 16)
    assert caption_windows(TINY, [scene], step=3).pixels.shape == (8, 3, 96, 96)


def test_equal_captions_are_not_negatives() -> None:
    scale = torch.tensor(1.0)
    cosines = torch.tensor([[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    same = cosines > 0
    row = math.log(2 * math.e + 1 / math.e) - 1
    column = row
    last = math.log(math.e + 2 / math.e) - 1
    expected = (2 * row + last) / 3 / 2 + (2 * column + last) / 3 / 2
    assert contrast(cosines, same, scale).item() == pytest.approx(expected, abs=1e-6)


def test_pointing_finds_the_patch_that_the_mean_loses() -> None:
    # image k holds thing k in one patch of nine, the rest shows thing 3, which no text names
    basis = torch.eye(4)
    tokens = basis[3].expand(3, 10, 4).clone()
    for k in range(3):
        tokens[k, 4] = basis[k]
    texts, same, scale = basis[:3], torch.eye(3, dtype=torch.bool), torch.tensor(20.0)
    cls, mean, pointed = (
        clip_loss(tokens, texts, same, scale, weights).item()
        for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    )
    assert cls == pytest.approx(math.log(3), abs=1e-5)
    assert pointed < 1e-6 < mean < cls


def test_exported_model_is_half_precision_and_loads(
    scenes: CaptionedScenes, tmp_path: Path
) -> None:
    objective = ClipObjective(TINY, scenes)
    model = objective.build_model().eval()
    objective.export(model, tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    parameters = sum(value.numel() for value in model.parameters())
    assert size < 2 * parameters + 30_000
    clip = FrozenCLIP.load(tmp_path)
    pixels = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        expected = model.get_image_features(pixels).pooler_output
        found = clip.model.get_image_features(pixels).pooler_output
    assert torch.allclose(found, expected, atol=5e-3)
