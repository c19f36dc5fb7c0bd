"""What the small DINO-style ViT learns, against closed forms and the library's own forward."""

from __future__ import annotations

import math

import pytest
import torch

from encoders import dino
from encoders.dino import DinoObjective, DinoRecipe
from encoders.scenes import ScenePictures

TINY = DinoRecipe(
    views=40, batch=4, width=24, depth=2, heads=2, window=4, pool=4, full_share=0.1,
)  # fmt: skip


def whole_grid(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    patches = dino.to_patches(images, TINY.patch)
    return patches, torch.arange(patches.shape[1]).expand(len(patches), -1)


def test_encode_on_the_whole_grid_is_the_forward_of_the_library():
    torch.manual_seed(0)
    model = DinoObjective(TINY, ScenePictures(TINY)).build_model()["encoder"].eval()
    model.set_attn_implementation("eager")
    images = torch.randn(2, 3, 128, 128)
    tokens, maps = dino.encode_patches(model, *whole_grid(images))
    expected = model(images, output_attentions=True)
    assert torch.allclose(tokens, expected.last_hidden_state, atol=1e-5)
    for ours, theirs in zip(maps, expected.attentions, strict=True):
        assert torch.allclose(ours, theirs[:, :, 1:, 1:].mean(1), atol=1e-6)


def test_relations_ignore_what_an_image_has_in_common():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 9, 8, generator=generator)
    found = dino.relations(features)
    assert torch.allclose(found.sum(-1), torch.ones(6, 9))
    light = torch.randn(6, 1, 8, generator=generator)
    assert torch.allclose(found, dino.relations(features + light), atol=1e-4)


def test_relations_join_the_patches_of_a_part():
    generator = torch.Generator().manual_seed(0)
    parts = torch.randint(3, (40, 16), generator=generator)
    features = torch.eye(3)[parts] + 0.01 * torch.randn(40, 16, 3, generator=generator)
    found = dino.relations(features)
    same = parts[:, :, None] == parts[:, None, :]
    assert (found * same).sum(-1).mean() > 0.95


def test_relation_loss_against_closed_forms():
    own_only = torch.eye(6)[None]
    flat = torch.full((1, 6, 6), 0.5)  # rows need not sum to 1: CLS was dropped
    assert dino.relation_loss([own_only], own_only).item() == pytest.approx(0.0, abs=1e-6)
    assert dino.relation_loss([flat], own_only).item() == pytest.approx(math.log(6))
    both = dino.relation_loss([flat, own_only], own_only)
    assert both.item() == pytest.approx(math.log(6) / 2)


def test_corruption_touches_only_what_it_reports():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(40, 16, 192, generator=generator)
    corrupted, which = dino.corrupt(patches, generator)
    assert torch.equal(corrupted[~which], patches[~which])
    assert (corrupted[which] != patches[which]).any(-1).all()
    assert 0.3 < which.float().mean() < 0.5  # 0.8 * 0.5 on average
    assert (~which).all(1).any(), "no image was left clean"


def test_views_are_windows_then_single_patches_then_whole_scenes():
    pool = ScenePictures(TINY)
    window, places, _ = dino.draw_windows(TINY, pool, 1)
    assert window.shape == (4, 16, 192)
    square = places.view(4, 4, 4)
    assert (square.diff(dim=2) == 1).all() and (square.diff(dim=1) == 16).all()
    single, scattered, _ = dino.draw_windows(TINY, pool, 0)
    assert single.shape == (4, 16, 192)
    assert all(len(set(row.tolist())) == 16 for row in scattered)
    assert (scattered.amax(1) - scattered.amin(1) > 3 * 16 + 3).all(), "wider than any window"
    whole, everywhere, _ = dino.draw_windows(TINY, pool, TINY.steps - 1)
    assert whole.shape == (4, 256, 192)
    assert torch.equal(everywhere, torch.arange(256).expand(4, -1))


def test_single_patches_keep_their_places(monkeypatch: pytest.MonkeyPatch):
    def place_as_pixels(scenes: torch.Tensor, side: int, _: torch.Generator) -> torch.Tensor:
        words = torch.arange(256.0).view(1, 1, 16, 16).expand(len(scenes), 3, -1, -1)
        return words.repeat_interleave(8, 2).repeat_interleave(8, 3)

    monkeypatch.setattr(dino, "random_views", place_as_pixels)
    pool = ScenePictures(TINY)
    patches, places, _ = dino.draw_windows(TINY, pool, 0)
    assert torch.equal(patches.mean(2).round().long(), places)
