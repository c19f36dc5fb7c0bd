from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssrseg import checkpoint as module
from ssrseg.checkpoint import (
    MODEL_FILE,
    Checkpoint,
    check_same_classes,
    check_same_encoders,
    check_same_run,
    load_checkpoint,
    load_part,
    model_digest,
    save_checkpoint,
)
from ssrseg.config import Config, load_config
from ssrseg.errors import CheckpointError
from ssrseg.networks.frozen import weights_digest
from ssrseg.training import train


@pytest.fixture
def example() -> Checkpoint:
    layer = nn.Linear(3, 2)
    return Checkpoint(
        {f"decoder.{name}": value for name, value in layer.state_dict().items()}
        | {"optimizer.0.step": torch.tensor(4.0), "decoder_too.x": torch.ones(1).double()},
        load_config("demo", overrides=["sgc.high=0.7", "optim.save_every=null"]),
        ("red car", "Größe"),
        ("a red car, a toy.", "a size.", "a sky."),
        "0123456789abcdef",
        4,
        "full",
        {"clip": "c" * 16, "clip_text": "t" * 16},
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


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes")
def test_a_folder_whose_name_is_not_utf8_is_refused_before_work_begins(
    example: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / os.fsdecode(b"r\xff")
    save_checkpoint(folder / MODEL_FILE, example)
    with pytest.raises(CheckpointError, match=r"not in UTF-8.*Rename"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"not in UTF-8.*Rename"):
        train(tmp_path, folder)


def test_shown_without_its_tensors(example: Checkpoint) -> None:
    assert "tensor" not in repr(example)
    assert "red car" in repr(example)


def rewrite(path: Path, example: Checkpoint, **changes: object) -> None:
    """Write the example with another header."""
    save_checkpoint(path, example)
    tensors = load_file(path)
    with safe_open(path, "pt") as reader:
        table = json.loads(reader.metadata()["ssrseg"])
    save_file(tensors, path, metadata={"ssrseg": json.dumps(table | changes)})


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
        header("[" * 5000),
        header("1" * 5000),
        header("null"),
        header('"\\ud800"'),
    ],
)
def test_damage(example: Checkpoint, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / MODEL_FILE
    save_checkpoint(path, example)
    damage(path)
    with pytest.raises(
        CheckpointError,
        match=r"model\.safetensors is not a checkpoint of ssrseg, or of another version",
    ):
        load_checkpoint(tmp_path)


def test_settings_of_another_version(example: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILE
    rewrite(path, example, config={"sgc": {"old_name": 1}})
    with pytest.raises(CheckpointError, match=r'another version of it.*"sgc\.old_name"'):
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
    made = Checkpoint({"a.b": torch.zeros(1)}, Config(), ("a",), ("a",))
    save_checkpoint(tmp_path / MODEL_FILE, made)
    assert load_checkpoint(tmp_path).config == Config()


CONFIG = Config().to_dict()


def with_setting(section: str, key: str, value: object) -> dict[str, object]:
    return {**CONFIG, section: {**CONFIG[section], key: value}}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "ssrseg-2"},
        {"format": None},
        {"classes": "dog"},
        {"classes": []},
        {"classes": [1, 2]},
        {"classes": ["a", "a"]},
        {"classes": ["a", ""]},
        {"classes": [f"class {number}" for number in range(300)]},
        {"classes": ["\ud800", "b"]},
        {"texts": ["one"]},
        {"texts": None},
        {"iteration": -1},
        {"iteration": 10**30},
        {"iteration": 1.5},
        {"supervision": "none"},
        {"encoders": ["clip"]},
        {"encoders": {"clip": 3}},
        {"data": {}},
        {"more": 1},
        {"config": []},
        {"config": {"sgc": 3}},
        {"config": {"sgc": {"high": None}}},
        {"config": with_setting("decoder", "layers", 100_000)},
        {"config": with_setting("decoder", "layers", -1)},
        {"config": with_setting("decoder", "layers", 10**400)},
        {"config": with_setting("cmpa", "hidden", 10**9)},
        {"config": with_setting("cmpa", "out", 10**9)},
        {"config": with_setting("cmpa", "depth", 10**6)},
        {"config": with_setting("test", "long_side", 30_000)},
        {"config": with_setting("test", "scales", [1.0] * 1000)},
        {"config": with_setting("test", "scales", [1e9])},
        {"config": with_setting("test", "crf_iterations", 10**9)},
        {"config": with_setting("data", "workers", 10**6)},
        {"config": with_setting("data", "max_side", 10**9)},
        {"config": with_setting("sgc", "k_colour", 10**9)},
        {"config": with_setting("pseudo", "par_dilations", [10**9])},
        {"config": with_setting("affinity", "power", 10**9)},
        {"config": with_setting("test", "flip", "NaN")},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_headers_that_make_no_sense(
    example: Checkpoint, tmp_path: Path, changes: dict[str, object]
) -> None:
    rewrite(tmp_path / MODEL_FILE, example, **changes)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of ssrseg") as caught:
        load_checkpoint(tmp_path)
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


def test_a_file_larger_than_any_model_is_not_read(example: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILE
    save_checkpoint(path, example)
    with safe_open(path, "pt") as reader:
        table = {"__metadata__": reader.metadata()}
    side = 1 << 16  # 16 GiB of zeros that lie nowhere
    table["decoder.huge"] = {
        "dtype": "F32",
        "shape": [side, side],
        "data_offsets": [0, 4 * side**2],
    }
    text = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 4 * side**2)
    with pytest.raises(CheckpointError, match=r"holds 4,294,967,296 numbers"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["decoder.bias", "optimizer.0.step", "prototypes.image"])
def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(
    example: Checkpoint, tmp_path: Path, name: str, value: float
) -> None:
    path = tmp_path / MODEL_FILE
    save_checkpoint(path, example)
    before = path.read_bytes()
    tensors = {**example.tensors, name: torch.tensor([1.0, value])}
    message = rf"1 tensor holds numbers that are nan or infinite \(such as {name}\).*diverged"
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(path, replace(example, tensors=tensors))
    assert path.read_bytes() == before
    rewrite(path, replace(example, tensors={}), tensors=weights_digest(tensors))
    with safe_open(path, "pt") as reader:
        table = reader.metadata()
    save_file(tensors, path, metadata=table)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_a_single_bit_is_noticed(example: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILE
    save_checkpoint(path, example)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1  # in the numbers
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="its numbers are not those that were written"):
        load_checkpoint(path)


def test_purity_may_be_unknown(example: Checkpoint, tmp_path: Path) -> None:
    tensors = {"prototypes.purity": torch.tensor(float("nan"))}
    save_checkpoint(tmp_path / MODEL_FILE, replace(example, tensors=tensors))
    assert load_checkpoint(tmp_path).tensors["prototypes.purity"].isnan()


def test_what_decides_no_result_is_not_in_the_file(example: Checkpoint, tmp_path: Path) -> None:
    files = []
    for changes in ((), ("data.workers=2", "optim.save_every=3"), ("data.patches=7",)):
        config = load_config(base=example.config.to_dict(), overrides=changes)
        save_checkpoint(tmp_path / MODEL_FILE, replace(example, config=config))
        files.append((tmp_path / MODEL_FILE).read_bytes())
    assert files[0] == files[1] != files[2]  # how many are seen together decides last digits
    assert b"save_every" not in files[0]
    assert load_checkpoint(tmp_path).config.data.patches == 7
    changed = replace(example, config=load_config(base=example.config.to_dict(), overrides=changes))
    check_same_run(load_checkpoint(tmp_path), replace(example, tensors={}), tmp_path)
    check_same_run(example, replace(changed, tensors={}), tmp_path)


def test_prompts_that_differ_are_named(example: Checkpoint) -> None:
    now = replace(example, texts=("a red car, a toy.", "a height.", "a sea."))
    with pytest.raises(CheckpointError) as caught:
        check_same_run(example, now, Path("run/checkpoint.safetensors"))
    assert (
        'run holds a run with other settings (prompt of "Größe" = "a size." there, "a height." now;'
        ' background texts: "a sky." left out, "a sea." new).'
    ) in str(caught.value)


def test_digests_of_encoders_are_compared_by_name() -> None:
    there = {"clip": "aa", "clip_text": "bb", "dino": "cc"}
    backbones = Config().backbones
    check_same_encoders(there, there, backbones, Path("m"))
    check_same_encoders(there, {"clip": "aa"}, backbones, Path("m"))  # all that predict loads
    check_same_encoders({"clip": "aa"}, there, backbones, Path("m"))
    with pytest.raises(
        CheckpointError,
        match=r"m was trained with another CLIP than openai/clip-vit-base-patch16: .*aa there, zz"
        r" here.*\(--clip\)",
    ):
        check_same_encoders(there, {"clip": "zz"}, backbones, Path("m"))
    with pytest.raises(CheckpointError, match=r"another CLIP .*weights of its text tower differ"):
        check_same_encoders(there, {**there, "clip_text": "zz"}, backbones, Path("m"))
    with pytest.raises(CheckpointError, match=r"another DINO than facebook.*\(--dino\)"):
        check_same_encoders(there, {**there, "dino": "zz"}, backbones, Path("m"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("decoder.weight", None, "weight is missing"),
        ("decoder.weight", torch.zeros(2, 4), r"weight is float32 \[2, 4\], not float32 \[2, 3\]"),
        ("decoder.weight", torch.zeros(2, 3).double(), r"weight is float64 \[2, 3\], not float32"),
        ("decoder.weight", torch.zeros(2, 3, dtype=torch.int8), r"weight is int8"),
        ("decoder.other", torch.zeros(1), "other has no place"),
    ],
)
def test_tensors_that_do_not_fit(
    example: Checkpoint, name: str, value: Tensor | None, said: str
) -> None:
    tensors = {key: each for key, each in example.tensors.items() if key != name}
    tensors |= {} if value is None else {name: value}
    with pytest.raises(CheckpointError, match=said):
        load_part(nn.Linear(3, 2), replace(example, tensors=tensors), "decoder", Path("run"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("written") / MODEL_FILE
    made = Checkpoint({"decoder.weight": torch.ones(3)}, Config(), ("a", "b"), ("a", "b", "c"))
    save_checkpoint(path, made)
    return path.read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 5000), st.integers(0, 40), st.binary(max_size=40)), max_size=4
    ),
    end=st.integers(0, 6000),
)
def test_whatever_the_bytes_only_our_errors_come_out(
    tmp_path: Path, written: bytes, edits: list[tuple[int, int, bytes]], end: int
) -> None:
    content = written
    for at, length, new in edits:
        content = content[:at] + new + content[at + length :]
    (tmp_path / MODEL_FILE).write_bytes(content[:end] if end < 3000 else content)
    with contextlib.suppress(CheckpointError):
        assert load_checkpoint(tmp_path).classes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    key=st.sampled_from(["classes", "texts", "data", "iteration", "encoders", "config", "version"]),
    setting=st.sampled_from([(s, k) for s, values in CONFIG.items() for k in values]),
    value=JSON,
)
def test_whatever_the_header_only_our_errors_come_out(
    tmp_path: Path, example: Checkpoint, key: str, setting: tuple[str, str], value: object
) -> None:
    changes = {key: with_setting(*setting, value) if key == "config" else value}
    rewrite(tmp_path / MODEL_FILE, example, **changes)
    with contextlib.suppress(CheckpointError):
        load_checkpoint(tmp_path)
