from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_tiny import tiny_voc
from safetensors.torch import load_file
from tiny_encoders import tiny_config
from torch import Tensor

from ssrseg import training as module
from ssrseg.config import Config
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import CheckpointError, DataError
from ssrseg.training import learning_rate, plan, train
from ssrseg.training_log import FIELDS

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
    ("cmpa.map_order=project_then_pool", "cam.readout=gradcam"),
    ("cmpa.cam_source=refined", "affinity.rfm_after=4"),
    ("cmpa.map_order=project_then_pool", "cmpa.bg_pairs=0"),
    ("optim.schedule=joint", "optim.iterations=20", "cmpa.map_order=project_then_pool"),
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
    assert float(rows[3]["proto"]) > 0
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
    name = "_backward" if moment == "in iteration 13" else "save_checkpoint"
    original = getattr(module, name)

    def killing(*arguments: object, **options: object) -> object:
        now = arguments[-1] if name == "_backward" else arguments[-1].iteration
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
    with pytest.raises(DataError, match=r"cmpa\.min_patches = 99 .*cam\.mode=clip"):
        train(voc, tmp_path, settings("cmpa.min_patches=99"))


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
    literal = plan(settings("cmpa.map_order=project_then_pool"), "labels")
    assert (literal.crops, literal.total) == (range(20), 20)
    joint = plan(settings("optim.schedule=joint"), "labels")
    assert joint.align == joint.segment == joint.crops == range(12)
    for alone in (plan(settings(), "full"), plan(settings("cam.mode=clip"), "labels")):
        assert (len(alone.align), alone.segment, alone.total) == (0, range(12), 12)
    only_cmpa = plan(settings("optim.iterations=0"), "labels")
    assert (only_cmpa.align, only_cmpa.total) == (range(8), 8)
