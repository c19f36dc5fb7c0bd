from __future__ import annotations

import csv
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from command import exit_code
from make_tiny import tiny_folder, tiny_voc
from PIL import Image
from tiny_encoders import tiny_clip, tiny_config, tiny_dino

from ssrseg import __version__
from ssrseg.checkpoint import load_checkpoint, model_digest
from ssrseg.cli import app
from ssrseg.config import describe, known_keys, preset_names

VERBS = (
    *("demo", "check", "masks", "train", "predict", "serve", "report", "review", "evaluate"),
    *("export", "merge", "doctor", "config"),
    *("prepare", "archive"),
    *("table", "ablate", "seeds", "figure", "reproduce"),
)


class Terminal:
    """Runs commands in this process and keeps what they print."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd
        self.out = self.err = ""

    def run(self, *arguments: object) -> int:
        self.capfd.readouterr()
        code = exit_code(*arguments)
        self.out, self.err = self.capfd.readouterr()
        return code

    def fine(self, *arguments: object) -> str:
        code = self.run(*arguments)
        assert code == 0, self.err
        return self.out

    def refused(self, *arguments: object) -> str:
        """The one paragraph of a refusal, in one line."""
        assert self.run(*arguments) == 2
        assert "Traceback" not in self.err + self.out
        assert self.out == ""
        before, start, paragraph = self.err.partition("Error: ")
        assert start, self.err
        assert "Error" not in before
        assert "\n\n" not in paragraph.strip()
        assert len(paragraph.strip()) > 40  # a file, a value and a cure take some words
        return " ".join(paragraph.split())


@pytest.fixture
def terminal(capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capfd)


@pytest.fixture(scope="module")
def encoders(
    clip_dir: Path, dino_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[object, ...]:
    """Options that make every command small."""
    config = tiny_config(
        clip_dir, dino_dir, "optim.cmpa_iterations=2", "optim.iterations=2", "optim.warmup=1"
    )
    file = tmp_path_factory.mktemp("settings") / "tiny.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    return ("--config", file, "--clip", clip_dir, "--dino", dino_dir, "--device", "cpu")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return tiny_voc(tmp_path / "voc", n=4)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "photos", n=4)


@pytest.fixture(scope="module")
def run_folder(encoders: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on tiny VOC."""
    root = tmp_path_factory.mktemp("trained")
    data = tiny_voc(root / "voc", n=4)
    assert exit_code("train", "--data", data, "--out", root / "run", *encoders) == 0
    return root / "run"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- help and exit codes


def options_of(annotation: object) -> int:
    """How many options a parameter stands for: a dataclass stands for its fields."""
    if not is_dataclass(annotation):
        return 1
    assert isinstance(annotation, type)
    kinds = get_type_hints(annotation).values()
    return sum(options_of(kind) for kind in kinds)


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_is_explained(verb: str, terminal: Terminal) -> None:
    command = app[verb]
    function = command.default_command
    assert command.help and function is not None
    collection = command.assemble_argument_collection(parse_docstring=True)
    own = [argument for argument in collection if argument.name not in ("", "*")]
    helps = [argument.parameter.help for argument in own]
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    assert len(parameters) <= 7
    assert len(helps) == sum(options_of(each.annotation) for each in parameters)
    assert all(text and text.endswith(".") and len(text) > 15 for text in helps), helps
    assert len(set(helps)) == len(helps)
    shown = terminal.fine(verb, "--help")
    assert all(argument.name in shown for argument in own)
    assert len(shown.splitlines()) <= 60


def test_the_verbs_are_all_there(terminal: Terminal) -> None:
    shown = terminal.fine("--help")
    assert set(VERBS) == {name for name in app if not name.startswith("-")}
    lines = [line.strip("│ ").split("  ") for line in shown.splitlines()]
    assert [line[0].strip() for line in lines if line[0].strip() in VERBS] == list(VERBS)
    assert all(f"─ {group} ─" in shown for group in ("Everyday", "Data sets", "Paper"))
    assert terminal.fine("--version").strip() == __version__
    assert terminal.fine() == shown


def test_presets_are_all_named_in_the_help(terminal: Terminal) -> None:
    shown = terminal.fine("train", "--help")
    assert all(name in shown for name in preset_names())


def test_config_lists_every_setting(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    lines = terminal.fine("config").splitlines()
    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert list(rows)[1:] == known_keys()
    for key, default, meaning in describe():
        assert default.strip("()") in rows[key].replace("[", "").replace("]", ""), key
        assert meaning[:40] in rows[key], key
    assert "20" in {line.split()[0]: line for line in lines}["pseudo.par_iterations"]
    paper = terminal.fine("config", "--preset", "paper").splitlines()
    assert next(line.split()[1] for line in paper if "optim.schedule " in line) == "joint"


def test_help_starts_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ssrseg", "masks", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "cyclopts" in imported
    assert not imported & {"torch", "transformers", "numpy", "scipy", "skimage", "PIL"}


@pytest.mark.parametrize(
    "words",
    [
        *("masks --out out", "train --out out", "check", "seeds", "predict --model run --out out"),
        *("evaluate --masks masks", "table 3 --out out", "ablate sgc.high=0.3,0.5 --out out"),
        "figure 1 --out figure.png",
    ],
)
def test_faults_of_labels_are_said_without_torch(words: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,labels\nnone.jpg,cat\n")
    _assert_fault_without_torch([*words.split(), "--data", "."], tmp_path)


def test_faults_of_a_second_data_set_are_said_without_torch(tmp_path: Path) -> None:
    voc, coco = tmp_path / "voc", tmp_path / "coco"
    for folder in (voc, coco):
        folder.mkdir()
    Image.new("RGB", (32, 32)).save(voc / "one.png")
    (voc / "labels.csv").write_text("image,labels\none.png,cat\n")
    (coco / "labels.csv").write_text("image,labels\nnone.jpg,cat\n")
    lists = ("--train-split", "all", "--val-split", "all")
    _assert_fault_without_torch(
        ["table", "1", "--data", "voc", *lists, "--coco", "coco", "--out", "out"], tmp_path
    )


def _assert_fault_without_torch(words: list[str], home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ssrseg", *words],
        capture_output=True,
        text=True,
        cwd=home,
    )
    assert (done.returncode, "none.jpg" in done.stderr) == (2, True), done.stderr[-500:]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "ssrseg.data.open" in imported
    assert not imported & {"torch", "transformers", "scipy", "skimage"}


def test_a_process_ends_with_two_and_a_paragraph(tmp_path: Path) -> None:
    arguments = ("masks", "--data", "nowhere", "--out", "out")
    done = subprocess.run(
        [sys.executable, "-m", "ssrseg", *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: data folder nowhere does not exist.")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_interrupt_ends_with_130(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt  # a signal would be lost where a shell has SIGINT ignored

    monkeypatch.setattr("ssrseg.config.load_config", interrupt)
    assert terminal.run("config") == 130
    assert "same command goes on" in terminal.err
    assert "Traceback" not in terminal.err


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_to_a_process_in_training(
    photos: Path, encoders: tuple[object, ...], tmp_path: Path, name: str, code: int
) -> None:
    run = tmp_path / "a run"
    many = ("--set", "optim.iterations=4000", "--set", "optim.save_every=4000")
    words = ["train", "--data", photos, "--out", run, *encoders, *many, "--set", "cam.mode=clip"]
    log = run / "log.csv"
    with subprocess.Popen(
        [sys.executable, "-m", "ssrseg", *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        while process.poll() is None and not (log.is_file() and log.stat().st_size > 500):
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, ""), err
    *_, stopped, command = err.splitlines()
    found = re.fullmatch(
        r"Stopped by .*: (\d+) of 4000 iterations are finished and saved in .*", stopped
    )
    assert found is not None, err
    iteration = int(found[1])
    assert load_checkpoint(run / "checkpoint.safetensors").iteration == iteration > 0
    assert command == f"To go on: {shlex.join(['ssrseg', *map(str, words)])}"
    assert len(log.read_text().splitlines()) == 1 + iteration
    # it goes on from there, and no file of the process is left
    assert exit_code(*words, "--stop-after", iteration + 1) == 0
    assert len(log.read_text().splitlines()) == 2 + iteration
    assert not [path for path in run.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_before_anything_is_begun(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr("ssrseg.config.load_config", interrupt)
    assert terminal.run("config") == code
    assert terminal.err == (
        f"Stopped by {name}: at once; what was saved before is still there.\n"
        "To go on: ssrseg config\n"
    )


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("not from the file system")

    monkeypatch.setattr("ssrseg.config.load_config", broken)
    with pytest.raises(OSError, match="not from the file system"):
        exit_code("config")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tarin",), ("tarin", 'Did you mean "train"')),
        (("masks", "--out", "o"), ("--data",)),
        (("masks", "--data", "d", "--out", "o", "--prset", "ssr"), ("--prset", "--preset")),
        (
            ("train", "--data", "d", "--out", "o", "--supervision", "ful"),
            ("ful", "--supervision", '"labels"'),
        ),
        (("train", "--data", "d", "--out", "o", "--monitor", "-1"), ("-1", "--monitor")),
        (("train", "--data", "d", "--out", "o", "--stop-after", "0"), ("0", "--stop-after")),
        (("demo", "--seeds", "0"), ("0", "--seeds")),
    ],
    ids=lambda value: value[-1],
)
def test_slips_on_the_command_line(
    arguments: tuple[str, ...], words: tuple[str, ...], terminal: Terminal
) -> None:
    assert terminal.run(*arguments) == 2
    assert "Traceback" not in terminal.err
    assert terminal.out == ""
    shown = " ".join(re.sub("[│╭╰╮╯─]", " ", terminal.err).split())
    assert all(word in shown for word in words), shown


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "papr"), ('preset "papr" (--preset)', 'Did you mean "paper"?', "clip-es")),
        (("--set", "sgc.min_rato=0.4"), ("sgc.min_rato", 'Did you mean "sgc.min_ratio"?')),
        (("--set", "sgc.min_ratio=7"), ("sgc.min_ratio = 7", "less than or equal to 1")),
        (("--set", "sgc.min_ratio"), ('"sgc.min_ratio" (--set)', "section.key=value")),
        (("--set", "sgc.min_ratio=[1"), ('"sgc.min_ratio=[1" (--set)', "YAML")),
        (("--set", "cam.mode=dino"), ("cam.mode", "'clip', 'cmpa' or 'centre'")),
    ],
    ids=lambda value: value[-1],
)
def test_settings_that_do_not_exist(
    options: tuple[str, ...], words: tuple[str, ...], photos: Path, terminal: Terminal
) -> None:
    out = photos.parent / "out"
    for verb in ("masks", "train"):
        message = terminal.refused(verb, "--data", photos, "--out", out, *options)
        assert all(word in message for word in words), message
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("no such file",)),
        ("sgc: [1", ("is not YAML",)),
        ("- sgc\n- cam\n", ("sections with keys",)),
        ("sgc: 3\n", ("sections with keys",)),
        ("sgc:\n  min_rato: 0.4\n", ('"sgc.min_rato"', 'Did you mean "sgc.min_ratio"?')),
    ],
    ids=str,
)
def test_files_that_are_no_settings(
    content: str | None, words: tuple[str, ...], photos: Path, terminal: Terminal
) -> None:
    file = photos.parent / "mine.yaml"
    if content is not None:
        file.write_text(content)
    out = photos.parent / "out"
    message = terminal.refused("masks", "--data", photos, "--out", out, "--config", file)
    assert str(file) in message
    assert all(word in message for word in words), message
    assert not out.exists()


# ---------------------------------------------------------------- data


def unknown_class(data: Path) -> tuple[str, ...]:
    (data / "classes.txt").write_text("cat\ndog\nred car\n")
    label = (data / "labels.csv").read_text().replace("photo_1.jpg,dog", "photo_1.jpg,dgo")
    (data / "labels.csv").write_text(label)
    return (str(data / "labels.csv"), "line 3", '"dgo"', 'Did you mean "dog"?')


def empty_label(data: Path) -> tuple[str, ...]:
    label = (data / "labels.csv").read_text().replace("photo_1.jpg,dog", "photo_1.jpg,")
    (data / "labels.csv").write_text(label)
    return (str(data / "labels.csv"), "line 3", "photo_1.jpg", "has no label", '"none"')


def folder_for_a_file(data: Path) -> tuple[str, ...]:
    (data / "labels.csv").unlink()
    (data / "labels.csv").mkdir()
    Image.new("L", (32, 32)).save(data / "labels.csv" / "photo_1.png")
    return (str(data / "labels.csv"), "folder with 1 .png files (masks?)", "image,labels")


def no_labels_at_all(data: Path) -> tuple[str, ...]:
    (data / "labels.csv").unlink()
    return (str(data), "no labels.csv, no other label file that ssrseg knows", "Write labels.csv")


def gone(data: Path) -> tuple[str, ...]:
    data.rename(data.with_name("photo"))
    return (str(data), "does not exist", 'Did you mean "photo"?')


@pytest.mark.parametrize(
    "spoil", [unknown_class, empty_label, folder_for_a_file, no_labels_at_all, gone]
)
@pytest.mark.parametrize("verb", ["masks", "train"])
def test_data_that_cannot_be_opened(
    verb: str,
    spoil: Callable[[Path], tuple[str, ...]],
    photos: Path,
    terminal: Terminal,
    encoders: tuple[object, ...],
) -> None:
    words = spoil(photos)
    out = photos.parent / "out"
    message = terminal.refused(verb, "--data", photos, "--out", out, *encoders)
    assert all(word in message for word in words), message
    assert not out.exists()


def test_a_folder_of_masks_is_no_data(
    voc: Path, terminal: Terminal, encoders: tuple[object, ...]
) -> None:
    out = voc.parent / "out"
    folder = voc / "SegmentationClass"
    message = terminal.refused("train", "--data", folder, "--out", out, *encoders)
    assert f"{folder} is no data folder" in message
    assert f"Did you mean {voc}?" in message
    assert not out.exists()


def test_an_image_cut_short_is_listed_and_a_mended_one_is_made_up_for(
    photos: Path, terminal: Terminal, encoders: tuple[object, ...]
) -> None:
    out, third = photos.parent / "out", photos / "images" / "photo_2.jpg"
    whole = third.read_bytes()
    third.write_bytes(whole[: len(whole) // 2])
    command = ("masks", "--data", photos, "--out", out, *encoders)
    message = terminal.refused(*command, "--strict")
    assert str(third) in message
    assert "damaged or cut short" in message
    assert "Copy it again" in message
    assert terminal.run(*command) == 3
    assert f"1 file could not be used (all in {out / 'failures.csv'}):\n" in terminal.out
    assert f"{third} is damaged or cut short" in terminal.out
    assert files(out / "masks") == ["photo_0.png", "photo_1.png", "photo_3.png"]
    first = (out / "masks" / "photo_0.png").stat().st_mtime_ns
    assert not [name for name in files(out) if ".tmp" in name or "photo_2" in name]
    third.write_bytes(whole)
    assert terminal.fine(*command).startswith("1 mask written")
    assert "3 were there already" in terminal.out
    assert not (out / "failures.csv").exists()
    assert files(out / "masks") == [f"photo_{i}.png" for i in range(4)]
    assert (out / "masks" / "photo_0.png").stat().st_mtime_ns == first
    assert terminal.fine(*command).startswith("0 masks written")


def test_masks_says_what_to_look_at_first(
    photos: Path, terminal: Terminal, encoders: tuple[object, ...]
) -> None:
    out = photos.parent / "out"
    command = ("masks", "--data", photos, "--out", out, *encoders)
    said = terminal.fine(*command, "--set", "pseudo.min_score=1.0")  # hardly anything is so sure
    with (out / "manifest.csv").open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (float(row["score"]), row["name"]))
    assert any(row["absent"] for row in rows)
    for row in rows:
        lacking = [f"nothing of {label} found" for label in row["absent"].split(";") if label]
        assert [each for each in row["reasons"].split(";") if each.startswith("nothing")] == lacking
    told = [f"  {row['score']}  {row['name']}  {row['reasons'].replace(';', '; ')}" for row in rows]
    head = "Look first at (lowest score first; all in manifest.csv, columns score and reasons):"
    assert "\n".join([head, *(line.rstrip() for line in told)]) in said
    with (out / "labels_to_check.csv").open(encoding="utf-8") as file:
        doubts = list(csv.DictReader(file))
    images = len({row["name"] for row in doubts})
    assert re.search(rf"^Labels to check: {len(doubts)} in {images} image", said, re.M)
    for row in doubts:
        labels = next(each["labels"] for each in rows if each["name"] == row["name"]).split(";")
        assert (row["label"] in labels) == (row["given"] == "yes")


@pytest.mark.parametrize(
    "options",
    [
        ("masks",),
        ("train",),
        ("train", "--set", "cam.mode=clip"),
        ("train", "--preset", "paper", "--set", "cmpa.update_every=2"),
    ],
    ids=" ".join,
)
def test_an_image_smaller_than_a_patch(
    options: tuple[str, ...], photos: Path, terminal: Terminal, encoders: tuple[object, ...]
) -> None:
    image = photos / "images" / "photo_0.jpg"
    Image.new("RGB", (40, 15)).save(image)
    out = photos.parent / "out"
    command = (options[0], "--data", photos, "--out", out, *encoders, *options[1:])
    message = terminal.refused(*command, "--strict")
    assert f"{image} is 40 x 15 pixels" in message
    assert "16 x 16" in message
    left = files(out) if out.exists() else []
    assert not [name for name in left if re.search(r"masks/|model|checkpoint|\.tmp", name)]


def test_full_supervision_refuses_small_images_and_missing_masks(
    voc: Path, terminal: Terminal, encoders: tuple[object, ...]
) -> None:
    out = voc.parent / "out"
    command = ("train", "--data", voc, "--out", out, *encoders, "--supervision", "full")
    for image in (voc / "JPEGImages").iterdir():
        Image.new("RGB", (15, 40)).save(image)
    assert "is 15 x 40 pixels" in terminal.refused(*command)  # none is left
    (voc / "SegmentationClass" / "2007_000001.png").unlink()
    message = terminal.refused(*command)
    assert "2007_000001" in message
    assert "1 have none" in message
    assert not (out / "model.safetensors").exists()


# ---------------------------------------------------------------- encoders and checkpoints


def test_directories_that_are_no_encoders(
    photos: Path,
    clip_dir: Path,
    dino_dir: Path,
    terminal: Terminal,
    encoders: tuple[object, ...],
    tmp_path: Path,
) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    command = ("masks", "--data", photos, "--out", out, *encoders[:2], "--device", "cpu")
    cases: list[tuple[Path, Path, tuple[str, ...]]] = [
        (empty, dino_dir, (str(empty), "clip-vit-base-patch16")),
        (dino_dir, dino_dir, (str(dino_dir), "clip-vit-base-patch16")),
        (clip_dir, clip_dir, (str(clip_dir), "dino-vits16")),
    ]
    for clip, dino, words in cases:
        message = terminal.refused(*command, "--clip", clip, "--dino", dino)
        assert all(word in message for word in words), message
    assert not out.exists()


def test_a_folder_without_a_model(
    photos: Path, terminal: Terminal, encoders: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    message = terminal.refused(
        "predict", "--images", photos / "images", "--model", photos, "--out", out
    )
    assert f"model {photos} (--model) is a folder without" in message
    assert "model.safetensors" in message
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"not tensors at all")
    message = terminal.refused("predict", "--images", photos, "--model", broken, "--out", out)
    assert f"{broken} is not a checkpoint of ssrseg" in message
    message = terminal.refused(
        "masks", "--data", photos, "--model", tmp_path / "gone", "--out", out, *encoders
    )
    assert str(tmp_path / "gone") in message
    assert not out.exists()


def test_a_model_of_other_classes(
    photos: Path, run_folder: Path, terminal: Terminal, encoders: tuple[object, ...]
) -> None:
    out = photos.parent / "out"
    message = terminal.refused(
        "masks", "--data", photos, "--model", run_folder, "--out", out, *encoders
    )
    assert f"{run_folder} was trained for other classes" in message
    assert "20 classes in the model, 3 in the data" in message
    assert not out.exists()
    before = {name: (run_folder / name).read_bytes() for name in files(run_folder)}
    message = terminal.refused("train", "--data", photos, "--out", run_folder, *encoders)
    assert "was trained for other classes" in message
    assert before == {name: (run_folder / name).read_bytes() for name in files(run_folder)}


def test_a_run_with_other_settings_is_left_alone(
    run_folder: Path, terminal: Terminal, encoders: tuple[object, ...]
) -> None:
    data = run_folder.parent / "voc"
    message = terminal.refused(
        "train", "--data", data, "--out", run_folder, *encoders, "--set", "optim.seed=1"
    )
    assert "optim.seed = 0 there, 1 now" in message
    assert "--out" in message


def test_a_device_that_is_not_there(
    photos: Path, terminal: Terminal, encoders: tuple[object, ...]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    out = photos.parent / "out"
    command = ("masks", "--data", photos, "--out", out, *encoders[:-2])
    for device in ("cuda", "cuda:7", "gpu"):
        message = terminal.refused(*command, "--device", device)
        assert f'device "{device}" (--device)' in message
        assert "Use auto or cpu" in message
    assert not out.exists()


# ---------------------------------------------------------------- places to write


@pytest.mark.parametrize("verb", ["masks", "train"])
def test_a_file_where_the_folder_should_be(
    verb: str, photos: Path, terminal: Terminal, encoders: tuple[object, ...]
) -> None:
    out = photos.parent / "out"
    out.write_text("mine")
    for place in (out, out / "below"):
        message = terminal.refused(verb, "--data", photos, "--out", place, *encoders)
        assert str(out) in message
        assert "is no folder, but one is expected" in message or "choose another folder" in message
    assert out.read_text() == "mine"


def test_predict_and_evaluate_where_something_is_in_the_way(
    run_folder: Path, terminal: Terminal, tmp_path: Path
) -> None:
    data = run_folder.parent / "voc"
    out = tmp_path / "out"
    out.write_text("mine")
    message = terminal.refused(
        "predict", "--images", data / "JPEGImages", "--model", run_folder, "--out", out
    )
    assert str(out) in message
    assert out.read_text() == "mine"
    (tmp_path / "folder.json").mkdir()
    assert (
        terminal.run(
            *("evaluate", "--masks", data / "SegmentationClass", "--data", data),
            *("--json", tmp_path / "folder.json"),
        )
        == 2
    )
    assert "folder.json" in terminal.err
    assert "Traceback" not in terminal.err
    assert files(tmp_path) == ["out"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(
    photos: Path, terminal: Terminal, encoders: tuple[object, ...]
) -> None:
    locked = photos.parent / "locked"
    locked.mkdir(mode=0o500)
    message = terminal.refused("masks", "--data", photos, "--out", locked / "out", *encoders)
    assert "Permission denied" in message


def test_a_full_disk_is_said_in_one_paragraph(
    photos: Path,
    terminal: Terminal,
    encoders: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("ssrseg.data.files.os.fsync", full)
    out = photos.parent / "out"
    message = terminal.refused("masks", "--data", photos, "--out", out, *encoders)
    assert str(out / "manifest.csv") in message
    assert "No space left on device" in message


# ---------------------------------------------------------------- predict and evaluate


def test_predict_without_images(run_folder: Path, terminal: Terminal, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (images / "notes.txt").write_text("none")
    command = ("predict", "--images", images, "--model", run_folder, "--out", out)
    message = terminal.refused(*command)
    assert f"{images} holds no image, but 1 other file (1 .txt)" in message
    Image.new("RGB", (9, 40)).save(images / "small.png")
    message = terminal.refused(*command, "--strict")
    assert f"{images / 'small.png'} is 9 x 40 pixels" in message
    Image.new("RGB", (40, 40)).save(images / "small.jpg")
    message = terminal.refused(*command)
    assert str(images / "small.jpg") in message
    assert "same name up to the suffix" in message
    assert not list((out / "masks").glob("*"))


def test_predict_loads_neither_dino_nor_the_texts(
    run_folder: Path, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("not needed for predicting")

    monkeypatch.setattr("ssrseg.networks.dino.FrozenDINO.load", refuse)
    monkeypatch.setattr("transformers.CLIPModel.get_text_features", refuse)
    images = run_folder.parent / "voc" / "JPEGImages"
    command = ("predict", "--images", images, "--model", run_folder, "--out", tmp_path / "out")
    assert terminal.fine(*command).startswith("4 masks written")


def test_evaluate_without_masks(voc: Path, terminal: Terminal, tmp_path: Path) -> None:
    command = ("evaluate", "--masks", tmp_path / "masks", "--data", voc)
    message = terminal.refused(*command)
    assert f"{tmp_path / 'masks'} (--masks)" in message
    shutil.copytree(voc / "SegmentationClass", tmp_path / "masks")
    (tmp_path / "masks" / "2007_000001.png").unlink()
    message = terminal.refused(*command)
    assert "lacks the masks of 1 of 4 images (2007_000001)" in message
    Image.fromarray(np.full((80, 64), 77, np.uint8)).save(tmp_path / "masks" / "2007_000001.png")
    message = terminal.refused(*command)
    assert str(tmp_path / "masks" / "2007_000001.png") in message
    assert "class id 77" in message


def test_the_truth_scores_full_marks(voc: Path, terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    folder = voc / "SegmentationClass"
    shown = terminal.fine("evaluate", "--masks", folder, "--data", voc, "--json", file)
    assert "mIoU 100.0" in shown
    assert "confusion ratio 0.000" in shown
    assert re.search(r"^\W*bird\W+\d+(\W+100\.0){3}\W+0\.000\W*$", shown, flags=re.MULTILINE)
    scores = json.loads(file.read_text())
    assert scores["miou"] == 1
    assert scores["classes"]["sofa"]["iou"] is None
    assert scores["undecided"] == 0
    assert "4 of 4 images scored." in shown
    assert (scores["images_scored"], scores["images"]) == (4, 4)


def test_what_was_scored_and_what_is_undecided_is_said(
    voc: Path, terminal: Terminal, tmp_path: Path
) -> None:
    shutil.copytree(voc / "SegmentationClass", tmp_path / "masks")
    (voc / "SegmentationClass" / "2007_000001.png").unlink()
    for path in (tmp_path / "masks").iterdir():
        with Image.open(path) as image:
            ids = np.array(image)
        ids[: len(ids) // 4] = 255
        Image.fromarray(ids).save(path)
    shown = terminal.fine("evaluate", "--masks", tmp_path / "masks", "--data", voc)
    assert "3 of 4 images scored; the others have no true mask." in shown
    assert re.search(r"2\d\.\d % of the pixels are undecided \(255\) and count as missed\.", shown)
    assert "mIoU 100.0" not in shown


# ---------------------------------------------------------------- all verbs, end to end


def test_masks_with_cams_are_scored(
    voc: Path, terminal: Terminal, encoders: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("masks", "--data", voc, "--out", out, "--split", "train", *encoders)
    assert terminal.fine(*command).startswith("3 masks written to")
    names = [f"2007_00000{i}" for i in range(3)]
    assert files(out / "masks") == [f"{name}.png" for name in names]
    assert files(out / "cams") == [f"{name}.npz" for name in names]
    stored = np.load(out / "cams" / "2007_000002.npz")
    assert list(stored["classes"]) == ["bird", "dog"]  # 96 x 51 pixels: 6 x 4 patches
    for key in ("cam", "refined_cam"):
        assert stored[key].shape == (2, 6, 4)
        assert stored[key].min() == pytest.approx(0, abs=1e-6)
        assert 0.99 < stored[key].max() <= 1  # flat maps of random encoders feel min_max's epsilon
    shown = terminal.fine("evaluate", "--masks", out, "--data", voc, "--split", "train")
    assert re.search(r"mIoU \d+\.\d", shown)
    message = terminal.refused("evaluate", "--masks", out, "--data", voc)
    assert "1 of 4" in message
    message = terminal.refused(*command, "--set", "sgc.high=0.7")
    assert "(sgc.high = 0.4 there, 0.7 now)" in message
    shown = terminal.fine(*command, "--set", "pseudo.alpha=2")
    assert "3 masks of these from kept CAMs." in shown


def test_train_stops_goes_on_predicts_and_is_scored(
    voc: Path, terminal: Terminal, encoders: tuple[object, ...], tmp_path: Path
) -> None:
    run, out, scores = tmp_path / "run", tmp_path / "results", tmp_path / "scores.json"
    command = ("train", "--data", voc, "--out", run, *encoders, "--monitor", "1")
    assert "Stopped after 3 iterations of 4, as" in terminal.fine(*command, "--stop-after", "3")
    assert not (run / "model.safetensors").exists()
    message = terminal.refused("predict", "--images", voc, "--model", run, "--out", out)
    assert "unfinished run" in message
    assert "Finished" in terminal.fine(*command)
    assert "Finished" in terminal.fine(*command)  # nothing left to do
    rows = (run / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["iteration", "1", "2", "3", "4"]
    assert "nan" not in rows[4].split(",")[-1]
    predict = ("predict", "--images", voc / "JPEGImages", "--model", run, "--out", out)
    assert terminal.fine(*predict).startswith("4 masks written")
    assert "4 were there already" in terminal.fine(*predict)
    assert terminal.fine(*predict, "--overwrite").startswith("4 masks written")
    assert len((out / "classes.txt").read_text().splitlines()) == 20
    with Image.open(out / "masks" / "2007_000000.png") as mask:
        assert (mask.mode, mask.size) == ("P", (75, 61))
    terminal.fine("evaluate", "--masks", out, "--data", voc, "--json", scores)
    found = json.loads(scores.read_text())
    assert 0 <= found["miou"] <= 1
    assert (found["data"], found["model"]) == (voc.name, model_digest(run))
    again = tmp_path / "again"
    shown = terminal.fine("masks", "--data", voc, "--out", again, "--model", run, *encoders)
    assert shown.startswith("4 masks written")
    assert f'"model": "{model_digest(run)}"' in (again / "config.yaml").read_text()


def test_paths_may_hold_what_yaml_takes_for_syntax(
    photos: Path, clip_dir: Path, terminal: Terminal, encoders: tuple[object, ...], tmp_path: Path
) -> None:
    odd = tmp_path / "my: #1 [clip] é"
    shutil.copytree(clip_dir, odd)
    out = tmp_path / "out"
    options = [odd if option == clip_dir else option for option in encoders]
    shown = terminal.fine("masks", "--data", photos, "--out", out, *options)
    assert shown.startswith("4 masks")


# ---------------------------------------------------------------- doctor


def test_doctor_finds_all_well(
    clip_dir: Path, dino_dir: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    shown = terminal.fine("doctor", "--clip", clip_dir, "--dino", dino_dir)
    assert "problem" not in shown
    for what in ("ssrseg", "python", "torch", "transformers", "device", "free disk"):
        assert re.search(rf"^ ?ok +{what}", shown, flags=re.MULTILINE), what
    told = "mean and deviation from preprocessor_config.json"
    assert (
        f"{clip_dir} loads: CLIP, 4 blocks, patches of 16 pixels, quick_gelu, 32 numbers shared"
        f" with texts of up to 77 tokens, {told}, 0.3 M parameters"
    ) in shown
    assert (
        f"{dino_dir} loads: ViT as DINO's, 4 blocks, patches of 16 pixels, gelu, {told},"
        " 0.3 M parameters"
    ) in shown
    assert "patches of 16 pixels for both" in shown


def test_doctor_says_what_other_encoders_are(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    clip = tiny_clip(tmp_path / "clip", act="gelu")
    dino = tiny_dino(tmp_path / "dino", "dinov2_with_registers", patch=14)
    (clip / "preprocessor_config.json").unlink()
    shown = terminal.fine("doctor", "--clip", clip, "--dino", dino)
    assert "patches of 16 pixels, gelu," in shown
    assert "CLIP's usual mean and deviation (no preprocessor_config.json)" in shown
    assert "loads: DINOv2 with registers, 4 blocks, patches of 14 pixels, 4 registers" in shown
    assert "CLIP's, of 16 pixels a patch; DINO sees images at 0.875 of their size" in shown
    # blocks that one of them lacks
    command = ("doctor", "--clip", clip, "--dino", dino, "--set", "affinity.dino_layers=[9]")
    assert terminal.run(*command) == 1
    assert re.search(r"^ ?problem +affinity.dino_layers +\(9,\) of 4 blocks", terminal.out, re.M)
    terminal.fine(*command, "--set", "affinity.dino_kind=features")  # where they have no say


def test_doctor_finds_what_is_missing_and_its_cure(
    dino_dir: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert terminal.run("doctor", "--clip", dino_dir, "--dino", dino_dir) == 1
    assert terminal.err == ""
    assert re.search(r"^ ?problem +CLIP", terminal.out, flags=re.MULTILINE)
    assert re.search(r"^ ?ok +DINO", terminal.out, flags=re.MULTILINE)
    cure = terminal.out.rsplit("\nCLIP: ", 1)[1]
    assert str(dino_dir) in cure
    assert "clip-vit-base-patch16" in cure
