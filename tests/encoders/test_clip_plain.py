"""The other photo CLIP, a plain ViT: what it sees, and what is written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_photos import CLIP

from encoders.clip_photos import encode_stem
from encoders.clip_plain import PlainClipObjective, PlainClipRecipe
from encoders.photos import GRID, SIDE, Photo, draw_view
from encoders.pretrain import Pretraining
from ssrseg.networks.clip import FrozenCLIP


@pytest.fixture
def objective(hasty: None, photos: tuple[Photo, ...], cache: Path) -> PlainClipObjective:
    return PlainClipObjective(PlainClipRecipe(**asdict(CLIP)), photos, photos, cache)


def test_it_sees_the_pixels_of_the_windows_that_the_teachers_see(
    objective: PlainClipObjective, photos: tuple[Photo, ...]
) -> None:
    views = np.array([1, 0]), np.array([3, 5])
    channels = torch.zeros(2, 1, GRID, GRID)
    seen = objective._seen(views, channels, slice(2, 8), slice(4, 10))
    assert seen.shape == (2, 3, 96, 96)
    for window, view, index in zip(seen, *views, strict=True):
        pixels, _ = draw_view(photos[index], view, index, CLIP.seed)
        assert torch.equal(window, pixels[:, 32:128, 64:160])
    whole = objective._seen(views, channels, slice(GRID), slice(GRID))
    assert whole.shape == (2, 3, SIDE, SIDE)


def test_it_learns_and_the_exported_folder_is_what_was_trained(
    objective: PlainClipObjective, tmp_path: Path
) -> None:
    run = Pretraining(objective)
    before = run.model["clip"].vision_model.embeddings.patch_embedding.weight.clone()
    assert before.shape[1:] == (3, 16, 16)
    for _ in range(2):
        run.advance()
    assert not torch.equal(run.model["clip"].vision_model.embeddings.patch_embedding.weight, before)
    objective.export(run.model, tmp_path)
    clip = FrozenCLIP.load(tmp_path)
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tower = encode_stem(run.model["clip"], pixels, torch.arange(64).expand(2, -1))
        features = clip.encode(pixels)
        found = clip.last_block(features, clip.last_norm(features))
    assert features.grid == (8, 8) and tower.patches.std() > 0.02
    for one, other in zip(found.flatten(0, 1), tower.patches.flatten(0, 1), strict=True):
        assert (one - other).norm() < 0.05 * other.norm()  # files are in half precision
