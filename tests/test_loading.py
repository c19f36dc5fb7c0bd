"""How a model is built, kept and loaded again: nothing of what it is gets lost or mistaken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_tiny import tiny_voc
from tiny_encoders import tiny_config

from ssrseg import SSR
from ssrseg.checkpoint import load_checkpoint
from ssrseg.config import load_config
from ssrseg.data.open import open_labelled
from ssrseg.errors import CheckpointError, ConfigError
from ssrseg.training import train

CLASSES = ("cat", "dog", "red car")


@pytest.fixture(scope="module")
def model(clip_dir: Path, dino_dir: Path) -> SSR:
    return SSR.from_config(tiny_config(clip_dir, dino_dir), CLASSES)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=3)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tree: Path, clip_dir: Path, dino_dir: Path
) -> dict[str, Path]:
    """One run from labels, one from true masks."""
    data, folder = open_labelled(tree), tmp_path_factory.mktemp("runs")
    config = tiny_config(clip_dir, dino_dir, "optim.iterations=2", "optim.cmpa_iterations=2")
    return {
        kind: train(data, folder / kind, config, supervision=kind).run
        for kind in ("labels", "full")
    }


@pytest.mark.parametrize("kind", ["labels", "full"])
def test_a_saved_model_remembers_what_it_was_trained_on(
    runs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    SSR.from_pretrained(runs[kind]).save_pretrained(tmp_path)
    before, after = load_checkpoint(runs[kind]), load_checkpoint(tmp_path)
    assert after.supervision == before.supervision == kind
    assert (after.iteration, after.data) == (before.iteration, before.data)
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(value, after.tensors[key]) for key, value in before.tensors.items())
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert ("without boxes or masks" in card) == (kind == "labels")
    assert ("true masks" in card) == (kind == "full")


def test_saving_a_model_for_segmenting_only_loses_nothing(
    runs: dict[str, Path], tree: Path, tmp_path: Path
) -> None:
    SSR.from_pretrained(runs["labels"], segment_only=True).save_pretrained(tmp_path)
    again, whole = SSR.from_pretrained(tmp_path), SSR.from_pretrained(runs["labels"])
    sample = open_labelled(tree).samples[0]
    label = whole.classes[sample.labels[0]]
    found, expected = (each.rectify(sample.image, labels=label) for each in (again, whole))
    assert np.array_equal(found.mask, expected.mask)


def test_a_folder_of_something_else_is_left_alone(
    model: SSR, clip_dir: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in clip_dir.iterdir()}
    with pytest.raises(CheckpointError, match="holds another model"):
        model.save_pretrained(clip_dir)
    assert {path.name: path.read_bytes() for path in clip_dir.iterdir()} == before
    model.save_pretrained(tmp_path / "own")
    model.save_pretrained(tmp_path / "own")  # one of ours may be replaced
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file")


def test_encoders_are_found_from_another_folder(
    clip_dir: Path, dino_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clip_dir.parent)
    model = SSR.from_encoders(["cat"], clip=clip_dir.name, dino=dino_dir, preset="ssr")
    assert model.config.backbones.clip == str(clip_dir)
    model.save_pretrained(tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    assert SSR.from_pretrained(tmp_path / "kept").classes == ("cat",)
    settings = json.loads((tmp_path / "kept" / "config.json").read_text(encoding="utf-8"))
    assert settings["backbones"]["clip"] == str(clip_dir)


def test_other_prompts_are_another_model(model: SSR) -> None:
    config = replace(model.config, prompts=replace(model.config.prompts, set="coco"))
    with pytest.raises(ValueError, match="prompts differs"):
        model.with_config(config)
    with pytest.raises(ConfigError, match="takes settings, not 'ssr'"):
        model.with_config("ssr")


def test_a_single_setting_may_be_a_text(clip_dir: Path, dino_dir: Path) -> None:
    model = SSR.from_encoders(["cat"], clip=clip_dir, dino=dino_dir, settings="sgc.high=0.3")
    assert model.config.sgc.high == 0.3
    assert load_config("ssr").sgc.high == 0.4


def test_parts_are_given_never_taken_over(model: SSR, runs: dict[str, Path]) -> None:
    trained = SSR.from_pretrained(runs["labels"])
    bare = trained.with_config(trained.config, alignment=None, decoder=None)
    assert bare.alignment is None
    assert bare.decoder is None
    assert trained.alignment is not None
    assert trained.decoder is not None
    assert trained.with_config(trained.config).decoder is trained.decoder


@pytest.mark.parametrize("readout", ["combined", "gradcam"])
def test_what_surrounds_a_call_changes_nothing(model: SSR, readout: str) -> None:
    config = replace(model.config, cam=replace(model.config.cam, readout=readout))
    own = model.with_config(config)
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    expected = own.rectify(photo, labels=["cat", "dog"])
    with torch.inference_mode():
        inside = own.rectify(photo, labels=["cat", "dog"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        reduced = own.rectify(photo, labels=["cat", "dog"])
    for found in (inside, reduced):
        assert np.array_equal(found.mask, expected.mask)
        assert np.array_equal(found.cam["dog"], expected.cam["dog"])
