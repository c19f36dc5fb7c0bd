from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssrseg import checkpoint as module
from ssrseg.checkpoint import (
    MODEL_FILE,
    Checkpoint,
    check_same_classes,
    load_checkpoint,
    load_part,
    model_digest,
    save_checkpoint,
)
from ssrseg.config import Config, load_config
from ssrseg.errors import CheckpointError


@pytest.fixture
def example() -> Checkpoint:
    layer = nn.Linear(3, 2)
    return Checkpoint(
        {f"decoder.{name}": value for name, value in layer.state_dict().items()}
        | {"optimizer.0.step": torch.tensor(4.0), "decoder_too.x": torch.ones(1).double()},
        load_config("demo", overrides=["sgc.high=0.7"]),
        ("red car", "Größe"),
        ("a red car, a toy.", "a sky."),
        "0123456789abcdef",
        4,
        "full",
    )


def test_round_trip(example: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "deep" / MODEL_FILE
    save_checkpoint(path, example)
    for source in (path, path.parent):
        found = load_checkpoint(source)
        assert found.tensors.keys() == example.tensors.keys()
        assert all(torch.equal(found.tensors[key], value) for key, value in example.tensors.items())
        assert replace(found, tensors={}) == replace(example, tensors={})
    assert list(path.parent.iterdir()) == [path]


def test_tensors_do_not_change_with_the_file(example: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / MODEL_FILE, example)
    found = load_checkpoint(tmp_path)
    with (tmp_path / MODEL_FILE).open("r+b") as file:  # in place, as a mapped file would show
        file.write(bytes((tmp_path / MODEL_FILE).stat().st_size))
    assert all(torch.equal(found.tensors[key], value) for key, value in example.tensors.items())


def test_the_file_is_readable_without_ssrseg(example: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / MODEL_FILE, example)
    with safe_open(tmp_path / MODEL_FILE, "pt") as reader:
        header = json.loads(reader.metadata()["ssrseg"])
    assert header["classes"] == ["red car", "Größe"]
    assert header["config"]["sgc"]["high"] == 0.7
    assert header["format"] == "ssrseg-1"


def test_parts_are_told_apart_by_the_first_word(example: Checkpoint) -> None:
    assert sorted(example.part("decoder")) == ["bias", "weight"]
    assert sorted(example.part("decoder_too")) == ["x"]
    assert example.part("alignment") == {}


def test_part_that_does_not_fit(example: Checkpoint) -> None:
    load_part(nn.Linear(3, 2), example, "decoder", Path("run"))
    for other in (nn.Linear(4, 2), nn.Linear(3, 2, bias=False)):
        with pytest.raises(
            CheckpointError,
            match=r"The decoder in run does not fit .*weights/clip.*--clip",
        ) as caught:
            load_part(other, example, "decoder", Path("run"))
        assert "\n" not in str(caught.value)


def test_missing_and_unfinished(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"--model\) is a folder without model\.safetensors.* finish it"
    ):
        load_checkpoint(tmp_path)
    (tmp_path / "run").mkdir()
    for read in (load_checkpoint, model_digest):
        with pytest.raises(CheckpointError) as caught:
            read(tmp_path / "rum")
        assert str(caught.value).startswith(
            f"model {tmp_path}/rum (--model) does not exist, seen from {Path.cwd()}. Did you mean"
            ' "run"? Give a run folder written by'
        )
        with pytest.raises(CheckpointError, match="path of a model is empty"):
            read("")


def test_paths_as_text(
    example: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_checkpoint(tmp_path / "run" / MODEL_FILE, example)
    assert load_checkpoint("~/run").classes == example.classes
    assert model_digest("~/run") == model_digest(tmp_path / "run" / MODEL_FILE)


def test_shown_without_its_tensors(example: Checkpoint) -> None:
    assert "tensor" not in repr(example)
    assert "red car" in repr(example)


def without_header(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)


def header(text: str) -> Callable[[Path], None]:
    return lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"ssrseg": text})


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not a checkpoint at all"),
        without_header,
        header("{broken"),
        header("[1, 2]"),
        header('{"config": {}}'),
    ],
)
def test_damage(example: Checkpoint, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / MODEL_FILE
    save_checkpoint(path, example)
    damage(path)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors is not a checkpoint of ssrseg, or it is damaged"
    ):
        load_checkpoint(tmp_path)


def test_settings_of_another_version(example: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILE
    table = json.dumps({"config": {"sgc": {"old_name": 1}}})
    save_file({"a": torch.zeros(1)}, path, metadata={"ssrseg": table})
    with pytest.raises(CheckpointError, match=r'another version of ssrseg: .*"sgc\.old_name"'):
        load_checkpoint(path)


def test_a_kill_while_saving_leaves_the_old_file(
    example: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / MODEL_FILE
    save_checkpoint(path, example)
    before = path.read_bytes()

    def half(tensors: dict[str, Tensor], file: Path, metadata: object) -> None:
        Path(file).write_bytes(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, replace(example, iteration=5))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert load_checkpoint(path).iteration == 4


def test_classes() -> None:
    check_same_classes(("a", "b"), ("a", "b"), Path("m"))
    with pytest.raises(CheckpointError, match=r"m was .*2 classes in the model, 1 .*data lack b"):
        check_same_classes(("a", "b"), ("a",), Path("m"))
    with pytest.raises(CheckpointError, match=r"the model lacks c; the data lack b"):
        check_same_classes(("a", "b"), ("a", "c"), Path("m"))
    with pytest.raises(CheckpointError, match=r"the order differs"):
        check_same_classes(("a", "b"), ("b", "a"), Path("m"))


def test_the_default_configuration_survives(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / MODEL_FILE, Checkpoint({"a.b": torch.zeros(1)}, Config(), ("a",)))
    assert load_checkpoint(tmp_path).config == Config()
