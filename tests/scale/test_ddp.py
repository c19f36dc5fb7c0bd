"""Two processes train what one does; they are stopped, killed and started in other numbers."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from make_tiny import tiny_voc
from safetensors.torch import load_file
from torch import Tensor

from scale.cases import CASES, Case, run
from ssrseg import training, training_step
from ssrseg.checkpoint import load_checkpoint
from ssrseg.config import Config
from ssrseg.data.crops import CropBatch
from ssrseg.losses import online_masks
from ssrseg.model import SSR, InitialCam

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
BY_ROUNDING = re.compile(r"(isa|tsa)\.mlp\.\d+\.bias|self_attn\.in_proj_bias")
"""Biases ahead of a BatchNorm and of attention's keys have no gradient but rounding, which Adam
takes for one: they wander by the learning rate, and change next to nothing."""


@dataclass(frozen=True)
class World:
    """Data, encoders, and where runs of two processes go."""

    data: Path
    clip: Path
    dino: Path
    out: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clip_dir: Path, dino_dir: Path) -> World:
    folder = tmp_path_factory.mktemp("world")
    return World(tiny_voc(folder / "voc"), clip_dir, dino_dir, folder / "two")


def environment() -> dict[str, str]:
    paths = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def start(processes: int, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, str(processes), *map(str, words)],
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def ended(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """What it said, however it ended; it fails if it does not end."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="module")
def by_two(world: World) -> Path:
    """The runs of all cases, by two processes."""
    script = Path(__file__).with_name("cases.py")
    process = start(2, script, world.data, world.clip, world.dino, world.out)
    said = ended(process, 280)
    assert process.returncode == 0, said
    assert said.count("Reading images 3/3") == len(CASES)  # one speaks
    return world.out


def rows(run_folder: Path) -> list[dict[str, float]]:
    with (run_folder / "log.csv").open() as file:
        return [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]


def assert_alike(one: Path, other: Path) -> None:
    """Weights and losses within 1e-5."""
    expected, found = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert found.keys() == expected.keys()
    for name in expected:
        if not BY_ROUNDING.search(name):
            assert (found[name].double() - expected[name].double()).abs().max() < 1e-5, name
    columns = [rows(folder) for folder in (one, other)]
    assert len(columns[0]) == len(columns[1])
    for row, wanted in zip(columns[1], columns[0], strict=True):
        assert row == pytest.approx(wanted, rel=1e-5, abs=1e-5, nan_ok=True)


def masks_by_twos(model: SSR, crops: CropBatch, _: InitialCam) -> Tensor:
    """Pseudo masks as two processes make them.

    A product of matrices rounds by how many crops it has together. What is learned moves by 1e-7,
    but a pixel with two equal scores may fall to the other class: 1 of the 16,384 of a batch here.
    """
    masks = []
    for part in crops.split(2):
        initial = model.initial_cam(model.encode(part.image), part.present, part.valid)
        masks.append(online_masks(model, part, initial))
    return torch.cat(masks)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_processes_with_half_a_batch_each_are_one_with_all(
    world: World, by_two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    monkeypatch.setattr(training_step, "online_masks", masks_by_twos)
    run(case, world.data, world.clip, world.dino, tmp_path)
    assert_alike(tmp_path / case.name, by_two / case.name)
    (machine,) = yaml.safe_load((by_two / case.name / "machine.yaml").read_text())
    assert machine["processes"] == 2
    kept = [load_checkpoint(folder / case.name).config for folder in (tmp_path, by_two)]
    assert kept[0] == kept[1]  # no setting says by how many it was trained
    assert (by_two / case.name / "report.html").is_file()


# --- by the command line


# masks are made one by one, so that nothing rounds by how many processes there are
SETTINGS = ("optim.iterations=30", "optim.save_every=4", "optim.features=cached")


def settings(world: World, *more: str) -> Config:
    return Case("", (*SETTINGS, *more)).config(world.clip, world.dino)


def words(world: World, out: Path, *more: str) -> list[str]:
    config = settings(world, *more)
    file = out.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config.to_yaml())
    return [
        "-m", "ssrseg", "train", "--data", str(world.data), "--out", str(out),
        "--config", str(file), "--device", "cpu",
    ]  # fmt: skip


def alone(world: World, out: Path, *more: str, stop_after: int | None = None) -> None:
    """A run, or the rest of it, in this process."""
    config = settings(world, *more)
    training.train(world.data, out, config, device="cpu", stop_after=stop_after)


def wait_for(row: int, run_folder: Path, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of this iteration, or a later one, is there."""
    end = time.monotonic() + 100
    file = run_folder / "checkpoint.safetensors"
    while process.poll() is None and time.monotonic() < end:
        if file.is_file() and load_checkpoint(file).iteration >= row:
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate()[0])


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun has started, by their ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        known = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ranks = [int(each[5:]) for each in known if each.startswith(b"RANK=")]
        if ranks:
            found[ranks[0]] = pid
    return [found[rank] for rank in sorted(found)]


@pytest.fixture(scope="module")
def straight(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nobody disturbs."""
    out = tmp_path_factory.mktemp("straight") / "run"
    alone(world, out)
    return out


def test_a_run_goes_on_under_another_number_of_processes(
    world: World, straight: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for processes, stop in ((2, 2), (1, 9), (2, 33)):
        if processes == 1:
            alone(world, out, stop_after=stop)
        else:
            process = start(processes, *words(world, out), "--stop-after", stop)
            said = ended(process)
            assert process.returncode == 0, said
            assert said.count("Reading images 3/3") == 1  # one speaks
            assert said.count(f"Stopped after {stop}") + said.count("Finished:") == 1
        assert len(rows(out)) == stop
    assert_alike(straight, out)
    entries = yaml.safe_load((out / "machine.yaml").read_text())
    assert [(each["from_iteration"], each["processes"]) for each in entries] == [
        (0, 2), (2, 1), (9, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_goes_on(
    world: World, tmp_path: Path, rank: int
) -> None:
    out = tmp_path / "run"
    process = start(2, *words(world, out, "optim.iterations=400"))
    wait_for(4, out, process)
    both = workers(process)
    assert len(both) == 2
    os.kill(both[rank], signal.SIGKILL)
    begun = time.monotonic()
    said = ended(process, 30)
    assert process.returncode != 0
    assert time.monotonic() - begun < 30
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)
    assert said.count("Error: Another process of this run has ended") == 1
    assert "goes on from the last checkpoint" in " ".join(said.split())
    assert "Traceback" not in said.split("Error: Another")[0]
    kept = load_checkpoint(out / "checkpoint.safetensors").iteration
    assert kept >= 4 and kept % 4 == 0
    alone(world, out, "optim.iterations=400", stop_after=kept + 2)
    assert len(rows(out)) == kept + 2


def test_a_scheduler_that_stops_torchrun_loses_nothing(
    world: World, straight: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(2, *words(world, out))
    wait_for(4, out, process)
    process.send_signal(signal.SIGTERM)
    said = ended(process)
    found = re.findall(r"Stopped by SIGTERM: (\d+) of 33 iterations are finished and saved", said)
    assert len(found) == 1, said
    kept = load_checkpoint(out / "checkpoint.safetensors").iteration
    assert 4 < kept == int(found[0]) < 33
    assert len(rows(out)) == kept
    alone(world, out)
    assert_alike(straight, out)


def test_a_fault_is_said_once(world: World, tmp_path: Path) -> None:
    process = start(2, *words(world, tmp_path / "run", "optim.batch=3"))
    said = ended(process)
    assert process.returncode != 0
    assert len(re.findall("^Error:", said, re.MULTILINE)) == 1, said
    said = " ".join(said.split())
    assert "optim.batch = 3 crops cannot be shared by 2 processes alike" in said
    assert "a number of them that divides it (1, 3), or set optim.batch to a multiple of 2" in said


def test_what_all_would_write_is_refused(tmp_path: Path) -> None:
    process = start(2, "-m", "ssrseg", "masks", "--data", tmp_path, "--out", tmp_path / "masks")
    said = " ".join(ended(process).split())
    assert process.returncode != 0
    assert (
        said.count("Error: 2 processes were started together, and ssrseg masks works in one") == 1
    )
    assert not (tmp_path / "masks").exists()
