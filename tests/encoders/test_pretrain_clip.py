from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from encoders.captions import build_tokenizer
from encoders.clip_objective import clip_loss, contrast, encode_windows
from encoders.clip_recipe import PretrainConfig, learning_rate
from encoders.pretrain_clip import (
    export,
    load_checkpoint,
    save_checkpoint,
    start_state,
    train,
    train_step,
)
from encoders.scene_pairs import ScenePairs, ScenePool, draw_batch
from ssrseg.demo.scenes import render_scene
from ssrseg.networks.clip import PIXEL_MEAN, PIXEL_STD, FrozenCLIP

TINY = PretrainConfig(
    views=32, batch=8, width=32, depth=2, heads=2, text_width=16, text_depth=1, dim=16, pool=6,
    fresh=1, warmup=1, late_share=0.25, bfloat16=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_whole_picture_as_window_is_the_librarys_forward(tokenizer) -> None:
    model = start_state(TINY, tokenizer).model.eval()
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
    pixels, places, captions = draw_batch(TINY, [scene], step=0)
    assert pixels.shape == (8, 3, 48, 48)
    assert len(captions) == 8
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    raw = (255 * (pixels * std[:, None, None] + mean[:, None, None])).round().long()
    raw = raw[:, :, ::8, ::8].flatten(2)
    assert torch.equal(raw[:, 0], places // 16)
    assert torch.equal(raw[:, 1], places % 16)
    assert draw_batch(TINY, [scene], step=3)[0].shape == (8, 3, 96, 96)


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


def test_pool_depends_on_the_step_alone() -> None:
    walked, jumped = ScenePool(TINY), ScenePool(TINY)
    for step in range(4):
        scenes = walked.at(step)
    other = jumped.at(3)
    assert len(scenes) == len(other) == TINY.pool
    assert all((a.image == b.image).all() for a, b in zip(scenes, other, strict=True))


def test_learning_rate_rises_then_falls() -> None:
    config = PretrainConfig(views=128 * 1000, warmup=100, lr=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.01)
    assert learning_rate(config, 100) == pytest.approx(1.0)
    assert learning_rate(config, 550) == pytest.approx(0.505)
    assert learning_rate(config, 1000) == pytest.approx(0.01)


def test_resumed_run_ends_at_the_same_weights(tmp_path, tokenizer) -> None:
    straight = start_state(TINY, tokenizer)
    source = ScenePairs(TINY, checked=1)
    for step in range(4):
        train_step(TINY, straight, tokenizer, source.pairs(step))
        if step == 1:
            save_checkpoint(straight, TINY, tmp_path / "checkpoint.pt")
    resumed = load_checkpoint(TINY, tokenizer, tmp_path / "checkpoint.pt")
    source = ScenePairs(TINY, checked=1)
    assert resumed.step == 2
    while resumed.step < 4:
        train_step(TINY, resumed, tokenizer, source.pairs(resumed.step))
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_checkpoint_of_another_recipe_is_refused(tmp_path, tokenizer) -> None:
    save_checkpoint(start_state(TINY, tokenizer), TINY, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="not"):
        load_checkpoint(PretrainConfig(), tokenizer, tmp_path / "checkpoint.pt")


def test_exported_model_is_half_precision_and_loads(tmp_path, tokenizer) -> None:
    model = start_state(TINY, tokenizer).model.eval()
    export(model, tokenizer, tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    parameters = sum(value.numel() for value in model.parameters())
    assert size < 2 * parameters + 30_000
    clip = FrozenCLIP.load(tmp_path)
    pixels = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        expected = model.get_image_features(pixels).pooler_output
        found = clip.model.get_image_features(pixels).pooler_output
    assert torch.allclose(found, expected, atol=5e-3)


def test_training_writes_log_checkpoint_and_model(tmp_path) -> None:
    train(TINY, tmp_path, every=3, checked=24)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "3", "4"]
    train(TINY, tmp_path, resume=True, checked=24)
    assert (tmp_path / "log.csv").read_text().splitlines() == lines
    assert FrozenCLIP.load(tmp_path / "clip").depth == 2
