from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import tarfile
from pathlib import Path

import pytest
from make_tiny import tiny_coco, tiny_folder, tiny_voc, tiny_voc_sbd
from test_cli import Terminal
from tiny_encoders import tiny_config

from ssrseg.cli import app
from ssrseg.data.coco import instances_file
from ssrseg.prepare import voc as voc_module
from ssrseg.prepare.archives import VOC_TRAINVAL, Archive
from ssrseg.prepare.voc_server import INSIDE


@pytest.fixture
def terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "300")
    return Terminal(capfd)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return tiny_voc_sbd(tmp_path / "my [voc]", tmp_path / "my [voc]" / "SBD")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return tiny_coco(tmp_path / "coco")


@pytest.fixture(scope="module")
def encoders(
    clip_dir: Path, dino_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[object, ...]:
    config = tiny_config(
        clip_dir, dino_dir, "optim.cmpa_iterations=2", "optim.iterations=2", "optim.warmup=1"
    )
    file = tmp_path_factory.mktemp("settings") / "tiny.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    return ("--config", file, "--clip", clip_dir, "--dino", dino_dir, "--device", "cpu")


def test_voc_is_prepared_and_the_next_command_is_said(terminal: Terminal, voc: Path) -> None:
    shown = terminal.fine("prepare", "voc", "--data", voc, "--workers", "1")
    assert re.search(r"^ ?ok +train_aug +6 images; the published list has 10,582", shown, re.M)
    assert re.search(r"^ ?ok +true masks +SegmentationClassAug: 9 written now", shown, re.M)
    assert "problem" not in shown
    following = shown.strip().splitlines()[-1]
    command = f"ssrseg train --data '{voc}' --split train_aug --out run"
    assert following == f"Complete. Next: {command}"
    words = shlex.split(command)[1:]
    function, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert function.__name__ == "train"
    assert f"put it into {voc}/downloads" in shown


def test_superpixels_land_in_the_cache(terminal: Terminal, coco: Path, tmp_path: Path) -> None:
    command = ("prepare", "coco", "--data", coco, "--workers", "1")
    terminal.fine(*command)
    assert not (coco / "superpixels").exists()
    shown = terminal.fine(*command, "--superpixels", "--split", "val")
    assert len(list((coco / "superpixels").rglob("*.npy"))) == 2
    assert f" --cache {coco / 'superpixels'} " in shown.splitlines()[-1]
    options = ("--cache", tmp_path / "own", "--set", "sgc.n_segments=20")
    shown = terminal.fine(*command, *options)
    assert len(list((tmp_path / "own").rglob("*.npy"))) == 5
    following = shown.splitlines()[-1].removeprefix("Complete. Next: ssrseg ")
    function, bound, *_ = app.parse_args(following, exit_on_error=False, print_error=False)
    assert function.__name__ == "train"
    setup = bound.arguments["setup"]
    assert (setup.encoders.prompts, setup.cache) == ("coco", tmp_path / "own")


def test_what_is_missing_ends_with_one(terminal: Terminal, voc: Path) -> None:
    shutil.rmtree(voc / "SBD")
    (voc / "Annotations" / "2007_000004.xml").unlink()
    assert terminal.run("prepare", "voc", "--data", voc, "--workers", "1") == 1
    shown = terminal.out
    assert re.search(r"^ ?problem +annotations +1 of 6 missing", shown, re.M)
    assert "\nannotations: 2007_000004: run the same command with --download, or put VOC" in shown
    assert "\nlist train_aug: train_aug.txt: run the same command with --download, or" in shown
    assert "benchmark.tgz (1.4 GB)" in shown
    assert "Next:" not in shown
    assert "Traceback" not in terminal.err


def test_input_that_is_refused(terminal: Terminal, voc: Path, coco: Path, tmp_path: Path) -> None:
    assert terminal.run("prepare", "vocs", "--data", voc) == 2
    assert "Did you mean" in terminal.err or '"voc"' in terminal.err
    assert terminal.run("prepare", "--data", voc) == 2
    assert terminal.run("prepare", "voc", "--data", voc, "--workers", "0") == 2
    message = terminal.refused("prepare", "voc", "--data", tmp_path / "gone")
    assert f"{tmp_path / 'gone'}: there is no such folder" in message
    message = terminal.refused("prepare", "voc", "--data", tmp_path, "--set", "sgc.n_segment=3")
    assert 'Did you mean "sgc.n_segments"?' in message
    message = terminal.refused(
        *("prepare", "voc", "--data", tmp_path / "new", "--download", "--mirror", "nowhere")
    )
    assert "is no web address" in message
    instances_file(coco, "train").write_text('{"images": [')
    message = terminal.refused("prepare", "coco", "--data", coco)
    assert f"{instances_file(coco, 'train')} is no JSON, or cut short" in message
    assert not (coco / "SegmentationClass").exists()
    message = terminal.refused("prepare", "voc", "--data", voc, "--split", "train")
    assert "--split train says which images get superpixels, but none are wanted" in message
    command = ("prepare", "voc", "--data", voc, "--workers", "1", "--superpixels")
    message = terminal.refused(*command, "--split", "tran")
    assert 'split "tran" is unknown' in message
    assert 'Did you mean "train"?' in message


def test_an_interrupted_download_goes_on(
    terminal: Terminal, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of the command line is true: the part is there, and the same command uses it."""
    tar = tmp_path / VOC_TRAINVAL.name
    with tarfile.open(tar, "w") as archive:
        archive.add(voc, VOC_TRAINVAL.top)
    content = tar.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    facts = Archive(tar.name, VOC_TRAINVAL.url, len(content), digest, VOC_TRAINVAL.top)
    monkeypatch.setattr(voc_module, "VOC_TRAINVAL", facts)
    asked: list[int] = []

    def receive(file: object, part: Path, have: int, at: object, timeout: float) -> None:
        asked.append(have)
        with part.open("ab") as kept:
            kept.write(content[have : have + 5000] if not have else content[have:])
        if not have:
            raise KeyboardInterrupt

    monkeypatch.setattr("ssrseg.prepare.download._receive", receive)
    root = tmp_path / "new"
    command = ("prepare", "voc", "--data", root, "--download", "--workers", "1")
    assert terminal.run(*command) == 130
    assert "The same command goes on from here." in terminal.err
    assert (root / "downloads" / f"{tar.name}.part").stat().st_size == 5000
    terminal.fine(*command)
    assert asked == [0, 5000]


def test_coco_is_trained_predicted_and_scored(
    terminal: Terminal, coco: Path, tmp_path: Path, encoders: tuple[object, ...]
) -> None:
    terminal.fine("prepare", "coco", "--data", coco, "--workers", "1")
    run, out, scores = tmp_path / "run", tmp_path / "out", tmp_path / "scores.json"
    terminal.fine(
        *("train", "--data", coco, "--split", "train", "--prompts", "coco"),
        *("--out", run, *encoders, "--monitor", "1"),
    )
    terminal.fine("predict", "--data", coco, "--split", "val", "--model", run, "--out", out)
    names = sorted(path.name for path in (out / "masks" / "val2014").iterdir())
    assert names == ["COCO_val2014_000000000042.png", "COCO_val2014_000000000074.png"]
    terminal.fine(
        *("evaluate", "--masks", out, "--data", coco, "--split", "val", "--json", scores),
    )
    table = json.loads(scores.read_text())["classes"]
    assert len(table) == 81
    assert table["cat"]["images"] == 2
    assert table["sofa"]["images"] == 1


def test_the_test_list_is_predicted_and_packed(
    terminal: Terminal,
    tmp_path: Path,
    encoders: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    voc = tiny_voc(tmp_path / "voc", n=4)
    run, out, packed = tmp_path / "run", tmp_path / "out", tmp_path / "results.tgz"
    terminal.fine("train", "--data", voc, "--out", run, *encoders)
    for folder in ("Annotations", "SegmentationClass"):
        shutil.rmtree(voc / folder)
    (voc / "ImageSets" / "Segmentation" / "test.txt").write_text("2007_000003\n2007_000001\n")
    predict = ("predict", "--data", voc, "--split", "test", "--model", run, "--out", out)
    assert terminal.fine(*predict).startswith("2 masks written")
    command = ("archive", "--masks", out, "--data", voc, "--out", packed)
    assert "names 2 images, but the server scores 1,456" in terminal.refused(*command)
    monkeypatch.setattr("ssrseg.prepare.voc_server.PUBLISHED", 2)
    assert terminal.fine(*command) == f"2 masks packed as {INSIDE}/*.png in {packed}.\n"
    with tarfile.open(packed) as archive:
        assert archive.getnames() == [f"{INSIDE}/2007_00000{i}.png" for i in (3, 1)]


def test_predict_takes_images_or_a_data_set(terminal: Terminal, voc: Path, tmp_path: Path) -> None:
    common = ("predict", "--model", tmp_path, "--out", tmp_path / "out")
    for wrong in (
        (),
        ("--images", voc / "JPEGImages", "--data", voc),
        ("--images", voc / "JPEGImages", "--split", "val"),
    ):
        message = terminal.refused(*common, *wrong)
        assert "either --images (a file or folder) or --data" in message
    message = terminal.refused(*common, "--data", voc, "--split", "tset")
    assert 'split "tset" is unknown' in message


def test_background_words_that_name_a_class_are_told(
    terminal: Terminal, tmp_path: Path, encoders: tuple[object, ...]
) -> None:
    photos = tiny_folder(tmp_path / "photos", n=2)
    table = (photos / "labels.csv").read_text()
    (photos / "labels.csv").write_text(table.replace("none", "street [light]"))
    (photos / "classes.yaml").write_text("cat: cat, grass\n'street [light]':\n")
    note = (
        'Note: background words left out because they mean a class: "grass" (class "cat"),'
        ' "street" (class "street [light]").'
    )
    for verb in ("masks", "train"):
        terminal.fine(verb, "--data", photos, "--out", tmp_path / verb, *encoders)
        assert terminal.err.splitlines().count(note) == 1
    (photos / "classes.yaml").write_text("cat: kitten\n'street [light]': lamp\n")
    terminal.fine(
        *("masks", "--data", photos, "--out", tmp_path / "coco", *encoders, "--prompts", "demo"),
    )
    assert "left out" not in terminal.err
