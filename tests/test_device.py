from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_tiny import tiny_voc
from tiny_encoders import tiny_config

from ssrseg import device as module
from ssrseg.checkpoint import load_checkpoint
from ssrseg.config import Config, load_config
from ssrseg.data.open import open_labelled
from ssrseg.device import bf16_share, describe_bf16, pick_device, settled_precision
from ssrseg.doctor import examine
from ssrseg.errors import CheckpointError, ConfigError, OutputError
from ssrseg.model import SSR
from ssrseg.paper.workspace import Workspace
from ssrseg.pseudo_masks import make_masks
from ssrseg.training import train

AUTO, SLOW, FAST = "backbones.precision=auto", 5.4, 0.4


def measured(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    module._note_once.cache_clear()
    monkeypatch.setattr(module, "bf16_share", lambda _: share)


def test_a_device_that_is_not_there() -> None:
    assert pick_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r'"meta" \(--device\) cannot be used here'):
        pick_device("meta")


def test_fp32_means_fp32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as PyTorch begins
    pick_device("cpu")
    assert torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module.torch, "zeros", lambda *_, device: torch.ones(1))  # no GPU is here
    assert pick_device("auto") == "cuda"
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_share_is_that_of_the_quickest_products(monkeypatch: pytest.MonkeyPatch) -> None:
    # starts and ends of four products in fp32, then in bf16
    clock = iter([0, 9, 10, 14, 20, 26, 30, 35, 40, 70, 80, 88, 90, 92, 95, 98])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    assert bf16_share.__wrapped__("cpu") == 2 / 4


@pytest.mark.parametrize(
    ("share", "chosen"), [(SLOW, "fp32"), (1.0, "fp32"), (0.71, "fp32"), (0.7, "bf16")]
)
def test_auto_chooses_by_the_products(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], share: float, chosen: str
) -> None:
    measured(monkeypatch, share)
    config = load_config(overrides=AUTO)
    for _ in range(2):
        found = settled_precision(config, "cpu")
    wanted = replace(config, backbones=replace(config.backbones, precision=chosen))
    assert found == wanted
    said = capsys.readouterr().err
    assert said.count("Note:") == 1  # however often it is asked
    assert f"Encoders in {chosen}: a product takes {share:.2g} of its time in fp32" in said
    assert describe_bf16("cpu").endswith(f"precision=auto takes {chosen}")


@pytest.mark.parametrize("share", [SLOW, FAST])
def test_what_is_asked_for_is_taken_with_a_warning_where_it_is_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    measured(monkeypatch, share)
    for precision in ("fp32", "bf16"):
        config = load_config(overrides=f"backbones.precision={precision}")
        assert settled_precision(config, "cpu") is config
        said = capsys.readouterr().err
        slow = precision == "bf16" and share > 1
        assert ("takes 5.4 times as long as in fp32" in said) == slow
        assert bool(said) == slow


def test_doctor_says_how_fast_bf16_is(
    monkeypatch: pytest.MonkeyPatch, clip_dir: Path, dino_dir: Path
) -> None:
    measured(monkeypatch, SLOW)
    said = {each.what: each.found for each in examine(tiny_config(clip_dir, dino_dir))}
    assert said["bf16"] == describe_bf16("cpu")
    assert "takes 5.4 of its time" in said["bf16"]


@pytest.fixture(scope="module")
def auto(clip_dir: Path, dino_dir: Path) -> Config:
    return tiny_config(clip_dir, dino_dir, "optim.iterations=4", "optim.cmpa_iterations=2", AUTO)


def test_a_run_and_masks_keep_the_arithmetic_that_they_began_with(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    auto: Config,
) -> None:
    voc = open_labelled(tiny_voc(tmp_path / "voc"))
    run, masks = tmp_path / "run", tmp_path / "masks"
    measured(monkeypatch, FAST)
    train(voc, run, auto, stop_after=3)
    make_masks(voc, masks, auto)
    assert "precision: bf16" in (run / "config.yaml").read_text()
    capsys.readouterr()
    # on another machine
    measured(monkeypatch, SLOW)
    assert train(voc, run, auto).finished
    assert make_masks(voc, masks, auto).written == 0
    said = capsys.readouterr().err
    assert "Encoders in" not in said
    assert "takes 5.4 times as long" in said
    assert load_checkpoint(run).config.backbones.precision == "bf16"
    fp32 = replace(auto, backbones=replace(auto.backbones, precision="fp32"))
    with pytest.raises(CheckpointError, match=r"precision"):
        train(voc, run, fp32)
    with pytest.raises((ConfigError, OutputError), match=r"precision"):
        make_masks(voc, masks, fp32)


def test_a_model_answers_auto_with_what_it_was_loaded_in(
    monkeypatch: pytest.MonkeyPatch, auto: Config
) -> None:
    measured(monkeypatch, FAST)
    model = SSR.from_config(auto, ("cat", "dog"))
    assert model.config.backbones.precision == "bf16"
    measured(monkeypatch, SLOW)
    assert model.with_config(auto).config == model.config


def test_tables_want_one_arithmetic(tmp_path: Path, auto: Config) -> None:
    with pytest.raises(ConfigError, match=r"Set fp32 or bf16"):
        Workspace(tmp_path, auto).settings(0)
