"""Pretraining of the DINO-style ViT: its pieces against closed forms, and a run in miniature."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTModel

from encoders import dino_objective, pretrain_dino
from encoders.pretrain_dino import PretrainConfig

TINY = PretrainConfig(
    views=40, batch=4, width=24, depth=2, heads=2, window=4, pool=4, fresh=1,
    warmup=2, bfloat16=False, full_share=0.1,
)  # fmt: skip


def whole_grid(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    patches = dino_objective.to_patches(images, TINY.patch)
    return patches, torch.arange(patches.shape[1]).expand(len(patches), -1)


def test_encode_on_the_whole_grid_is_the_forward_of_the_library():
    torch.manual_seed(0)
    model = dino_objective.build_model(24, 2, 2, 8, 16).eval()
    model.set_attn_implementation("eager")
    images = torch.randn(2, 3, 128, 128)
    tokens, maps = dino_objective.encode(model, *whole_grid(images))
    expected = model(images, output_attentions=True)
    assert torch.allclose(tokens, expected.last_hidden_state, atol=1e-5)
    for ours, theirs in zip(maps, expected.attentions, strict=True):
        assert torch.allclose(ours, theirs[:, :, 1:, 1:].mean(1), atol=1e-6)


def test_relations_ignore_what_an_image_has_in_common():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 9, 8, generator=generator)
    found = dino_objective.relations(features)
    assert torch.allclose(found.sum(-1), torch.ones(6, 9))
    light = torch.randn(6, 1, 8, generator=generator)
    assert torch.allclose(found, dino_objective.relations(features + light), atol=1e-4)


def test_relations_join_the_patches_of_a_part():
    generator = torch.Generator().manual_seed(0)
    parts = torch.randint(3, (40, 16), generator=generator)
    features = torch.eye(3)[parts] + 0.01 * torch.randn(40, 16, 3, generator=generator)
    found = dino_objective.relations(features)
    same = parts[:, :, None] == parts[:, None, :]
    assert (found * same).sum(-1).mean() > 0.95


def test_relation_loss_against_closed_forms():
    own_only = torch.eye(6)[None]
    flat = torch.full((1, 6, 6), 0.5)  # rows need not sum to 1: CLS was dropped
    assert dino_objective.relation_loss([own_only], own_only).item() == pytest.approx(0.0, abs=1e-6)
    assert dino_objective.relation_loss([flat], own_only).item() == pytest.approx(math.log(6))
    both = dino_objective.relation_loss([flat, own_only], own_only)
    assert both.item() == pytest.approx(math.log(6) / 2)


def test_corruption_touches_only_what_it_reports():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(40, 16, 192, generator=generator)
    spoilt, which = dino_objective.corrupt(patches, generator)
    assert torch.equal(spoilt[~which], patches[~which])
    assert (spoilt[which] != patches[which]).any(-1).all()
    assert 0.3 < which.float().mean() < 0.5  # 0.8 * 0.5 on average
    assert (~which).all(1).any(), "no image was left clean"


def test_views_are_windows_then_single_patches_then_whole_scenes():
    pool = pretrain_dino.ScenePool(TINY, first_seed=0)
    pool.advance(0)
    window, places, _ = pretrain_dino.draw_views(TINY, pool, 1)
    assert window.shape == (4, 16, 192)
    square = places.view(4, 4, 4)
    assert (square.diff(dim=2) == 1).all() and (square.diff(dim=1) == 16).all()
    single, scattered, _ = pretrain_dino.draw_views(TINY, pool, 0)
    assert single.shape == (4, 16, 192)
    assert all(len(set(row.tolist())) == 16 for row in scattered)
    assert (scattered.amax(1) - scattered.amin(1) > 3 * 16 + 3).all(), "wider than any window"
    whole, everywhere, _ = pretrain_dino.draw_views(TINY, pool, TINY.steps - 1)
    assert whole.shape == (4, 256, 192)
    assert torch.equal(everywhere, torch.arange(256).expand(4, -1))


def test_single_patches_keep_their_places(monkeypatch: pytest.MonkeyPatch):
    def place_as_pixels(scenes: torch.Tensor, side: int, _: torch.Generator) -> torch.Tensor:
        words = torch.arange(256.0).view(1, 1, 16, 16).expand(len(scenes), 3, -1, -1)
        return words.repeat_interleave(8, 2).repeat_interleave(8, 3)

    monkeypatch.setattr(pretrain_dino, "random_views", place_as_pixels)
    pool = pretrain_dino.ScenePool(TINY, first_seed=0)
    pool.advance(0)
    patches, places, _ = pretrain_dino.draw_views(TINY, pool, 0)
    assert torch.equal(patches.mean(2).round().long(), places)


def test_loss_falls_on_a_fixed_batch():
    config = replace(TINY, views=4000, lr=3e-3, full_share=0.0)
    state = pretrain_dino.start_state(config)
    pool = pretrain_dino.ScenePool(config, first_seed=0)
    pool.advance(0)
    values = []
    for _ in range(40):
        state.step = 5  # the same views and the same corruption every time
        values.append(pretrain_dino.train_step(config, state, pool))
    assert all(torch.isfinite(torch.tensor(list(value.values()))).all() for value in values)
    assert values[-1]["denoise"] < 0.8 * values[0]["denoise"]
    assert values[-1]["relation"] < values[0]["relation"]


def test_resume_is_bit_exact_and_the_export_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    pretrain_dino.train(TINY, straight, every=1)

    save = pretrain_dino.save_checkpoint

    def power_cut(*arguments: object) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain_dino, "save_checkpoint", power_cut)
        with pytest.raises(KeyboardInterrupt):
            pretrain_dino.train(TINY, broken, every=1)
    assert len((broken / "log.csv").read_text().splitlines()) == 1 + 5, "half of the 10 steps"
    pretrain_dino.train(TINY, broken, resume=True, every=1)
    ours = load_file(straight / "dino/model.safetensors")
    theirs = load_file(broken / "dino/model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    model = ViTModel.from_pretrained(straight / "dino", add_pooling_layer=False)
    hidden = model(torch.zeros(1, 3, 128, 128)).last_hidden_state
    assert hidden.shape == (1, 257, 24) and torch.isfinite(hidden).all()


def test_resume_refuses_another_recipe(tmp_path: Path):
    state = pretrain_dino.start_state(TINY)
    pretrain_dino.save_checkpoint(state, TINY, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="lr"):
        pretrain_dino.load_checkpoint(replace(TINY, lr=1.0), tmp_path / "checkpoint.pt")
