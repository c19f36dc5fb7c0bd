"""Inputs of the kinds that people report, as a new user would run them; skipped without them."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import exit_code
from PIL import Image, ImageCms
from tiny_encoders import tiny_clip, tiny_config

from ssrseg.data.files import only_writer
from ssrseg.data.images import read_image


@pytest.fixture(scope="module")
def encoders(
    clip_dir: Path, dino_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[object]:
    config = tiny_config(
        clip_dir, dino_dir, "optim.cmpa_iterations=2", "optim.iterations=2", "optim.warmup=1"
    )
    file = tmp_path_factory.mktemp("settings") / "tiny.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    return ["--config", file, "--clip", clip_dir, "--dino", dino_dir]


@pytest.fixture(scope="module")
def model(shared: Path, encoders: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the two images of the case ``base``."""
    out = tmp_path_factory.mktemp("model") / "run"
    data = copied(shared, "base", out.parent)
    assert exit_code("train", "--data", data, "--out", out, *encoders) == 0
    return out


def copied(shared: Path, name: str, place: Path) -> Path:
    """The data of a case, or the case itself, in a copy."""
    folder = place / name.replace("/", "-")
    shutil.copytree(shared / "cases" / name, folder)
    return folder / "data" if (folder / "data").is_dir() else folder


def masks(out: Path) -> list[str]:
    return sorted(path.relative_to(out / "masks").as_posix() for path in out.rglob("*.png"))


FROM_LABELS: dict[str, tuple[int, str, list[str]]] = {  # exit code, what is said, masks
    "base": (0, "2 masks written", ["a0.png", "a1.png"]),
    "coco-255-categories": (2, "there are 255 classes; maps of class ids", []),
    "coco-no-segmentation": (0, "1 mask written", ["train2014/p.png"]),
    "coco-other-layout": (0, "1 mask written", ["default/p.png"]),
    "coco-timestamp-names": (
        0, "2 masks written",
        ["train2014/camA_20240501123456.png", "train2014/camB_20240501123456.png"],
    ),
    "coco-two-extensions": (2, '"x.jpg" and "x.png" have the same name', []),
    "img-jpeg-ends-early": (3, "cut-eoi.jpg is damaged or cut short", []),
    "img-tiff-12-bit-in-16": (0, "brightest 3360 of 65535.", ["g12.png"]),
    "img-tiff-16-bit-white-is-zero": (0, "1 mask written", ["minwhite16.png"]),
    "img-tiff-nir-as-alpha": (0, "a band tagged as alpha", ["rgbnir-unassalpha.png"]),
    "img-tiff-thumbnail-first": (0, "the full one is read (96 x 64)", ["thumbfirst.png"]),
    "labels-chinese": (0, "it cannot tell them apart", ["a.png", "b.png"]),
    "voc-labelimg": (2, "classes.txt", []),
    "voc-ns": (0, "1 class: dog 1", ["a.png"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FROM_LABELS)
def test_masks_from_labels(
    name: str,
    shared: Path,
    tmp_path: Path,
    encoders: list[object],
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, said, written = FROM_LABELS[name]
    data, out = copied(shared, name, tmp_path), tmp_path / "out"
    assert exit_code("masks", "--data", data, "--out", out, *encoders) == code
    shown = "".join(capfd.readouterr())
    assert said in shown
    assert masks(out) == written
    assert "Traceback" not in shown


SCORED: dict[str, tuple[int, str]] = {
    "classes-labelme": (2, '"__ignore__" and "_background_" at the head of the class list'),
    "pred-255": (2, "255 means undecided (16.2% of the pixels)"),
    "truth-0-255": (2, "255"),
    "truth-grey-4bit": (0, "mIoU"),
    "truth-palette-reordered": (0, "colour"),
    "truth-some-missing": (0, "1 of 4 images scored"),
}


@pytest.mark.parametrize("name", SCORED)
def test_scores(name: str, shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, said = SCORED[name]
    data = copied(shared, name, tmp_path)
    assert exit_code("evaluate", "--masks", data.parent / "pred", "--data", data) == code
    shown = "".join(capfd.readouterr())
    assert said in shown
    assert ("mIoU" in shown) == (code == 0)


READ_RIGHT = {  # labels of a.jpg and b.jpg; None = refused
    "bom": "dog", "case": "Dog|Dog", "crlf": "dog|cat;dog", "filename-label": "dog",
    "inner-space": "traffic light|traffic light|traffic_light", "quoted-list": "cat;dog",
    "semicolon": "cat;dog|cat", "tabs": "dog", "third-col": "dog", "nan": None,
    "onehot": "cat|cat;dog",
    "onehot-labels": None, "u2028": None, "nfd-class-list": "café",
    "upper-ext-listed-lower": "dog", "folder-per-class": "dog",
}  # fmt: skip


@pytest.mark.parametrize("name", READ_RIGHT)
def test_labels_csv(
    name: str,
    shared: Path,
    tmp_path: Path,
    encoders: list[object],
    capfd: pytest.CaptureFixture[str],
) -> None:
    data, out = copied(shared, f"labels/{name}", tmp_path), tmp_path / "out"
    code = exit_code("masks", "--data", data, "--out", out, *encoders)
    shown = "".join(capfd.readouterr())
    if READ_RIGHT[name] is None:
        assert code == 2 and "labels.csv" in shown and "line " in shown, shown
        return
    assert code == 0, shown
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as file:
        assert "|".join(row["labels"] for row in csv.DictReader(file)) == READ_RIGHT[name]


PREDICTED: dict[str, tuple[int, str, list[str]]] = {
    "name-245": (0, "1 mask written", ["n" * 244 + "0.png"]),
    "predict-skips-formats": (3, "e.heic is a HEIC photograph", [f"{c}.png" for c in "abcdf"]),
    "several-bad-images": (3, "3 files could not be used", [f"{n}.png" for n in (0, 2, 4, 6, 7)]),
}  # fmt: skip


@pytest.mark.parametrize("name", PREDICTED)
def test_predicted(
    name: str, shared: Path, tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said, written = PREDICTED[name]
    folder, out = copied(shared, name, tmp_path), tmp_path / "out"
    photos = folder / "photos"
    if name == "name-245":
        photos.mkdir()
        (folder / "photo.jpg").rename(photos / (f"{0:0245d}".replace("0", "n", 244) + ".jpg"))
    assert exit_code("predict", "--images", photos, "--model", model, "--out", out) == code
    shown = "".join(capfd.readouterr())
    assert said in shown
    assert masks(out) == written


def test_another_photograph_of_that_name(shared: Path, tmp_path: Path, model: Path) -> None:
    folder, out = copied(shared, "predict-stale-same-name", tmp_path), tmp_path / "out"
    made = []
    for day in ("day1", "day2"):
        words = ("predict", "--images", folder / day, "--model", model, "--out", out)
        assert exit_code(*words) == 0
        made.append((out / "masks" / "DSC_0001.png").read_bytes())
    assert made[0] != made[1]


def test_masks_in_the_folder_of_the_photographs(shared: Path, tmp_path: Path, model: Path) -> None:
    photos = copied(shared, "predict-into-images", tmp_path) / "photos"
    for _ in range(2):
        assert exit_code("predict", "--images", photos, "--model", model, "--out", photos) == 0
    assert masks(photos) == ["a.png"]


def test_a_name_that_is_not_utf8(shared: Path, tmp_path: Path, model: Path) -> None:
    photos = copied(shared, "names-not-utf8", tmp_path) / "photos"
    os.rename(photos / "x.jpg", os.fsencode(photos) + b"/k\xe4fer.jpg")
    out = tmp_path / "out"
    assert exit_code("predict", "--images", photos, "--model", model, "--out", out) == 0
    assert os.listdir(os.fsencode(out / "masks")) == [b"k\xe4fer.png"]


def test_a_row_more_renames_nothing(
    shared: Path, tmp_path: Path, encoders: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    data, out = copied(shared, "names-depend-on-rows", tmp_path), tmp_path / "out"
    command = ("masks", "--data", data, "--out", out, *encoders)
    assert exit_code(*command) == 0
    before = masks(out)
    with (data / "labels.csv").open("a") as file:
        file.write("photos/val/c.jpg,dog\n")
    assert exit_code(*command) == 0
    assert "1 mask written" in (shown := capfd.readouterr().out) and "2 were there" in shown
    assert masks(out) == [*before, "photos/val/c.png"]
    assert exit_code("evaluate", "--masks", out, "--data", data) == 0
    assert "3 of 3 images scored" in capfd.readouterr().out


def test_a_turned_tiff_that_was_corrected(
    shared: Path, tmp_path: Path, encoders: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    data, out = copied(shared, "tiff-rotated-corrected", tmp_path), tmp_path / "out"
    command = ("masks", "--data", data, "--out", out, *encoders)
    assert exit_code(*command) == 0
    mask = Image.open(out / "masks" / "a.png")
    mask.paste(1, (0, 0, 20, 20))
    mask.save(out / "masks" / "a.png")
    corrected = (out / "masks" / "a.png").read_bytes()
    capfd.readouterr()
    assert exit_code(*command) == 0
    assert "2 were there already" in capfd.readouterr().out
    assert (out / "masks" / "a.png").read_bytes() == corrected


def test_colours_are_those_of_a_viewer(shared: Path) -> None:

    for name in ("p3.jpg", "prophoto.png"):
        with Image.open(shared / "cases" / "icc-wide-gamut" / name) as image:
            assert image.info["icc_profile"]
            managed = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            plain = np.asarray(image.convert("RGB"), float)
        found = read_image(shared / "cases" / "icc-wide-gamut" / name).numpy().astype(float)
        assert np.abs(found - np.asarray(managed, float)).mean() < 2
        assert np.abs(found - plain).mean() > 2


@pytest.mark.parametrize("name", ["dictpoly", "nan", "null-area", "ok"])
def test_segmentations_of_coco(
    name: str, shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cases = shared / "cases"
    for part in ("train", "val"):
        (tmp_path / f"{part}2014").mkdir()
        shutil.copy(cases / "base/data/images/a0.jpg", tmp_path / f"{part}2014" / "p.jpg")
    (tmp_path / "annotations").mkdir()
    for part, file in (("train", name), ("val", "ok")):
        target = tmp_path / "annotations" / f"instances_{part}2014.json"
        shutil.copy(cases / "coco-masks" / f"{file}.json", target)
    code = exit_code("prepare", "coco", "--data", tmp_path)
    shown = "".join(capfd.readouterr())
    assert code == (0 if name in ("ok", "null-area") else 2), shown
    if code:
        assert "instances_train2014.json" in shown and "annotation" in shown
        assert "annotations_trainval2014.zip" not in shown


def test_another_clip_of_the_same_shape(
    shared: Path, tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:

    photos = copied(shared, "predict-other-clip", tmp_path) / "photos"
    other = tiny_clip(tmp_path / "other", seed=7)
    words = ("predict", "--images", photos, "--model", model, "--out", tmp_path / "out")
    assert exit_code(*words, "--clip", other) == 2
    assert "was trained with another CLIP" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_splits_into_one_folder(
    shared: Path, tmp_path: Path, encoders: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    data, out = copied(shared, "masks-two-splits-at-once", tmp_path), tmp_path / "out"
    command = ("masks", "--data", data, "--out", out, *encoders)
    with only_writer(out):  # as another command does
        assert exit_code(*command, "--split", "one") == 2
        assert f"{out} is being written by process {os.getpid()}" in capfd.readouterr().err
    for split in ("one", "two"):
        assert exit_code(*command, "--split", split) == 0
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [f"a{n}" for n in range(6)]
    capfd.readouterr()
    assert exit_code(*command) == 0
    assert "6 were there already" in capfd.readouterr().out


def test_a_log_in_a_code_page(shared: Path, tmp_path: Path, encoders: list[object]) -> None:
    data = copied(shared, "labels-chinese", tmp_path)
    words = ["masks", "--data", data, "--out", tmp_path / "out", *encoders]
    done = subprocess.run(
        [sys.executable, "-m", "ssrseg", *map(str, words)],
        env=os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"2 masks written" in done.stdout
    assert rb"\u72ac" in done.stderr
