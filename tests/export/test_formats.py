"""Each format against a plain decoder of its own; its consumer's reader is in test_readers."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from make_masks import CLASSES, despeckled, filled, write_photo
from PIL import Image
from pycocotools import mask as cocomask

from ssrseg.data.csv_lines import csv_rows
from ssrseg.data.ignored_warnings import IgnoredWarnings
from ssrseg.export.areas import write_areas
from ssrseg.export.coco import write_coco
from ssrseg.export.cvat import write_cvat
from ssrseg.export.labelme import write_labelme
from ssrseg.export.labelstudio import brush_code, write_labelstudio
from ssrseg.export.output import Output
from ssrseg.export.runs import packed, run_lengths
from ssrseg.export.source import Mask
from ssrseg.export.voc import write_voc
from ssrseg.export.yolo import write_yolo
from ssrseg.overlay import mask_palette

shapes = array_shapes(min_dims=2, max_dims=2, max_side=12)
maps = arrays(np.uint8, shapes, elements=st.sampled_from([0, 1, 2, 5, 255]))
regions = arrays(bool, shapes)


class Written(Output):
    """An output that keeps texts and bytes in memory, photographs by name."""

    def __init__(self) -> None:
        self.folder, self.files, self.turned = Path("/out"), {}, 0

    def write(self, place: str, content: str | bytes) -> None:
        self.files[place] = content

    def text(self, place: str) -> object:  # type: ignore[override]
        files = self.files

        class File(io.StringIO):
            def close(self) -> None:
                files[place] = self.getvalue()

        return File()

    def copy_photo(self, mask: Mask, folder: str) -> None:
        self.files[f"{folder}/{mask.file}"] = b"photo"


def mask_of(ids: np.ndarray, name: str = "day 1/a&b", **more: object) -> Mask:
    file = f"{name}.JPG"
    values = {"photo": Path(f"/photos/{file}"), "score": 0.25, "by_hand": False} | more
    return Mask(name, file, file, ids=ids, **values)  # type: ignore[arg-type]


def decided(ids: np.ndarray) -> np.ndarray:
    return np.where(ids == 255, 0, ids)


# ---------------------------------------------------------------- run lengths


@given(regions)
@settings(deadline=None)
def test_packed_runs_are_pycocotools_own(region: np.ndarray) -> None:
    with IgnoredWarnings((DeprecationWarning, "")):
        known = cocomask.encode(np.asfortranarray(region.astype(np.uint8)))
    assert packed(run_lengths(region.T.ravel())) == known["counts"].decode()


def unpack_brush(code: list[int]) -> np.ndarray:
    """The values of thi.ng's rle-pack, bit by bit, from its description."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        assert at <= len(bits)
        return int(bits[at - count : at], 2)

    total, word = read(32), read(5) + 1
    sizes, out = [read(4) + 1 for _ in range(4)], []
    while len(out) < total:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        out += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    assert len(bits) - at < 8 and len(out) == total
    return np.array(out)


@given(arrays(bool, st.integers(1, 400)))
@settings(deadline=None)
def test_brush_code_unpacks(inside: np.ndarray) -> None:
    values = unpack_brush(brush_code(inside)).reshape(-1, 4)
    assert (values == 255 * inside[:, None]).all()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 63, 64, 65, 16383, 16384, 16385, 40000])
def test_brush_code_of_long_runs(length: int) -> None:
    inside = np.repeat([True, False, True], [length, 3, length])
    assert (unpack_brush(brush_code(inside))[3::4] == 255 * inside).all()


# ---------------------------------------------------------------- formats


@given(maps)
@settings(deadline=None)
def test_voc(ids: np.ndarray) -> None:
    out = Written()
    write_voc([mask_of(ids), mask_of(ids * 0, "b")], out, CLASSES)
    with Image.open(io.BytesIO(out.files["SegmentationClass/day 1/a&b.png"])) as image:
        assert image.mode == "P" and (np.asarray(image) == ids).all()
    assert out.files["ImageSets/Segmentation/train.txt"] == "day 1/a&b\nb\n"
    names = [CLASSES[each - 1] for each in np.unique(decided(ids)) if each]
    rows = csv_rows(out.files["labels.csv"])
    assert rows[1] == ["JPEGImages/day 1/a&b.JPG", ";".join(names) or "none"]
    assert rows[2] == ["JPEGImages/b.JPG", "none"]
    assert out.files["classes.txt"].splitlines() == list(CLASSES)
    assert {"JPEGImages/day 1/a&b.JPG", "JPEGImages/b.JPG", "labelmap.txt"} <= out.files.keys()
    assert out.files["labelmap.txt"].splitlines()[1::6] == [
        "background:0,0,0::",
        "ignored:224,224,192::",
    ]


def test_no_labelmap_where_a_name_would_break_it(capsys: pytest.CaptureFixture[str]) -> None:
    out = Written()
    write_voc([], out, ("dog: small",))
    assert "labelmap.txt" not in out.files
    assert "labelmap.txt, which CVAT wants, is left out" in capsys.readouterr().err


@given(maps)
@settings(deadline=None)
def test_coco(ids: np.ndarray) -> None:
    out = Written()
    write_coco([mask_of(ids * 0, "b"), mask_of(ids)], out, CLASSES)
    table = json.loads(out.files["annotations/instances_default.json"])
    assert [(each["id"], each["name"]) for each in table["categories"]] == [*enumerate(CLASSES, 1)]
    assert [(each["id"], each["file_name"]) for each in table["images"]] == [
        (1, "b.JPG"), (2, "day 1/a&b.JPG"),
    ]  # fmt: skip
    found = np.zeros_like(ids)
    for each in table["annotations"]:
        with IgnoredWarnings((DeprecationWarning, "")):
            inside = cocomask.decode(each["segmentation"]).astype(bool)
            assert each["bbox"] == cocomask.toBbox(each["segmentation"]).tolist()
        assert (each["image_id"], each["iscrowd"]) == (2, 0)
        assert each["area"] == inside.sum() and each["segmentation"]["size"] == list(ids.shape)
        assert not found[inside].any()
        found[inside] = each["category_id"]
    numbers = [each["id"] for each in table["annotations"]]
    assert numbers == list(range(1, 1 + len(numbers)))
    assert len(numbers) == len(np.unique(ids[(ids > 0) & (ids < 255)]))
    assert (found == decided(ids)).all()


@given(maps)
@settings(max_examples=150, deadline=None)
def test_yolo(ids: np.ndarray) -> None:
    out = Written()
    write_yolo([mask_of(ids)], out, CLASSES, tolerance=0.0)
    height, width = ids.shape
    parts: dict[int, list[np.ndarray]] = {}
    for line in out.files["labels/day 1/a&b.txt"].splitlines():
        number, *values = line.split()
        points = np.array(values, float).reshape(-1, 2)
        assert len(points) >= 3 and points.min() >= 0 and points.max() < 1
        parts.setdefault(1 + int(number), []).append(points * (width, height))
    for number in range(1, 255):
        inside = ids == number
        expected = despeckled(inside, 10) if inside.any() else inside
        assert (filled(parts.pop(number, []), ids.shape) == expected).all()
    assert not parts
    table = yaml.safe_load(out.files["data.yaml"])
    assert table["names"] == dict(enumerate(CLASSES))
    assert table["train"] == table["val"] == "images" and "images/day 1/a&b.JPG" in out.files


@given(maps)
@settings(deadline=None)
def test_labelstudio(ids: np.ndarray) -> None:
    out = Written()
    masks = [mask_of(ids), mask_of(ids, "hand", by_hand=True), mask_of(ids, "new", score=None)]
    write_labelstudio(masks, out, CLASSES, url_prefix="/data/local-files/?d=photos/")
    first, hand, new = json.loads(out.files["tasks.json"])
    path = first["data"]["image"].removeprefix("/data/local-files/?d=photos/")
    assert unquote(path) == "day 1/a&b.JPG" and not set(path) & set(" &?#")
    (made,) = first["predictions"]
    assert (made["model_version"], made["score"]) == ("ssrseg", 0.25)
    assert "annotations" not in first and "predictions" not in hand
    assert "score" not in new["predictions"][0]
    for results in (made["result"], hand["annotations"][0]["result"]):
        found = np.zeros_like(ids)
        for each in results:
            assert (each["type"], each["value"]["format"]) == ("brushlabels", "rle")
            assert (each["original_height"], each["original_width"]) == ids.shape
            alpha = unpack_brush(each["value"]["rle"]).reshape(*ids.shape, 4)[..., 3]
            (name,) = each["value"]["brushlabels"]
            found[alpha == 255] = 1 + CLASSES.index(name)
        assert (found == decided(ids)).all()
    tree = ElementTree.fromstring(out.files["labels.xml"])
    labels = [(each.get("value"), each.get("background")) for each in tree.iter("Label")]
    colours = ("#{:02x}{:02x}{:02x}".format(*each) for each in mask_palette()[1:].tolist())
    assert labels == [*zip(CLASSES, colours, strict=False)]


@given(maps)
@settings(deadline=None)
def test_cvat(ids: np.ndarray) -> None:
    out = Written()
    write_cvat([mask_of(ids), mask_of(ids * 0, 'odd "<\n>')], out, CLASSES)
    tree = ElementTree.fromstring(out.files["annotations.xml"].encode())
    first, second = tree.iter("image")
    assert (first.get("id"), first.get("name")) == ("0", "day 1/a&b.JPG")
    assert (second.get("name"), len(second)) == ('odd "<\n>.JPG', 0)
    assert (int(first.get("height", 0)), int(first.get("width", 0))) == ids.shape
    found = np.zeros_like(ids)
    for each in first:
        left, top, width, height = (
            int(each.get(key, "")) for key in ("left", "top", "width", "height")
        )
        runs = [int(run) for run in each.get("rle", "").split(",")]
        assert sum(runs) == width * height and runs[-1] > 0
        inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        assert inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all()  # a tight box
        number = 1 + CLASSES.index(each.get("label", ""))
        found[top : top + height, left : left + width][inside] = number
    assert (found == decided(ids)).all()
    assert [each.findtext("name") for each in tree.iter("label")] == list(CLASSES)
    assert [each["name"] for each in json.loads(out.files["labels.json"])] == list(CLASSES)


ISLAND = np.uint8(
    [
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 0, 0, 0, 1, 1, 1, 1],
        [1, 0, 0, 1, 0, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
)
"""A hole of nine pixels around one that meets its border at a corner."""


@example(ISLAND)
@given(maps)
@settings(max_examples=150, deadline=None)
def test_labelme(ids: np.ndarray) -> None:
    out = Written()
    write_labelme([mask_of(ids)], out, CLASSES, tolerance=0.0)
    table = json.loads(out.files["day 1/a&b.json"])
    assert (table["imageHeight"], table["imageWidth"]) == ids.shape
    assert table["imagePath"] == "../../photos/day 1/a&b.JPG" and table["imageData"] is None
    names = out.files["labels.txt"].splitlines()
    assert names == ["__ignore__", "_background_", *CLASSES]
    for number, name in enumerate(("__ignore__", *CLASSES)):
        inside = ids == (number or 255)
        points = [each["points"] for each in table["shapes"] if each["label"] == name]
        expected = despeckled(inside, 10) if inside.any() else inside
        assert (filled([np.array(each) for each in points], ids.shape) == expected).all()


@given(maps)
@settings(deadline=None)
def test_areas(ids: np.ndarray) -> None:
    out = Written()
    write_areas([mask_of(ids), mask_of(ids, "b", score=None)], out, CLASSES)
    head, *rows = csv_rows(out.files["areas.csv"])
    assert head[:5] == ["image", "class", "pixels", "share", "confidence"]
    assert head[5:] == ["undecided", "width", "height", "score"]
    assert len(rows) == 2 * (1 + len(CLASSES))
    left = int((ids == 255).sum())
    for number, row in enumerate(rows[: 1 + len(CLASSES)]):
        pixels = int((ids == number).sum())
        share = "" if left == ids.size else f"{pixels / (ids.size - left):.6f}"
        size = [str(left), *map(str, ids.shape[::-1])]
        name = ("background", *CLASSES)[number]
        assert row == ["day 1/a&b.JPG", name, str(pixels), share, "", *size, "0.250"]
    assert rows[-1][-1] == ""


def test_the_mean_confidence_of_each_class() -> None:
    ids = np.array([[0, 1, 1], [3, 255, 255]], np.uint8)
    sure = np.array([[51, 255, 204], [0, 255, 255]], np.uint8)  # 0.2, 1, 0.8, 0, undecided
    out = Written()
    write_areas([mask_of(ids, confidence=sure)], out, CLASSES)
    _, *rows = csv_rows(out.files["areas.csv"])
    found = {row[1]: row[4] for row in rows}
    assert found.pop("background") == "0.2000"
    assert list(found.values()) == ["0.9000", "", "0.0000", *[""] * (len(CLASSES) - 3)]


def test_all_classes_that_a_mask_can_hold() -> None:
    classes = tuple(f"class {chr(65 + number % 26)}{number}x" for number in range(254))
    ids = np.arange(1, 256, dtype=np.uint8).repeat(16).reshape(60, 68)
    ids[ids == 255] = 0
    mask, out = mask_of(ids), Written()
    write_voc([mask], out, classes)
    write_coco([mask], out, classes)
    write_cvat([mask], out, classes)
    write_labelstudio([mask], out, classes, url_prefix="")
    write_yolo([mask], out, classes, tolerance=0.0)
    write_labelme([mask], out, classes, tolerance=0.0)
    write_areas([mask], out, classes)
    assert len(out.files["labelmap.txt"].splitlines()) == 257
    coco = json.loads(out.files["annotations/instances_default.json"])["annotations"]
    assert [each["area"] for each in coco] == [16] * 254
    assert out.files["annotations.xml"].count("<mask ") == 254
    assert len(json.loads(out.files["tasks.json"])[0]["predictions"][0]["result"]) == 254
    assert len(out.files["labels/day 1/a&b.txt"].splitlines()) >= 254
    assert len(csv_rows(out.files["areas.csv"])) == 256


def test_photographs_with_an_orientation_are_copied_upright(tmp_path: Path) -> None:
    write_photo(tmp_path / "turned.jpg", (70, 40), turned=True)
    write_photo(tmp_path / "plain.jpg", (70, 40))
    out = Output(tmp_path / "out", "test")
    for name in ("turned", "plain"):
        photo = tmp_path / f"{name}.jpg"
        out.copy_photo(replace(mask_of(np.zeros((1, 1), np.uint8), name), photo=photo), "images")
    assert out.turned == 1
    plain, turned = (tmp_path / "out" / "images" / f"{name}.JPG" for name in ("plain", "turned"))
    assert plain.read_bytes() == (tmp_path / "plain.jpg").read_bytes()
    with Image.open(turned) as image, Image.open(plain) as upright:
        assert image.size == (40, 70) and image.getexif().get(0x0112, 1) == 1
        difference = np.asarray(image).astype(int) - np.asarray(upright).astype(int)
    assert np.abs(difference).mean() < 3
