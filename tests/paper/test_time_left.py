"""Times are those of another seed where there is one, and say when they are not all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from make_tiny import tiny_voc
from tiny_encoders import tiny_config

from ssrseg.config import Config
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.paper.experiments import Experiment, Training
from ssrseg.paper.results import Results
from ssrseg.paper.studies import Standing, Study
from ssrseg.paper.time_left import Time, Times
from ssrseg.paper.workspace import Result, Task, Workspace

ONE, TWO, FREE = Experiment("one", training=Training("ssr")), Experiment("two"), Experiment("free")


def test_words() -> None:
    assert str(Time(7200.0)) == "about 2 h"
    assert str(Time(7200.0) + Time(whole=False)) == "more than 2 h"
    assert str(Time(whole=False)) == "unknown"
    assert str(Time()) == ""


@pytest.fixture
def data(tmp_path: Path) -> LabelledImages:
    return open_labelled(tiny_voc(tmp_path / "voc", n=3))


@pytest.fixture
def config(clip_dir: Path, dino_dir: Path) -> Config:
    return tiny_config(clip_dir, dino_dir, "optim.iterations=3000")


def standing(
    out: Path, config: Config, data: LabelledImages, done: dict[str, dict[str, Any]]
) -> Standing:
    """Three rows of the second seed are missing, two of which share a run."""
    run = out / "runs" / "ssr" / "seed-1"
    rows = {ONE: run, TWO: run, FREE: None}
    todo = [Task(row, 1, config, data, {}, at, config) for row, at in rows.items()]
    results = [Result(row, 0, {}, record) for row, record in done.items()]
    study = Study("ssr", "VOC", (*rows,), Workspace(out, config, train=data))
    return Standing(study, Results(tuple(results)), {1: [], 2: todo})


def test_another_seed_tells(tmp_path: Path, config: Config, data: LabelledImages) -> None:
    done = {
        "one": {"seconds": 10.0, "shared_by": 2, "training": {"seconds": 100.0}},
        "two": {"seconds": 3.0, "training": {"seconds": 100.0}},
    }
    times = Times("cpu")
    found = times.of(standing(tmp_path, config, data, done))
    assert found == Time(108.0, whole=False)  # one training, its two rows; the third is unknown
    done["free"] = {"seconds": 0.5, "training": None}
    assert times.of(standing(tmp_path, config, data, done), 2) == Time(108.5)
    assert times.of(standing(tmp_path, config, data, done), 1) == Time()
    model = tmp_path / "runs" / "ssr" / "seed-1" / "model.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"finished")
    assert times.of(standing(tmp_path, config, data, done)) == Time(8.5)


def test_else_a_training_is_tried_out_once(
    tmp_path: Path, config: Config, data: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssrseg.paper import time_left

    tried: list[int] = []
    estimate = time_left.estimate

    def counted(*arguments: Any, **options: Any) -> Any:
        tried.append(len(arguments[0]))
        return estimate(*arguments, **options)

    monkeypatch.setattr(time_left, "estimate", counted)
    times = Times("cpu")
    first = times.of(standing(tmp_path, config, data, {}))
    assert first.seconds > 1 and not first.whole  # 3,000 iterations; scoring is unknown
    assert times.of(standing(tmp_path, config, data, {})) == first
    assert tried == [3]


def test_nothing_is_fetched_for_a_time(
    tmp_path: Path, config: Config, data: LabelledImages
) -> None:
    away = tiny_config(Path("nobody/has-this-clip"), Path("nobody/nor-this-dino"))
    assert Times("cpu").of(standing(tmp_path, away, data, {})) == Time(whole=False)
