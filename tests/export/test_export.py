"""From a folder of masks to files: names, sizes, what is left out, and what is not overwritten."""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from make_masks import CLASSES, PHOTOS, write_masks, write_photo
from PIL import Image

import ssrseg
from ssrseg.cli import app
from ssrseg.cli.commands import export
from ssrseg.data.class_ids import read_class_ids, write_class_ids
from ssrseg.data.csv_lines import csv_rows
from ssrseg.data.stamped_mask import write_confidence
from ssrseg.errors import ConfigError, DataError, OutputError
from ssrseg.export.formats import FORMATS
from ssrseg.export.output import Output
from ssrseg.export.run import export_masks
from ssrseg.manifest import ACCEPTED, REJECTED, Manifest

GEO = {"geotiff", "geojson"}  # of photographs with a place on the earth: test_geo.py
ALL = sorted(FORMATS.keys() - GEO)
MODELS = ("onnx", "hub")  # see test_onnx.py, test_hub.py


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_masks(tmp_path)
    return tmp_path / "masks"


def files(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


# ---------------------------------------------------------------- what is written


def test_the_command_offers_every_format() -> None:
    offered = get_args(get_type_hints(export)["to"])
    assert set(get_args(offered[0])) == {*FORMATS, *MODELS}


def test_what_a_person_has_decided_on(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was accepted"):
        export_masks(folder, "csv", tmp_path / "out", only="accepted")
    manifest = Manifest(folder / "manifest.csv", CLASSES)
    for name, decision in (("plain", ACCEPTED), ("turned", ACCEPTED), ("one class", REJECTED)):
        manifest.decide(name, decision)
    result = export_masks(folder, "labelstudio", tmp_path / "out", only="accepted")
    assert (result.written, result.failures) == (2, ())
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert sorted(task["data"]["name"] for task in tasks) == ["plain", "turned"]
    assert all("annotations" in task for task in tasks)  # a person stands for them
    kept = export_masks(folder, "labelstudio", tmp_path / "out", only="not-rejected")
    assert kept.written == len(PHOTOS) - 1
    names = [each["data"]["name"] for each in json.loads((kept.out / "tasks.json").read_text())]
    assert "one class" not in names
    shutil.copy(folder / "masks" / "turned.png", folder / "masks" / "plain.png")
    changed = export_masks(folder, "voc", tmp_path / "voc", only="accepted")
    assert changed.written == 1
    assert [(each.name, each.reason[:31]) for each in changed.failures] == [
        ("plain", "was accepted, and has changed s")
    ]


def test_confidence_is_that_of_masks_as_they_were_made(folder: Path, tmp_path: Path) -> None:
    for name in ("plain", "turned"):
        ids = read_class_ids(folder / "masks" / f"{name}.png")
        sure = torch.full(ids.shape, 0.8)
        write_confidence(folder / "confidence" / f"{name}.png", sure, "made")
    ids[0, 0] = 255
    write_class_ids(folder / "masks" / "turned.png", ids)  # by a person
    manifest = Manifest(folder / "manifest.csv", CLASSES)
    for name in ("plain", "turned"):
        manifest.decide(name, ACCEPTED)
    out = export_masks(folder, "csv", tmp_path / "out", only="accepted").out
    _, *found = csv_rows((out / "areas.csv").read_text())
    confidence = {(row[0], row[4]) for row in found if row[2] != "0"}
    assert confidence == {("plain.jpg", "0.8000"), ("turned.jpg", "")}


@pytest.mark.parametrize("to", ALL)
def test_every_mask_is_exported_with_its_own_name(folder: Path, to: str) -> None:
    before = files(folder.parent)
    result = export_masks(folder, to)
    assert (result.written, result.failures, result.changed) == (len(PHOTOS), (), ())
    assert result.out == folder / "export" / to
    written = files(result.out)
    assert files(folder.parent).items() >= before.items()
    names = [name.rpartition(".")[0] for name in PHOTOS]
    places = {
        "voc": [f"JPEGImages/{name}" for name in PHOTOS]
        + [f"SegmentationClass/{name}.png" for name in names],
        "coco": [f"images/default/{name}" for name in PHOTOS],
        "yolo": [f"images/{name}" for name in PHOTOS] + [f"labels/{name}.txt" for name in names],
        "labelme": [f"{name}.json" for name in names],
    }
    assert set(places.get(to, ())) <= written.keys()
    again = export_masks(folder, to)
    assert again.written == result.written and files(result.out) == written
    assert not [name for name in written if ".lock" in name or ".tmp" in name]


def test_voc_opens_here_and_is_the_same_masks(folder: Path, tmp_path: Path) -> None:
    export_masks(folder, "voc", tmp_path / "voc")
    data = ssrseg.open_labelled(tmp_path / "voc", split="train")
    assert data.classes == CLASSES and len(data) == len(PHOTOS)
    found = ssrseg.evaluate(folder, data)
    undecided = sum(
        int((read_class_ids(path) == 255).sum()) for path in folder.rglob("masks/*.png")
    )
    assert undecided > 100 and found.scored == len(PHOTOS) and found.undecided == 0
    assert found.scores.miou == 1.0
    pixels = sum(height * width for height, width in PHOTOS.values())
    assert int(found.matrix.sum()) == pixels - undecided
    for sample in data.samples:
        assert sample.truth is not None
        shown = set(read_class_ids(sample.truth).unique().tolist()) - {0, 255}
        assert {1 + index for index in sample.labels} == shown


def test_coco_opens_here_and_is_the_same_masks(folder: Path, tmp_path: Path) -> None:
    export_masks(folder, "coco", tmp_path / "coco")
    data = ssrseg.open_labelled(tmp_path / "coco")
    assert data.classes == CLASSES
    shown = {name.rpartition(".")[0] for name in PHOTOS} - {"empty"}  # which has no annotation
    assert {sample.name.removeprefix("default/") for sample in data.samples} == shown


def test_the_mask_of_a_turned_photograph_is_upright(folder: Path, tmp_path: Path) -> None:
    for to in ALL:
        result = export_masks(folder, to, tmp_path / to)
        assert result.turned == (to in ("voc", "coco", "yolo"))
    for place in ("voc/JPEGImages", "coco/images/default", "yolo/images"):
        with Image.open(tmp_path / place / "turned.jpg") as image:
            assert image.size == (40, 70) and image.getexif().get(0x0112, 1) == 1
    tree = ElementTree.parse(tmp_path / "cvat" / "annotations.xml")
    sizes = {
        each.get("name"): (each.get("height"), each.get("width")) for each in tree.iter("image")
    }
    assert sizes["turned.jpg"] == ("70", "40")
    table = json.loads((tmp_path / "labelme" / "turned.json").read_text())
    assert (table["imageHeight"], table["imageWidth"]) == (70, 40)
    there = tmp_path / "labelme" / table["imagePath"]
    assert there.samefile(tmp_path / "photos" / "images" / "turned.jpg")


def test_label_studio_begins_with_the_lowest_score(folder: Path, tmp_path: Path) -> None:
    export_masks(folder, "labelstudio", tmp_path / "out")
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    scores = [each["predictions"][0]["score"] for each in tasks]
    assert scores == sorted(scores) and tasks[0]["data"]["name"] == "undecided"
    urls = {each["data"]["image"] for each in tasks}
    assert "/data/local-files/?d=images/day%201/a%20b.jpg" in urls
    export_masks(folder, "labelstudio", tmp_path / "out", url_prefix="https://here/x?p=")
    text = (tmp_path / "out" / "tasks.json").read_text()
    assert text.count('"https://here/x?p=') == len(PHOTOS) and "local-files" not in text


def test_a_corrected_mask_is_an_annotation(folder: Path, tmp_path: Path) -> None:
    ids = np.zeros(PHOTOS["plain.jpg"], np.uint8)
    ids[5:9, 3:7] = 2
    Image.fromarray(ids).save(folder / "masks" / "plain.png")
    export_masks(folder, "labelstudio", tmp_path / "out")
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    (hand,) = (each for each in tasks if "annotations" in each)
    assert hand["data"]["name"] == "plain"
    (result,) = hand["annotations"][0]["result"]
    assert result["value"]["brushlabels"] == ["traffic light"]


def test_a_table_may_be_named_as_a_file(folder: Path, tmp_path: Path) -> None:
    export_masks(folder, "csv", tmp_path / "mine" / "areas of june.CSV")
    _, *rows = csv_rows((tmp_path / "mine" / "areas of june.CSV").read_text())
    assert len(rows) == len(PHOTOS) * (1 + len(CLASSES))
    by_image: dict[str, int] = {}
    for image, _, pixels, _, _, undecided, width, height, _ in rows:
        by_image[image] = by_image.get(image, int(undecided)) + int(pixels)
        assert (int(height), int(width)) == PHOTOS[image]
    assert by_image == {name: height * width for name, (height, width) in PHOTOS.items()}


# ---------------------------------------------------------------- photographs


def test_photographs_that_have_moved(folder: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "photos", tmp_path / "archive")
    result = export_masks(folder, "cvat", tmp_path / "out")
    assert result.written == 0 and len(result.failures) == len(PHOTOS)
    assert "does not exist. If the photographs have moved, name their folder (--images)." in (
        result.failures[0].reason
    )
    for images in ("archive", "archive/images"):
        result = export_masks(folder, "cvat", tmp_path / "out", images=tmp_path / images)
        assert (result.written, result.failures) == (len(PHOTOS), ())
        assert result.photos == tmp_path / "archive" / "images"
    tree = ElementTree.parse(tmp_path / "out" / "annotations.xml")
    assert sorted(str(each.get("name")) for each in tree.iter("image")) == sorted(PHOTOS)


def test_masks_of_ones_own_need_classes_and_photographs(tmp_path: Path) -> None:
    write_masks(tmp_path)
    own = tmp_path / "own"
    shutil.copytree(tmp_path / "masks" / "masks", own)
    with pytest.raises(DataError, match=r"own has no classes\.txt, which names the ids"):
        export_masks(own, "voc", tmp_path / "out")
    (own / "classes.txt").write_text("\n".join(CLASSES))
    with pytest.raises(DataError, match=r"Nothing says which photographs the masks in .*--images"):
        export_masks(own, "voc", tmp_path / "out")
    with pytest.raises(OutputError, match="is in the folder of the masks"):
        export_masks(own, "voc", images=tmp_path / "photos")
    result = export_masks(own, "voc", tmp_path / "out", images=tmp_path / "photos")
    assert (result.written, result.failures) == (len(PHOTOS), ())
    assert export_masks(own, "csv", tmp_path / "areas.csv").written == len(PHOTOS)


def test_the_inner_folder_may_be_given(folder: Path, tmp_path: Path) -> None:
    assert export_masks(folder / "masks", "coco", tmp_path / "out").written == len(PHOTOS)


def test_a_changed_photograph_is_told(folder: Path, tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "images" / "plain.jpg", (60, 80), turned=True)
    result = export_masks(folder, "voc", tmp_path / "out")
    assert result.changed == ("plain",) and result.written == len(PHOTOS)


# ---------------------------------------------------------------- what is left out


def test_what_does_not_fit_is_left_out_and_listed(folder: Path, tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "images" / "plain.jpg", (30, 80))
    (folder / "masks" / "turned.png").write_bytes(b"no picture")
    ids = np.full(PHOTOS["empty.JPG"], 6, np.uint8)
    Image.fromarray(ids).save(folder / "masks" / "empty.png")
    (tmp_path / "photos" / "images" / "one class.jpeg").unlink()
    (folder / "failures.csv").write_text(
        "name,image,reason\nbroken,/p/broken.jpg,It is cut short.\n"
    )
    result = export_masks(folder, "coco", tmp_path / "out")
    assert result.written == 3
    reasons = {each.name: each.reason for each in result.failures}
    assert reasons.keys() == {"broken", "plain", "turned", "empty", "one class"}
    assert reasons["broken"] == "It is cut short."
    assert "plain.png is 80 x 60 pixels, its photograph" in reasons["plain"]
    assert "80 x 30 (upright)" in reasons["plain"]
    assert "holds class id 6, but the data have 5 classes" in reasons["empty"]
    table = json.loads((tmp_path / "out" / "annotations" / "instances_default.json").read_text())
    assert [each["file_name"] for each in table["images"]] == [
        "day 1/a b.jpg", "day 1/größe.png", "undecided.png",
    ]  # fmt: skip


def test_names_that_a_format_cannot_hold(folder: Path, tmp_path: Path) -> None:
    for name in ("bad\x01", "line\nbreak", "images/x"):
        photo = tmp_path / "photos" / "images" / f"{name}.png"
        write_photo(photo, (20, 20))
        path = folder / "masks" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.eye(20, dtype=np.uint8)).save(path)
    images = tmp_path / "photos" / "images"
    left = {
        to: sorted(
            each.name for each in export_masks(folder, to, tmp_path / to, images=images).failures
        )
        for to in ALL
    }
    assert left == {
        "coco": [], "csv": [], "labelme": [], "labelstudio": [],
        "cvat": ["bad\x01"], "voc": ["bad\x01", "line\nbreak"], "yolo": ["images/x"],
    }  # fmt: skip
    tree = ElementTree.parse(tmp_path / "cvat" / "annotations.xml")
    assert "line\nbreak.png" in {each.get("name") for each in tree.iter("image")}


# ---------------------------------------------------------------- what is not overwritten


@pytest.mark.parametrize("to", ALL)
def test_a_file_of_somebody_else_stays(folder: Path, tmp_path: Path, to: str) -> None:
    export_masks(folder, to, tmp_path / "first")
    places = [name for name in files(tmp_path / "first") if not name.startswith(".")]
    mine = tmp_path / "out" / sorted(places)[-1]
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(OutputError, match="is there already and was not written by this export"):
        export_masks(folder, to, tmp_path / "out")
    assert mine.read_text() == "mine"


def test_a_file_that_was_changed_since_stays(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_masks(folder, "labelme", out)
    before = files(out)
    (out / "plain.json").write_text("corrected")
    with pytest.raises(OutputError, match=r"1 file of an earlier export .* such as plain\.json"):
        export_masks(folder, "labelme", out)
    assert files(out) == before | {"plain.json": b"corrected"}
    (out / "plain.json").unlink()
    export_masks(folder, "labelme", out)
    assert files(out) == before


def test_what_is_no_longer_written_goes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_masks(folder, "yolo", out)
    (out / "mine.txt").write_text("mine")
    for mask in (folder / "masks" / "day 1").iterdir():
        mask.unlink()
    export_masks(folder, "yolo", out)
    left = files(out)
    assert "mine.txt" in left and "labels/plain.txt" in left
    assert not [name for name in left if "day 1" in name] and not (out / "images/day 1").exists()


def test_two_formats_share_a_folder(folder: Path, tmp_path: Path) -> None:
    for to in ("cvat", "csv", "cvat", "csv"):
        export_masks(folder, to, tmp_path / "out", sheet=True)
    assert {"annotations.xml", "areas.csv", "sheet-01.jpg"} <= files(tmp_path / "out").keys()


def test_an_export_that_was_killed_is_known_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_masks(folder, "voc", tmp_path / "whole")
    out, count, real = tmp_path / "out", 0, os.replace

    def replace(source: str, target: str) -> None:
        nonlocal count
        count += 1
        if count == 9:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        export_masks(folder, "voc", out)
    assert len(files(out)) >= 4
    monkeypatch.undo()
    export_masks(folder, "voc", out)
    assert files(out) == files(tmp_path / "whole")


def test_a_table_cut_short_is_read(tmp_path: Path) -> None:
    out = Output(tmp_path, "test")
    out.write("a", "one")
    out.write("b", "two")
    table = tmp_path / ".ssrseg-export-test"
    text = table.read_text()
    assert Output(tmp_path, "test")._earlier.keys() == {"a", "b"}
    table.write_text(
        text + '["0123", "../../' + "\n[1, 2]\n{}\n" + '["x", "/etc/passwd"]\n["x", "../y"]'
    )
    assert Output(tmp_path, "test")._earlier.keys() == {"a", "b"}


# ---------------------------------------------------------------- options and the command


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "cocco"}, "format 'cocco' .* Did you mean \"coco\""),
        ({}, "format None .* Without a format there are pictures only"),
        ({"to": "voc", "tolerance": 1.0}, "--tolerance is an option of yolo, labelme, not of voc"),
        (
            {"to": "cvat", "url_prefix": "x"},
            "--url-prefix is an option of labelstudio, not of cvat",
        ),
        ({"overlays": True, "tolerance": 1.0}, "--tolerance is an option of"),
        ({"to": "yolo", "tolerance": -1.0}, r"tolerance = -1\.0 .* 0 \.\. 100 pixels"),
    ],
)
def test_slips_in_options(folder: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        export_masks(folder, **options)  # type: ignore[arg-type]
    assert not (folder / "export").exists()


def test_folders_without_masks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder of masks"):
        export_masks(tmp_path / "nowhere", "voc")
    (tmp_path / "masks").mkdir()
    (tmp_path / "classes.txt").write_text("dog\n")
    with pytest.raises(DataError, match="holds no mask that could be exported"):
        export_masks(tmp_path, "voc")


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "masks" / "plain.png").write_bytes(b"no picture")
    words = ["export", str(folder), "--to", "voc", "--out", str(tmp_path / "voc")]
    assert app(words, exit_on_error=False, result_action="return_value") == 3
    said = capsys.readouterr()
    assert f"6 masks written to {tmp_path / 'voc'}. --data {tmp_path / 'voc'} opens it" in said.out
    assert "1 image is left out:" in said.out and "plain:" in said.out
    assert "1 photograph was saved upright" in said.err
    (folder / "masks" / "plain.png").unlink()
    words = ["export", str(folder), "--overlays", "--out", str(tmp_path / "seen")]
    assert app(words, exit_on_error=False, result_action="return_value") == 0
    assert len(list((tmp_path / "seen" / "overlays").rglob("*.jpg"))) == len(PHOTOS) - 1


def test_the_command_knows_every_format() -> None:
    arguments = app["export"].assemble_argument_collection(parse_docstring=True)
    (to,) = (each for each in arguments if each.name == "--to")
    assert sorted(to.get_choices() or ()) == sorted({*FORMATS, *MODELS})
