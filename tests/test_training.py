from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from make_tiny import tiny_voc
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_encoders import tiny_clip, tiny_config, tiny_dino
from torch import Tensor

from ssrseg import training as module
from ssrseg.checkpoint import load_checkpoint
from ssrseg.config import Config
from ssrseg.data.crops import CropDraws
from ssrseg.data.files import only_writer
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import CheckpointError, ConfigError, DataError, DivergenceError, OutputError
from ssrseg.interruption import Interrupted
from ssrseg.model import SSR, InitialCam
from ssrseg.networks.frozen import weights_digest
from ssrseg.schedule import Supervision, plan
from ssrseg.training import train
from ssrseg.training_log import FIELDS
from ssrseg.training_state import learning_rate

Settings = Callable[..., Config]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_voc(tmp_path_factory.mktemp("voc") / "tree"))


@pytest.fixture
def settings(clip_dir: Path, dino_dir: Path) -> Settings:
    return lambda *overrides, **options: tiny_config(clip_dir, dino_dir, *overrides, **options)


def assert_same_run(one: Path, other: Path) -> None:
    expected, found = (load_file(run / "model.safetensors") for run in (one, other))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert (one / "log.csv").read_bytes() == (other / "log.csv").read_bytes()


RUNS = [
    (),
    ("optim.schedule=joint", "optim.iterations=20"),
    ("optim.schedule=joint", "optim.iterations=20", "cmpa.cam_source=cmpa"),
    ("cmpa.map_order=project_then_pool", "cmpa.bg_prototypes=none", "cam.readout=gradcam"),
    ("cmpa.cam_source=refined", "affinity.rfm_after=4"),
    ("cmpa.map_order=project_then_pool", "cmpa.bg_prototypes=none", "cmpa.bg_pairs=0"),
    (
        "optim.schedule=joint",
        "optim.iterations=20",
        "cmpa.map_order=project_then_pool",
        "cmpa.bg_prototypes=none",
    ),
    ("optim.features=cached",),
    (
        "optim.features=cached",
        "cmpa.map_order=project_then_pool",
        "cmpa.bg_prototypes=none",
        "optim.affinity_weight=0.1",
    ),
    ("optim.features=auto", "cam.mode=clip", "optim.iterations=20", "optim.micro_batch=1"),
]


@pytest.mark.parametrize("overrides", RUNS, ids=" ".join)
def test_twenty_straight_are_ten_and_ten(
    voc: LabelledImages, tmp_path: Path, settings: Settings, overrides: tuple[str, ...]
) -> None:
    config = settings("cmpa.update_every=5", *overrides)
    cache = tmp_path / "cache"
    straight = train(voc, tmp_path / "straight", config, cache=cache)
    half = train(voc, tmp_path / "halves", config, cache=cache, stop_after=10)
    assert (half.iteration, half.finished) == (10, False)
    assert not (tmp_path / "halves" / "model.safetensors").exists()
    whole = train(voc, tmp_path / "halves", config, cache=cache)
    assert (
        (whole.iteration, whole.finished) == (straight.iteration, straight.finished) == (20, True)
    )
    assert_same_run(straight.run, whole.run)
    assert whole.last.keys() == set(FIELDS)
    with (straight.run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == list(range(1, 21))
    assert float(rows[3]["proto"]) > 0 or "cam.mode=clip" in overrides
    assert float(rows[-1]["seg"]) > 0
    if "project_then_pool" not in " ".join(overrides) and not overrides:
        assert float(rows[3]["seg"]) == 0  # staged: CMPA alone at first


@pytest.mark.parametrize("supervision", ["labels", "full"])
def test_without_cmpa(
    voc: LabelledImages, tmp_path: Path, settings: Settings, supervision: str
) -> None:
    config = settings("cam.mode=clip", "optim.iterations=4", "optim.micro_batch=1")
    train(voc, tmp_path / "run", config, supervision=supervision)
    train(voc, tmp_path / "parts", config, supervision=supervision, stop_after=3)
    train(voc, tmp_path / "parts", config, supervision=supervision)
    assert_same_run(tmp_path / "run", tmp_path / "parts")
    assert all(
        name.startswith("decoder.") for name in load_file(tmp_path / "run" / "model.safetensors")
    )


WECLIP = ("affinity.rfm_after=4", "affinity.rfm_layers=-3", "optim.batch=2", "optim.iterations=9")


@pytest.fixture
def weclip(settings: Settings) -> Settings:
    return lambda *overrides: settings(*WECLIP, *overrides, preset="weclip")


def column(run: Path, name: str) -> list[float]:
    with (run / "log.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("stop", [4, 6])
def test_weclip_goes_on_where_it_stopped(
    voc: LabelledImages, tmp_path: Path, weclip: Settings, stop: int
) -> None:
    config = weclip("pseudo.par_iterations=2")
    train(voc, tmp_path / "straight", config)
    train(voc, tmp_path / "parts", config, stop_after=stop)
    result = train(voc, tmp_path / "parts", config)
    assert (result.iteration, result.finished) == (9, True)
    assert_same_run(tmp_path / "straight", tmp_path / "parts")


def test_the_decoder_refines_its_masks_after_so_many_iterations(
    voc: LabelledImages, tmp_path: Path, weclip: Settings
) -> None:
    train(voc, tmp_path / "on", weclip())
    train(voc, tmp_path / "off", weclip("affinity.rfm_after=null"))
    on, off = column(tmp_path / "on", "seg"), column(tmp_path / "off", "seg")
    assert on[:4] == off[:4]
    assert on[4] != off[4]


def test_staged_runs_count_from_the_decoders_first_iteration(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    # 8 iterations of CMPA come first, during which nobody asks the decoder
    train(voc, tmp_path / "on", settings("affinity.rfm_after=4"))
    train(voc, tmp_path / "off", settings())
    on, off = column(tmp_path / "on", "seg"), column(tmp_path / "off", "seg")
    assert on[:12] == off[:12]
    assert on[12] != off[12]


@pytest.mark.parametrize("supervision", ["labels", "full"])
def test_affinity_loss_joins_seg_by_its_weight(
    voc: LabelledImages, tmp_path: Path, weclip: Settings, supervision: str
) -> None:
    first = []
    for weight in (0.0, 0.1, 0.2):
        config = weclip(f"optim.affinity_weight={weight}")
        train(voc, tmp_path / str(weight), config, supervision=supervision, stop_after=1)
        first.append(column(tmp_path / str(weight), "seg")[0])
    assert first[1] > first[0] + 1e-3
    assert first[2] - first[0] == pytest.approx(2 * (first[1] - first[0]), rel=1e-4)
    config = weclip("optim.affinity_radius=0")  # each patch with itself alone
    train(voc, tmp_path / "alone", config, supervision=supervision, stop_after=1)
    assert abs(column(tmp_path / "alone", "seg")[0] - first[1]) > 1e-4


class Killed(Exception):
    pass


@pytest.mark.parametrize("moment", ["in iteration 13", "before the checkpoint of 12"])
def test_a_killed_run_goes_on(
    voc: LabelledImages,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    # a checkpoint at 6 resumes from the pairs of iteration 4; 8 and 12 pool new ones before 13
    config = settings(
        "optim.schedule=joint",
        "optim.iterations=16",
        "optim.save_every=6",
        "cmpa.update_every=4",
        "cmpa.cam_source=cmpa",
    )
    cache = tmp_path / "cache"
    train(voc, tmp_path / "straight", config, cache=cache)
    name = "backward" if moment == "in iteration 13" else "save_checkpoint"
    original = getattr(module, name)

    def killing(*arguments: object, **options: object) -> object:
        now = arguments[-1] if name == "backward" else arguments[-1].iteration
        if now == 12:
            raise Killed
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, killing)
    with pytest.raises(Killed):
        train(voc, tmp_path / "killed", config, cache=cache)
    monkeypatch.undo()
    with (tmp_path / "killed" / "log.csv").open("a") as log:
        log.write("1")  # a row cut short
    train(voc, tmp_path / "killed", config, cache=cache)
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_one_iteration_more_is_needed_for_the_model(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.iterations=3", "cam.mode=clip")
    assert not train(voc, tmp_path, config, stop_after=2).finished
    assert train(voc, tmp_path, config, stop_after=9).finished
    before = (tmp_path / "model.safetensors").read_bytes()
    again = train(voc, tmp_path, config, stop_after=1)  # nothing is left to do
    assert (again.iteration, again.finished) == (3, True)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_the_seed_matters_and_nothing_outside_does(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.iterations=2", "optim.cmpa_iterations=2")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    train(voc, tmp_path / "a", config)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    train(voc, tmp_path / "b", config)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    train(voc, tmp_path / "c", replace(config, optim=replace(config.optim, seed=1)))
    a, c = (load_file(tmp_path / run / "model.safetensors") for run in "ac")
    assert not torch.equal(a["decoder.fuse.weight"], c["decoder.fuse.weight"])


def test_crops_on_the_device_at_once_change_nothing_but_rounding(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    common = ("optim.iterations=1", "cam.mode=clip", "optim.batch=4", "decoder.dropout=0")
    gradients: list[dict[str, Tensor]] = []
    for micro in ("null", "2"):
        config = settings(*common, f"optim.micro_batch={micro}")
        train(voc, tmp_path / micro, config, supervision="full")
        state = load_file(tmp_path / micro / "checkpoint.safetensors")
        gradients.append({k: v for k, v in state.items() if k.endswith("exp_avg")})
    assert gradients[0]
    for key, value in gradients[0].items():
        # the means over pixels differ from part to part, so the sums agree roughly only
        assert (
            torch.nn.functional.cosine_similarity(
                gradients[1][key].flatten(), value.flatten(), dim=0
            )
            > 0.8
        )


def test_the_loss_falls(voc: LabelledImages, tmp_path: Path, settings: Settings) -> None:
    config = settings(
        "cam.mode=clip", "optim.iterations=30", "optim.decoder_lr=0.003", "data.scale=[1, 1]"
    )
    train(voc, tmp_path, config, supervision="full")
    with (tmp_path / "log.csv").open() as file:
        seg = [float(row["seg"]) for row in csv.DictReader(file)]
    assert sum(seg[-5:]) < 0.6 * sum(seg[:5])


def test_monitoring_changes_nothing_but_the_log(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.iterations=2", "optim.cmpa_iterations=2", "optim.save_every=2")
    train(voc, tmp_path / "plain", config)
    result = train(voc, tmp_path / "watched", config, monitor=replace(voc, samples=voc.samples[:2]))
    plain, watched = (
        load_file(tmp_path / run / "model.safetensors") for run in ("plain", "watched")
    )
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert 0 <= result.last["pseudo_miou"] <= 1
    with (tmp_path / "watched" / "log.csv").open() as file:
        seen = [not math.isnan(float(row["pseudo_miou"])) for row in csv.DictReader(file)]
    assert seen == [False, True, False, True]


def test_another_run_in_the_folder_is_refused_by_name(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.iterations=2", "cam.mode=clip")
    train(voc, tmp_path, config, stop_after=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    other = replace(config, sgc=replace(config.sgc, high=0.7))
    with pytest.raises(CheckpointError, match=r"other settings .sgc\.high = 0\.4 there, 0\.7 now"):
        train(voc, tmp_path, other)
    with pytest.raises(CheckpointError, match=r"supervision = labels there, full now"):
        train(voc, tmp_path, config, supervision="full")
    fewer = replace(voc, classes=voc.classes[:-1])
    with pytest.raises(CheckpointError, match=r"20 classes in the model, 19 .*lack tvmonitor"):
        train(fewer, tmp_path, config)
    swapped = replace(voc, classes=(voc.classes[1], voc.classes[0], *voc.classes[2:]))
    with pytest.raises(CheckpointError, match="the order differs"):
        train(swapped, tmp_path, config)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_full_supervision_needs_masks(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    bare = replace(voc, samples=tuple(replace(sample, truth=None) for sample in voc.samples))
    with pytest.raises(DataError, match=r"6 have none .*such as 2007_000000.*train from labels"):
        train(bare, tmp_path, settings("cam.mode=clip"), supervision="full")


def test_no_usable_pair(voc: LabelledImages, tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(DataError, match=r"cmpa\.min_patches = 99 .*Lower that .*cam\.mode=clip"):
        train(voc, tmp_path, settings("cmpa.min_patches=99"))


@pytest.mark.parametrize("patches", [0, 4])
def test_empty_cams_are_not_blamed_on_a_setting(
    voc: LabelledImages,
    tmp_path: Path,
    settings: Settings,
    patches: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = SSR.initial_cam

    def empty(*arguments: Any, **options: Any) -> InitialCam:
        found = original(*arguments, **options)
        assert found.clip_cam is not None
        return replace(found, cam=found.cam * 0, clip_cam=found.clip_cam * 0)

    monkeypatch.setattr(SSR, "initial_cam", empty)
    with pytest.raises(DataError, match=r"every CAM is empty.* background words") as caught:
        train(voc, tmp_path, settings(f"cmpa.min_patches={patches}"))
    assert "min_patches" not in str(caught.value)


def test_heads_wider_than_clips_space(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    with pytest.raises(ConfigError, match=r"cmpa\.out = 64 exceeds the 32 dimensions"):
        train(voc, tmp_path, settings("cmpa.out=64"))


def test_learning_rate_by_hand() -> None:
    rates = [learning_rate(1.0, step, 10, 4, 2.0) for step in range(10)]
    assert rates[:4] == [1e-6, 0.25, 0.5, 0.75]
    assert rates[4:] == pytest.approx([0.36, 0.25, 0.16, 0.09, 0.04, 0.01])
    assert learning_rate(2.0, 0, 10, 0, 1.0) == 2.0
    assert learning_rate(2.0, 5, 10, 0, 1.0) == 1.0
    assert learning_rate(1.0, 0, 0, 0, 1.0) == 1.0


def test_plan(settings: Settings) -> None:
    staged = plan(settings(), "labels")
    assert (staged.align, staged.segment) == (range(8), range(8, 20))
    assert (staged.crops, staged.total) == (range(8, 20), 20)
    literal = plan(
        settings("cmpa.map_order=project_then_pool", "cmpa.bg_prototypes=none"), "labels"
    )
    assert (literal.crops, literal.total) == (range(20), 20)
    joint = plan(settings("optim.schedule=joint"), "labels")
    assert joint.align == joint.segment == joint.crops == range(12)
    for alone in (plan(settings(), "full"), plan(settings("cam.mode=clip"), "labels")):
        assert (len(alone.align), alone.segment, alone.total) == (0, range(12), 12)
    only_cmpa = plan(settings("optim.iterations=0"), "labels")
    assert (only_cmpa.align, only_cmpa.total) == (range(8), 8)


# --- divergence


def spoil(monkeypatch: pytest.MonkeyPatch, at: int, what: str) -> None:
    """Make the loss, the gradients or the weights of one iteration nan."""
    backward = module.backward

    def spoiled(*arguments: Any) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        state, iteration = arguments[1], arguments[-1]
        proto, seg, rows = backward(*arguments)
        if iteration == at - 1:
            if what == "loss":
                seg = seg * math.nan
            weights = [p for p in state.model.parameters() if p.grad is not None and p.ndim == 2]
            weight = weights[0]
            if what == "gradient":
                assert weight.grad is not None
                weight.grad[0, 0] = 3e20  # its square is infinite
            if what == "weight":
                weight.data.fill_(math.inf)
        return proto, seg, rows

    monkeypatch.setattr(module, "backward", spoiled)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("loss", "the loss is nan"),
        ("gradient", "the square of a gradient is inf"),
        ("weight", "a weight is inf"),
    ],
)
@pytest.mark.parametrize("at", [3, 12])
def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(
    voc: LabelledImages,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    what: str,
    said: str,
) -> None:
    config = settings("optim.save_every=5", "optim.decoder_lr=0.01", "cmpa.update_every=4")
    cache = tmp_path / "cache"
    spoil(monkeypatch, at, what)
    with pytest.raises(DivergenceError) as caught:
        train(voc, tmp_path / "run", config, cache=cache)
    text = str(caught.value)
    assert text.startswith(f"Training diverged in iteration {at} of 20: {said}")
    names = [sample.name for sample in voc.samples]
    assert any(name in text for name in names)
    rate = "optim.cmpa_lr (now 0.0003)" if at <= 8 else "optim.decoder_lr (now 0.01)"
    assert f"in another folder (--out) with a lower {rate}; with these" in text
    assert ("Nothing was saved yet" in text) == (at == 3)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert column(tmp_path / "run", "iteration") == list(range(1, at + 1))
    if at > 5:
        kept = (at - 1) // 5 * 5
        assert f"checkpoint.safetensors holds iteration {kept}." in text
        assert load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").iteration == kept
    # without the cause it goes on, as if nothing had been
    monkeypatch.undo()
    train(voc, tmp_path / "run", config, cache=cache)
    train(voc, tmp_path / "straight", config, cache=cache)
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_the_images_of_the_iteration_that_diverged_are_named(
    voc: LabelledImages, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("cam.mode=clip", "optim.batch=2", "optim.micro_batch=1")
    draws = CropDraws(voc, config.data, None, config.optim.seed)
    names = [voc.samples[draws.row(draw)].name for draw in (2 * 4, 2 * 4 + 1)]
    spoil(monkeypatch, 5, "loss")
    with pytest.raises(DivergenceError) as caught:
        train(voc, tmp_path, config, supervision="full")
    assert f"iteration 5 of 12: the loss is nan. Its images: {', '.join(names)}." in str(
        caught.value
    )


@pytest.mark.parametrize("overrides", [(), ("optim.schedule=joint", "optim.iterations=200")])
def test_a_learning_rate_that_is_too_high(
    voc: LabelledImages, tmp_path: Path, settings: Settings, overrides: tuple[str, ...]
) -> None:
    config = settings(
        "optim.decoder_lr=1e6", "optim.save_every=1", "optim.iterations=60", *overrides
    )
    with pytest.raises(DivergenceError, match=r"lower .*optim\.decoder_lr \(now 1e\+06\)"):
        train(voc, tmp_path, config)
    load_checkpoint(tmp_path / "checkpoint.safetensors")  # every number is finite


@pytest.mark.parametrize("part", ["decoder", "alignment", "optimizer", "prototypes"])
def test_a_checkpoint_with_nan_is_not_gone_on_with(
    voc: LabelledImages, tmp_path: Path, settings: Settings, part: str
) -> None:
    config = settings("optim.schedule=joint")
    train(voc, tmp_path, config, stop_after=3)
    file = tmp_path / "checkpoint.safetensors"
    tensors, name = load_file(file), ""
    for name in sorted(tensors):
        if name.startswith(part) and tensors[name].is_floating_point() and "purity" not in name:
            break
    edited(file, lambda tensors: tensors[name].view(-1)[:1].fill_(math.nan))
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match=rf"nan or infinite .such as {name}"):
        train(voc, tmp_path, config)
    assert file.read_bytes() == before


# --- signals


def signal_at(monkeypatch: pytest.MonkeyPatch, where: str, at: int, *names: str) -> None:
    """Send signals to this process in the middle of an iteration."""
    original = getattr(module, where)

    def signalled(*arguments: Any) -> object:
        if arguments[-1] == at:
            for name in names:
                os.kill(os.getpid(), getattr(signal, name))
        return original(*arguments)

    monkeypatch.setattr(module, where, signalled)


JOINT = ("optim.schedule=joint", "optim.iterations=20")


@pytest.mark.parametrize(
    ("name", "code", "overrides"),
    [
        ("SIGINT", 130, ()),
        ("SIGTERM", 143, (*JOINT, "cmpa.cam_source=cmpa")),
        (
            "SIGHUP",
            129,
            (
                "cmpa.map_order=project_then_pool",
                "cmpa.bg_prototypes=none",
            ),
        ),
    ],
)
def test_a_signal_saves_the_iteration_and_nothing_is_lost(
    voc: LabelledImages,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
    overrides: tuple[str, ...],
) -> None:
    config, cache = settings("cmpa.update_every=4", *overrides), tmp_path / "cache"
    train(voc, tmp_path / "straight", config, cache=cache)
    for at in (2, 3, 9, 17):  # stopped again and again; save_every is 1000
        signal_at(monkeypatch, "backward", at, name)
        with pytest.raises(Interrupted) as caught:
            train(voc, tmp_path / "run", config, cache=cache)
        monkeypatch.undo()
        assert 128 + caught.value.signum == code
        assert f"{at + 1} of 20 iterations are finished and saved in" in str(caught.value)
        found = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
        assert found.iteration == at + 1
    assert train(voc, tmp_path / "run", config, cache=cache).finished
    assert_same_run(tmp_path / "straight", tmp_path / "run")


@pytest.mark.parametrize("at", [0, 5, 10])
def test_a_signal_while_features_are_pooled(
    voc: LabelledImages,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    config = settings(
        "optim.schedule=joint",
        "optim.iterations=16",
        "cmpa.cam_source=cmpa",
        "cmpa.update_every=5",
    )
    cache, run = tmp_path / "cache", tmp_path / "run"
    train(voc, tmp_path / "straight", config, cache=cache)
    signal_at(monkeypatch, "refresh_prototypes", at, "SIGTERM")
    with pytest.raises(Interrupted) as caught:
        train(voc, run, config, cache=cache)
    monkeypatch.undo()
    said = f"{at} of 16 iterations are finished and saved" if at else "nothing was learned yet"
    assert said in str(caught.value)
    assert (run / "checkpoint.safetensors").exists() == (at > 0)
    train(voc, run, config, cache=cache)
    assert_same_run(tmp_path / "straight", run)


def test_the_second_signal_stops_at_once_and_the_last_checkpoint_stays(
    voc: LabelledImages, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("cam.mode=clip", "optim.save_every=4")
    train(voc, tmp_path / "straight", config)
    signal_at(monkeypatch, "backward", 6, "SIGINT", "SIGTERM")
    with pytest.raises(Interrupted, match="Stopped by SIGTERM: at once"):
        train(voc, tmp_path / "run", config)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").iteration == 4
    train(voc, tmp_path / "run", config)
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_a_signal_in_the_last_iteration_finishes_the_run(
    voc: LabelledImages, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at(monkeypatch, "backward", 11, "SIGTERM")
    assert train(voc, tmp_path, settings("cam.mode=clip")).finished
    assert (tmp_path / "model.safetensors").is_file()


def test_loaders_leave_signals_to_the_run(
    voc: LabelledImages, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("cam.mode=clip", "data.workers=2")
    original = module.backward

    def to_all(*arguments: Any) -> object:
        if arguments[-1] == 5:  # as a terminal or a scheduler does
            for child in multiprocessing.active_children():
                for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                    os.kill(child.pid or 0, getattr(signal, name))
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(module, "backward", to_all)
    with pytest.raises(Interrupted, match="6 of 12 iterations"):
        train(voc, tmp_path, config)
    monkeypatch.undo()
    assert train(voc, tmp_path, config).finished


def test_bars_count_the_iterations_of_the_whole_run(
    voc: LabelledImages, tmp_path: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    result = train(voc, tmp_path, settings(), stop_after=5)
    assert (result.iteration, result.total) == (5, 20)
    assert "Aligning 5/5, " in capfd.readouterr().err
    train(voc, tmp_path, settings(), stop_after=11)
    said = capfd.readouterr().err
    assert "Aligning 8/8, " in said
    assert "Training 11/11, " in said
    train(voc, tmp_path, settings())
    assert "Training 20/20, " in capfd.readouterr().err


@pytest.mark.parametrize("stop_after", [-1, 2.5, "3", True])
def test_arguments_that_make_no_sense(stop_after: object) -> None:
    # what train calls first: typeguards of the test run would be faster
    with pytest.raises(ConfigError, match=r"stop_after = .*a number of iterations"):
        module.check_arguments("labels", stop_after)
    with pytest.raises(
        ConfigError, match=r"supervision = .none., but it is \"labels\" or \"full\""
    ):
        module.check_arguments("none", None)


# --- what decides a run


def own_copy(voc: LabelledImages, folder: Path) -> LabelledImages:
    """The same images in files that a test may change."""
    folder.mkdir()
    samples = []
    for sample in voc.samples:
        image = folder / sample.image.name
        shutil.copy(sample.image, image)
        samples.append(replace(sample, image=image))
    return replace(voc, samples=tuple(samples))


def test_a_replaced_image_of_the_same_size_is_noticed(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    data = own_copy(voc, tmp_path / "images")
    config = settings("cam.mode=clip", "optim.iterations=4")
    train(data, tmp_path / "run", config, stop_after=2)
    image = data.samples[0].image
    before, content = image.stat(), bytearray(image.read_bytes())
    content[-3] ^= 1
    image.write_bytes(content)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert image.stat().st_size == before.st_size
    with pytest.raises(CheckpointError, match="other images, labels or true masks"):
        train(data, tmp_path / "run", config)
    # a copy with other times elsewhere is the same data
    train(own_copy(voc, tmp_path / "elsewhere"), tmp_path / "run", config)


def test_an_image_that_went_missing_makes_another_run(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    data, config = own_copy(voc, tmp_path / "images"), settings("cam.mode=clip")
    train(data, tmp_path / "run", config, stop_after=1)
    data.samples[2].image.unlink()
    with pytest.raises(CheckpointError, match="other images, labels or true masks"):
        train(data, tmp_path / "run", config)
    with pytest.raises(DataError, match=rf"{data.samples[2].image} does not exist"):
        train(data, tmp_path / "new", config, strict=True)


@pytest.mark.parametrize("supervision", ["labels", "full"])
def test_images_that_cannot_be_used_are_left_out(
    voc: LabelledImages, tmp_path: Path, settings: Settings, supervision: Supervision
) -> None:
    """The run is that of the other images, and goes on as that one."""
    config = settings("optim.iterations=3", "optim.cmpa_iterations=3", "cmpa.min_patches=1")
    data = own_copy(voc, tmp_path / "images")
    bad = [data.samples[1], data.samples[3]]
    rest = tuple(sample for sample in data.samples if sample not in bad)
    expected = train(
        replace(data, samples=rest), tmp_path / "rest", config, supervision=supervision
    )
    bad[0].image.write_bytes(bad[0].image.read_bytes()[:200])
    if supervision == "full":
        assert bad[1].truth is not None
        mask = tmp_path / "cut.png"
        mask.write_bytes(bad[1].truth.read_bytes()[:90])
        samples = [replace(s, truth=mask) if s is bad[1] else s for s in data.samples]
        data = replace(data, samples=tuple(samples))
    else:
        Image.new("RGB", (9, 40)).save(bad[1].image)
    for stop in (2, None):
        found = train(data, tmp_path / "run", config, supervision=supervision, stop_after=stop)
        assert [each.name for each in found.failures] == [each.name for each in bad]
    assert (tmp_path / "run" / "failures.csv").read_text().count("\n") == 3
    weights = [load_checkpoint(each.run).tensors for each in (expected, found)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    with pytest.raises(DataError, match=rf"{data.root} has 2 faults:\n"):
        train(data, tmp_path / "strict", config, supervision=supervision, strict=True)
    assert not (tmp_path / "strict" / "model.safetensors").exists()


def test_another_clip_of_the_same_shape_is_refused(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.iterations=2", "optim.cmpa_iterations=2")
    train(voc, tmp_path / "run", config, stop_after=3)
    here = tiny_clip(tmp_path / "moved")  # the same weights at another place
    other = tiny_clip(tmp_path / "other", seed=8)
    other_dino = tiny_dino(tmp_path / "dino", seed=8)
    clip, dino = Path(config.backbones.clip), Path(config.backbones.dino)

    def at(clip: Path, dino: Path) -> Config:
        return replace(config, backbones=replace(config.backbones, clip=str(clip), dino=str(dino)))

    assert train(voc, tmp_path / "run", at(here, dino)).finished
    # the folder that the run remembers holds other weights now
    for source, name in ((other, "CLIP"), (other_dino, "DINO")):
        put = tmp_path / f"put-{name}"
        shutil.copytree(clip if name == "CLIP" else dino, put)
        chosen = at(put, dino) if name == "CLIP" else at(clip, put)
        run = tmp_path / f"run-{name}"
        train(voc, run, chosen, stop_after=1)
        shutil.copytree(source, put, dirs_exist_ok=True)
        with pytest.raises(CheckpointError, match=rf"was trained with another {name} than {put}"):
            train(voc, run, chosen)


def test_another_clip_for_a_trained_model(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.iterations=2", "optim.cmpa_iterations=2")
    run = tmp_path / "run"
    train(voc, run, config)
    other = tiny_clip(tmp_path / "other", seed=8)
    for segment_only in (True, False):
        with pytest.raises(CheckpointError, match=r"trained with another CLIP than .*other"):
            SSR.from_pretrained(run, clip=other, segment_only=segment_only)
    with pytest.raises(CheckpointError, match=r"trained with another DINO than .*dino"):
        SSR.from_pretrained(run, dino=tiny_dino(tmp_path / "dino", seed=8))
    elsewhere = replace(config, backbones=replace(config.backbones, clip=str(other)))
    with pytest.raises(CheckpointError, match=r"trained with another CLIP than .*other"):
        SSR.for_data(elsewhere, voc, run)
    moved = SSR.from_pretrained(run, clip=tiny_clip(tmp_path / "moved"))
    moved.save_pretrained(tmp_path / "saved")
    assert load_checkpoint(tmp_path / "saved").encoders == load_checkpoint(run).encoders
    assert load_checkpoint(run).encoders == moved.encoders
    assert sorted(moved.encoders) == ["clip", "clip_text", "dino"]


def test_speed_settings_do_not_change_a_model(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    contents = []
    for number, speed in enumerate(("data.workers=0", "data.workers=2")):
        config = settings("optim.iterations=2", "optim.cmpa_iterations=2", speed)
        train(voc, tmp_path / str(number), config, stop_after=1 + number)
        later = settings("optim.iterations=2", "optim.cmpa_iterations=2", "optim.save_every=3")
        train(voc, tmp_path / str(number), later)
        contents.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert contents[0] == contents[1]


def test_every_session_is_recorded(voc: LabelledImages, tmp_path: Path, settings: Settings) -> None:
    config = settings("cam.mode=clip", "optim.iterations=4")
    train(voc, tmp_path, config, stop_after=3)
    train(voc, tmp_path, config)
    train(voc, tmp_path, config)  # nothing to do is no session
    first, second = yaml.safe_load((tmp_path / "machine.yaml").read_text())
    assert (first["from_iteration"], second["from_iteration"]) == (0, 3)
    assert first["threads"] == torch.get_num_threads()
    assert first["torch"] == torch.__version__
    assert (first["device"], first["float32_matmul"]) == ("cpu", "highest")
    assert datetime.fromisoformat(first["started"]) <= datetime.fromisoformat(second["started"])


# --- damaged run folders


@pytest.mark.parametrize("content", [b"", b"\0" * 4000], ids=["empty", "zeros"])
def test_damaged_features_are_pooled_again(
    voc: LabelledImages, tmp_path: Path, settings: Settings, content: bytes
) -> None:
    config, cache = settings("cmpa.update_every=5"), tmp_path / "cache"
    train(voc, tmp_path / "straight", config, cache=cache)
    train(voc, tmp_path / "run", config, cache=cache, stop_after=3)
    (file,) = (tmp_path / "run").glob("foreground-*.safetensors")
    file.write_bytes(content)
    train(voc, tmp_path / "run", config, cache=cache)
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_damaged_features_that_cannot_be_pooled_again(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.schedule=joint", "cmpa.cam_source=cmpa", "cmpa.update_every=5")
    train(voc, tmp_path, config, stop_after=3)
    (file,) = tmp_path.glob("foreground-*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-9])
    with pytest.raises(CheckpointError, match=r"is missing or damaged.*another folder \(--out\)"):
        train(voc, tmp_path, config)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"is missing or damaged"):
        train(voc, tmp_path, config)
    file.write_bytes(content)
    assert train(voc, tmp_path, config).finished


def edited(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(file)
    with safe_open(file, "pt") as reader:
        metadata = reader.metadata()
    change(tensors)
    header = json.loads(metadata["ssrseg"]) | {"tensors": weights_digest(tensors)}
    save_file(tensors, file, metadata={"ssrseg": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("optimizer.3.exp_avg"), "optimizer .*3.exp_avg is missing"),
        (lambda t: t.update({"optimizer.x": torch.ones(1)}), "optimizer .*x has no place"),
        (lambda t: t.update({"optimizer.99.step": torch.ones(1)}), "99.step has no place"),
        (lambda t: t.update({"optimizer.3.step": torch.ones(2)}), r"3.step is float32 \[2\]"),
        (lambda t: t.update({"prototypes.image": torch.ones(2, 2)}), r"image is float32 \[2, 2\]"),
        (lambda t: t.pop("prototypes.image"), r"image is missing"),
        (lambda t: t.pop("decoder.fuse.bias"), r"decoder in .* fuse.bias is missing"),
        (
            lambda t: [t.pop(name) for name in list(t) if name.startswith("prototypes")],
            r"holds no prototypes",
        ),
    ],
)
def test_checkpoints_that_lack_something(
    voc: LabelledImages,
    tmp_path: Path,
    settings: Settings,
    change: Callable[[dict[str, Tensor]], object],
    said: str,
) -> None:
    config = settings("optim.schedule=joint")
    train(voc, tmp_path, config, stop_after=3)
    edited(tmp_path / "checkpoint.safetensors", change)
    with pytest.raises(CheckpointError, match=said):
        train(voc, tmp_path, config)


def test_only_one_training_in_a_folder(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    with only_writer(tmp_path), pytest.raises(OutputError, match="is being written by"):
        train(voc, tmp_path, settings())


def test_stopped_while_the_monitor_is_scored(
    voc: LabelledImages, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is written before, and the score is made up for."""
    config = settings("optim.iterations=4", "optim.cmpa_iterations=2", "optim.save_every=3")
    monitor = replace(voc, samples=voc.samples[:1])
    train(voc, tmp_path / "straight", config, monitor=monitor)
    score = module.pseudo_mask_miou

    def interrupted(*_: object) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal did not interrupt")

    for finished in (3, 6):
        monkeypatch.setattr(module, "pseudo_mask_miou", interrupted)
        with pytest.raises(Interrupted, match=f"{finished} of 6 iterations are finished and saved"):
            train(voc, tmp_path / "run", config, monitor=monitor)
        monkeypatch.setattr(module, "pseudo_mask_miou", score)
        if finished == 3:
            train(voc, tmp_path / "run", config, monitor=monitor, stop_after=4)
    train(voc, tmp_path / "run", config, monitor=monitor)
    for name in ("log.csv", "model.safetensors", "checkpoint.safetensors"):
        found, expected = (tmp_path / run / name for run in ("run", "straight"))
        assert found.read_bytes() == expected.read_bytes(), name


def test_settings_of_a_person_are_not_replaced(
    voc: LabelledImages, tmp_path: Path, settings: Settings
) -> None:
    config = settings("optim.iterations=1", "optim.cmpa_iterations=1")
    own = tmp_path / "config.yaml"
    for text in ("sgc:\n  high: 0.3  # mine\n", "no settings at all"):
        own.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.yaml was not written by ssrseg"):
            train(voc, tmp_path, config)
        assert own.read_text() == text
    own.write_text(settings("optim.iterations=9").to_yaml())  # of a run killed at its beginning
    assert train(voc, tmp_path, config).finished
    assert own.read_text() == config.to_yaml()
