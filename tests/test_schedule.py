"""How many iterations a run has, and that a run keeps them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from make_tiny import tiny_folder
from tiny_encoders import tiny_config

from ssrseg.checkpoint import load_checkpoint
from ssrseg.config import load_config
from ssrseg.data.open import open_labelled
from ssrseg.errors import CheckpointError
from ssrseg.schedule import iterations_for, plan, resolved
from ssrseg.training import train


def test_iterations_follow_the_number_of_images() -> None:
    found = {images: iterations_for(images) for images in (1, 10, 60, 176, 500, 10_582, 82_081)}
    assert found == {
        1: 500, 10: 500, 60: 500, 176: 500, 500: 1_418, 10_582: 30_000, 82_081: 80_000,
    }  # fmt: skip
    many = [iterations_for(images) for images in range(1, 200_000, 97)]
    assert many == sorted(many)
    assert iterations_for(10_583) - iterations_for(10_582) in range(4)  # no step between the rules


def test_only_null_is_resolved() -> None:
    ssr = load_config()
    assert (ssr.optim.iterations, ssr.optim.save_every) == (None, None)
    optim = resolved(ssr, 60).optim
    assert (optim.iterations, optim.save_every) == (500, 50)
    assert resolved(ssr, 10_582).optim.save_every == 1000
    assert replace(optim, iterations=None, save_every=None) == ssr.optim
    given = load_config(overrides=["optim.iterations=7", "optim.save_every=3"])
    assert resolved(given, 60) == given
    assert resolved(load_config(overrides=["optim.iterations=0"]), 60).optim.save_every == 1
    assert plan(resolved(ssr, 60), "labels").total == 500 + 500
    for preset in ("paper", "weclip"):
        assert resolved(load_config(preset), 60).optim.iterations == 30_000


def test_a_run_holds_the_number_and_keeps_it(
    tmp_path: Path, clip_dir: Path, dino_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_labelled(tiny_folder(tmp_path / "photos"))
    config = tiny_config(clip_dir, dino_dir, "optim.iterations=null", "optim.cmpa_iterations=1")
    fewer = replace(data, samples=data.samples[:-1])
    run = train(fewer, tmp_path / "run", config, stop_after=1)
    assert run.total == 501
    said = capsys.readouterr().err
    assert re.search(
        rf"Note: 500 iterations of 2 crops for {len(fewer)} images: about \d.* of disk\.", said
    )
    kept = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").config.optim
    assert kept.iterations == 500
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert written["optim"]["iterations"] == 500
    # another image does not change the schedule: it is refused
    with pytest.raises(CheckpointError, match="other images, labels"):
        train(data, tmp_path / "run", config)


def test_a_number_of_iterations_is_not_changed_silently(
    tmp_path: Path, clip_dir: Path, dino_dir: Path
) -> None:
    data = open_labelled(tiny_folder(tmp_path / "photos"))
    given = tiny_config(clip_dir, dino_dir, "optim.iterations=9")
    train(data, tmp_path / "run", given, stop_after=1)
    asked = tiny_config(clip_dir, dino_dir, "optim.iterations=null")
    with pytest.raises(CheckpointError) as caught:
        train(data, tmp_path / "run", asked)
    assert f"a run of 9 iterations, but {len(data)} images ask for 500" in str(caught.value)
    assert "--set optim.iterations=9" in str(caught.value)
