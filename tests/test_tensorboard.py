"""TensorBoard's curves: the columns of log.csv, each point once, however often a run went on."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import pytest
from command import exit_code
from make_tiny import tiny_folder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_encoders import tiny_config

from ssrseg.config import Config
from ssrseg.errors import PackageError
from ssrseg.training import train
from ssrseg.training_log import FIELDS


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "data", n=4)


@pytest.fixture
def config(clip_dir: Path, dino_dir: Path) -> Config:
    return tiny_config(
        clip_dir, dino_dir, "optim.cmpa_iterations=5", "optim.iterations=4", "optim.save_every=3"
    )


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """By curve, step and value, of all files in the folder, as TensorBoard shows them."""
    read = EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    return {
        tag: [(each.step, each.value) for each in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def logged(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of log.csv, without what is no number there."""
    rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    found = {
        name: [(int(row["iteration"]), float(row[name])) for row in rows]
        for name in FIELDS
        if name != "iteration"
    }
    kept = {
        name: [(step, value) for step, value in curve if math.isfinite(value)]
        for name, curve in found.items()
    }
    return {name: curve for name, curve in kept.items() if curve}


def assert_same_curves(run: Path) -> None:
    drawn, expected = points(run), logged(run)
    assert drawn.keys() == expected.keys() >= {"loss", "proto", "seg", "temperature", "lr"}
    for name, curve in expected.items():
        assert drawn[name] == [(step, pytest.approx(value, rel=1e-6)) for step, value in curve]


def test_the_curves_are_the_log(data: Path, config: Config, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run", config, tensorboard=True).run
    assert [step for step, _ in points(run)["loss"]] == list(range(1, 10))
    assert_same_curves(run)


def test_a_run_that_goes_on_draws_no_point_twice(
    data: Path, config: Config, tmp_path: Path
) -> None:
    run = train(data, tmp_path / "run", config, stop_after=4).run  # nobody watched
    assert not (run / "tensorboard").exists()
    (run / "tensorboard").mkdir()
    (run / "tensorboard" / "notes.txt").write_text("mine")
    for end in (7, None):
        train(data, run, config, stop_after=end, tensorboard=True)
        assert [step for step, _ in points(run)["loss"]] == list(range(1, (end or 9) + 1))
        assert_same_curves(run)
    assert (run / "tensorboard" / "notes.txt").read_text() == "mine"
    once = train(data, tmp_path / "once", config, tensorboard=True).run
    assert points(once) == points(run)


def test_without_tensorboard_nothing_begins(
    data: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(PackageError, match=r'pip install "ssrseg\[tensorboard\]"'):
        train(data, tmp_path / "run", config, tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_the_command_says_how_to_watch(
    data: Path, clip_dir: Path, dino_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = ("data.crop=64", "cmpa.out=24", "cmpa.min_patches=1", "optim.batch=1")
    settings += ("optim.cmpa_iterations=1", "optim.iterations=1", "optim.features=online")
    options = [word for each in settings for word in ("--set", each)]
    encoders = ("--clip", clip_dir, "--dino", dino_dir)
    words = ("train", "--data", data, "--out", run, *encoders, *options, "--tensorboard")
    assert exit_code(*words) == 0
    assert f"Note: To watch it: tensorboard --logdir {run}" in capfd.readouterr().err
    assert_same_curves(run)
