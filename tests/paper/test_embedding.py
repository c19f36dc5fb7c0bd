"""Foreground features of a split, in CLIP's space and in CMPA's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_tiny import tiny_voc
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_encoders import tiny_clip, tiny_config

import ssrseg.paper.embedding as module
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import DataError
from ssrseg.foreground import collect_foreground
from ssrseg.model import SSR
from ssrseg.paper.embedding import CLIP, CMPA, UNTRAINED, embed
from ssrseg.paper.separation import separation
from ssrseg.trained_parts import new_alignment, without_training

CLASSES = ("cat", "dog", "red car")
NO_CACHE = SuperpixelCache(None, n_segments=20, compactness=10.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_voc(tmp_path_factory.mktemp("voc") / "voc", n=6, classes=CLASSES))


@pytest.fixture(scope="module")
def model(clip_dir: Path, dino_dir: Path, data: LabelledImages) -> SSR:
    """With heads that have moved away from CLIP."""
    model = SSR.from_config(tiny_config(clip_dir, dino_dir), CLASSES)
    pairs = collect_foreground(model, data, NO_CACHE, aligned=False)
    torch.manual_seed(0)
    heads = new_alignment(model.config.cmpa, model.text_features, pairs.mean)
    with torch.no_grad():
        for head in (heads.isa, heads.tsa):
            assert head.gain is not None
            head.gain.fill_(0.5)
    return model.with_config(model.config, alignment=heads)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    original = module._pool

    def noting(model: object, heads: object, samples: list[Sample]) -> object:
        names.extend(sample.name for sample in samples)
        return original(model, heads, samples)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_pool", noting)
    return names


def test_clips_features_are_those_that_cmpa_is_trained_on(
    model: SSR, data: LabelledImages, tmp_path: Path
) -> None:
    found = embed(model, data, tmp_path)
    pairs = collect_foreground(model, data, NO_CACHE, aligned=False)
    torch.testing.assert_close(found.spaces[CLIP].image, pairs.pooled)
    assert torch.equal(found.classes, pairs.classes)
    literal = collect_foreground(model, data, NO_CACHE, aligned=True)
    torch.testing.assert_close(found.spaces[CMPA].image, literal.pooled)
    assert model.alignment is not None
    text = model.alignment.tsa(model.text_features)[:3].detach()
    torch.testing.assert_close(found.spaces[CMPA].text, text)
    torch.testing.assert_close(found.spaces[CLIP].text, model.text_features[:3])
    assert found.images == 6


def test_the_control_is_the_head_before_training(
    model: SSR, data: LabelledImages, tmp_path: Path
) -> None:
    found = embed(model, data, tmp_path)
    assert model.alignment is not None
    start = without_training(model.alignment, 0.05)
    assert start is not None and float(start.temperature.detach()) == pytest.approx(0.05)
    assert model.alignment.isa.gain == 0.5  # the trained heads are left as they were
    own = model.with_config(model.config, alignment=start)
    literal = collect_foreground(own, data, NO_CACHE, aligned=True)
    torch.testing.assert_close(found.spaces[UNTRAINED].image, literal.pooled)
    assert not torch.allclose(found.spaces[UNTRAINED].image, found.spaces[CMPA].image, atol=1e-2)


def test_heads_that_began_at_random_have_no_control(
    model: SSR, data: LabelledImages, tmp_path: Path
) -> None:
    config = model.config
    random = replace(config, cmpa=replace(config.cmpa, init="random"))
    heads = new_alignment(random.cmpa, model.text_features)
    own = model.with_config(random, alignment=heads)
    assert set(embed(own, data, tmp_path).spaces) == {CLIP, CMPA}
    free = model.with_config(config, alignment=None)
    assert set(embed(free, data, tmp_path).spaces) == {CLIP}


def test_an_interrupted_call_goes_on(
    model: SSR,
    data: LabelledImages,
    tmp_path: Path,
    looked_at: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    whole = embed(model, data, tmp_path / "whole")
    names = [sample.name for sample in data.samples]
    assert looked_at == names
    looked_at.clear()
    counting = module._pool

    def stopping(*arguments: object) -> object:
        if len(looked_at) == 4:
            raise KeyboardInterrupt
        return counting(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_pool", stopping)
        embed(model, data, tmp_path / "halves")
    looked_at.clear()
    again = embed(model, data, tmp_path / "halves")
    assert looked_at == names[4:]
    assert torch.equal(again.classes, whole.classes)
    for name, space in whole.spaces.items():
        assert torch.equal(again.spaces[name].image, space.image)
    looked_at.clear()
    embed(model, data, tmp_path / "halves")
    assert looked_at == []


def test_other_settings_or_data_are_looked_at_anew(
    model: SSR, data: LabelledImages, tmp_path: Path, looked_at: list[str]
) -> None:
    embed(model, data, tmp_path)
    looked_at.clear()
    embed(model, replace(data, samples=data.samples[:5]), tmp_path)
    assert len(looked_at) == 5
    config = model.config
    other = replace(config, data=replace(config.data, max_side=48))
    small = model.with_config(other)
    embed(small, data, tmp_path)
    assert len(looked_at) == 11
    for file in tmp_path.iterdir():
        file.write_bytes(b"cut short")
    embed(model, data, tmp_path)
    assert len(looked_at) == 17


def test_kept_features_of_another_form_are_made_anew(
    model: SSR, data: LabelledImages, tmp_path: Path, looked_at: list[str]
) -> None:
    embed(model, data, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = load_file(file)
    for name, other in [
        ("classes", whole["classes"] + 100),
        ("done", torch.tensor(1000)),
        ("done", torch.tensor(torch.inf)),
        ("more", torch.zeros(1)),
        ("CLIP", torch.full_like(next(iter(whole.values())).float(), torch.nan)),
    ]:
        save_file(whole | {name: other}, file)
        looked_at.clear()
        embed(model, data, tmp_path)
        assert len(looked_at) == 6, name


def test_a_replaced_image_or_encoder_is_looked_at_anew(
    model: SSR,
    data: LabelledImages,
    tmp_path: Path,
    looked_at: list[str],
) -> None:
    embed(model, data, tmp_path)
    file = data.samples[2].image
    Image.open(file).convert("RGB").rotate(180).save(file)
    looked_at.clear()
    embed(model, data, tmp_path)
    assert len(looked_at) == 6
    for seed, seen in ((0, 6), (5, 12)):  # the same encoder, loaded again; and another one
        clip = str(tiny_clip(tmp_path / str(seed), seed=seed))
        config = replace(model.config, backbones=replace(model.config.backbones, clip=clip))
        other = SSR.from_config(config, CLASSES)
        embed(other.with_config(config, alignment=model.alignment), data, tmp_path)
        assert len(looked_at) == seen


def test_so_many_pairs_of_a_class_and_no_more(
    model: SSR,
    data: LabelledImages,
    tmp_path: Path,
    looked_at: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PER_CLASS", 1)
    monkeypatch.setattr(module, "CHUNK", 3)
    found = embed(model, data, tmp_path)
    assert found.classes.tolist() == [0, 1, 2]  # of those looked at together, the first
    assert looked_at == [sample.name for sample in data.samples[:3]]  # the rest has nothing new


def test_of_many_classes_the_most_frequent_are_shown(
    model: SSR, data: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embed(model, data, tmp_path)
    count = torch.bincount(whole.classes, minlength=3)
    monkeypatch.setattr(module, "MAX_CLASSES", 2)
    found = embed(model, data, tmp_path)
    kept = found.classes.unique().tolist()
    assert len(kept) == 2
    assert min(count[kept]) >= max(count[[c for c in range(3) if c not in kept]])
    assert len(found.classes) == len(found.spaces[CLIP].image) == int(count[kept].sum())
    # numbers of the remaining classes still find their texts
    space = found.spaces[CLIP]
    assert separation(space.image, found.classes, space.text).modality_gap > 0


def test_nothing_to_tell_apart(model: SSR, data: LabelledImages, tmp_path: Path) -> None:
    one = replace(data, samples=data.samples[:1])
    with pytest.raises(DataError, match="pairs of fewer than two classes"):
        embed(model, one, tmp_path)
