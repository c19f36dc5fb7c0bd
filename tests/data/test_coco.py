from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from make_tiny import COCO_CATEGORIES, opened_files, run_lengths, tiny_coco

from ssrseg.data import coco as module
from ssrseg.data.class_ids import write_class_ids
from ssrseg.data.classes import COCO_CLASSES
from ssrseg.data.coco import (
    IMAGE_FOLDERS,
    ImageInstances,
    Instance,
    InstancesFile,
    instances_by_image,
    instances_file,
    read_instances,
    read_label_table,
)
from ssrseg.data.coco_masks import semantic_mask
from ssrseg.data.open import open_images, open_labelled
from ssrseg.errors import DataError, LabelsError, OutputError

NINE, TWENTY_FIVE, THIRTY_FOUR = (f"COCO_train2014_{n:012d}" for n in (9, 25, 34))
TRAIN = {
    f"train2014/{NINE}": ["person", "toothbrush"],
    f"train2014/{TWENTY_FIVE}": ["tvmonitor"],
    f"train2014/{THIRTY_FOUR}": ["person", "stop sign"],  # of people, only a crowd is annotated
}
VAL = {
    "val2014/COCO_val2014_000000000042": ["cat", "sofa"],
    "val2014/COCO_val2014_000000000074": ["cat"],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tiny_coco(tmp_path / "coco")


def labels_of(data: Any) -> dict[str, list[str]]:
    return {s.name: [data.classes[label] for label in s.labels] for s in data.samples}


def change(tree: Path, split: str, edit: Any) -> None:
    path = instances_file(tree, split)
    table = json.loads(path.read_text())
    edit(table)
    path.write_text(json.dumps(table))


# ---------------------------------------------------------------- labels


def test_the_class_list_is_cocos_in_vocs_spelling() -> None:
    respelled = {
        "motorcycle": "motorbike",
        "airplane": "aeroplane",
        "couch": "sofa",
        "potted plant": "pottedplant",
        "dining table": "diningtable",
        "tv": "tvmonitor",
    }
    assert len(set(COCO_CLASSES)) == 80
    assert [respelled.get(name, name) for name in COCO_CATEGORIES.values()] == list(COCO_CLASSES)


def test_a_tree_opens_as_vocs_does(tree: Path) -> None:
    data = open_labelled(tree, split="train")
    assert data.classes == COCO_CLASSES
    assert labels_of(data) == TRAIN  # the image without an instance is left out
    assert [sample.labels for sample in data.samples] == [(0, 79), (62,), (0, 11)]
    assert data.samples[0].image == tree / "train2014" / f"{NINE}.jpg"
    assert [sample.truth for sample in data.samples] == [None] * 3
    assert labels_of(open_labelled(tree, split="val")) == VAL
    assert labels_of(open_labelled(tree)) == TRAIN | VAL
    assert list(open_images(tree, split="val")) == list(VAL)


def test_a_list_of_ones_own(tree: Path) -> None:
    (tree / "few.txt").write_text(f"COCO_val2014_000000000074\n{NINE}\n")
    wanted = ["val2014/COCO_val2014_000000000074", f"train2014/{NINE}"]
    assert list(labels_of(open_labelled(tree, split="few"))) == wanted
    (tree / "few.txt").write_text(f"val2014/COCO_val2014_000000000074\n{NINE[-12:]}\n")
    assert list(labels_of(open_labelled(tree, split="few"))) == wanted
    (tree / "few.txt").write_text("COCO_train2014_000000000030\n")
    with pytest.raises(DataError, match='there is no image "COCO_train2014_000000000030" in the'):
        open_labelled(tree, split="few")


def test_labels_come_from_category_ids_alone(tree: Path) -> None:
    def blind(table: dict[str, Any]) -> None:
        for entry in table["annotations"]:
            entry["segmentation"] = [[0, 0, 1, 0, 1, 1]]

    change(tree, "train", blind)
    for name in TRAIN:  # and not from masks that lie there
        write_class_ids(
            tree / "SegmentationClass" / f"{name}.png", torch.full((9, 9), 7, dtype=torch.uint8)
        )
    with opened_files() as paths:
        assert labels_of(open_labelled(tree, split="train")) == TRAIN
    assert not [path for path in paths if path.endswith((".png", ".jpg"))]


def test_a_table_is_derived_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = instances_file(tree, "train")
    first = read_label_table(path)
    assert (first.images, len(first.labels)) == (4, 3)
    stored = path.with_name("instances_train2014.labels.cache")
    _, table = stored.read_text().split("\n")
    assert json.loads(table)["labels"][f"{NINE}.jpg"] == [0, 79]
    original, read = module.read_instances, []

    def counting(path: Path) -> InstancesFile:
        read.append(path)
        return original(path)

    monkeypatch.setattr(module, "read_instances", counting)
    assert read_label_table(path) == first
    assert read == []
    change(tree, "train", lambda table: table["annotations"].pop(0))
    assert read_label_table(path).labels[f"{NINE}.jpg"] == (79,)  # same time, other content
    assert read == [path]
    whole = stored.read_text()
    for damaged in (
        whole[:-40], whole.replace("[62]", "[80]"), whole.replace("[62]", '"62"'),
        whole.replace('"images": 4', '"images": 1e999'), whole.replace('"dog"', '"\\u001b"'),
        "", "{}", "[]", "\x00",
    ):  # fmt: skip
        stored.write_bytes(damaged.encode())
        assert read_label_table(path).labels[f"{TWENTY_FIVE}.jpg"] == (62,)
        assert stored.read_text() == whole
    assert len(read) == 10
    monkeypatch.setattr(module, "_RULE", 0)
    read_label_table(path)
    assert len(read) == 11


def test_a_tree_that_may_not_be_written(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OutputError("no permission")

    monkeypatch.setattr(module, "_save", refuse)
    assert len(read_label_table(instances_file(tree, "train")).labels) == 3


def test_other_data_in_cocos_format_keep_their_names(tree: Path) -> None:
    def rename(table: dict[str, Any]) -> None:
        table["categories"] = [{"id": 7, "name": "couch"}, {"id": 3, "name": "tv"}]
        for entry in table["annotations"]:
            entry["category_id"] = 7

    for split in ("train", "val"):
        change(tree, split, rename)
    data = open_labelled(tree, split="train")
    assert data.classes == ("tv", "couch")
    assert [sample.labels for sample in data.samples] == [(1,), (1,), (1,)]


def test_categories_that_can_be_no_classes(tree: Path) -> None:
    def rename(table: dict[str, Any]) -> None:
        names = ("cat", "Cat", "background", "none", "a;b")
        table["categories"] = [{"id": 10 * k, "name": name} for k, name in enumerate(names)]
        table["annotations"].clear()

    change(tree, "train", rename)
    with pytest.raises(LabelsError) as caught:
        open_labelled(tree, split="train")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{instances_file(tree, 'train')} has 4 faults:"
    assert lines[1].startswith(
        '  category 10: class "Cat" is already there, as "cat" (category 0).'
    )
    assert [line.split(":")[0].strip() for line in lines[2:]] == [
        "category 20",
        "category 30",
        "category 40",
    ]


def test_splits_of_different_categories(tree: Path) -> None:
    change(tree, "val", lambda table: table["categories"].pop(0))
    change(tree, "val", lambda table: table["annotations"].clear())
    assert len(open_labelled(tree, split="train").classes) == 80
    with pytest.raises(LabelsError, match="the files of train and val list other categories"):
        open_labelled(tree)


def test_a_class_list_of_ones_own(tree: Path) -> None:
    lines = "".join(f"{name}:\n" for name in COCO_CLASSES)
    (tree / "classes.yaml").write_text(lines.replace("snowboard:", "snowboard: snow board"))
    data = open_labelled(tree, split="val")
    assert data.prompts == {"snowboard": "snow board"}
    (tree / "classes.yaml").write_text("cat:\nsofa:\n")
    with pytest.raises(LabelsError, match=r"\(2 names\), which is not that of its .*\(80"):
        open_labelled(tree, split="val")


def test_labels_csv_wins(tree: Path) -> None:
    (tree / "labels.csv").write_text(f"image,labels\ntrain2014/{NINE}.jpg,cat\n")
    assert labels_of(open_labelled(tree)) == {f"train2014/{NINE}": ["cat"]}


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("images", IMAGE_FOLDERS)
def test_images_in_every_layout(tmp_path: Path, images: str) -> None:
    tree = tiny_coco(tmp_path / "coco", images)
    for split, wanted in (("train", TRAIN), ("val", VAL)):
        data = open_labelled(tree, split=split)
        folder = images.format(split).removeprefix("images/").removeprefix("JPEGImages/")
        renamed = {f"{folder}/{Path(name).name}": words for name, words in wanted.items()}
        assert labels_of(data) == renamed
        assert all(sample.image.is_file() for sample in data.samples)


def test_images_that_bear_their_number_only(tree: Path) -> None:
    for image in (tree / "train2014").iterdir():
        image.rename(image.with_name(image.name[-16:]))
    data = open_labelled(tree, split="train")
    assert labels_of(data) == {f"train2014/{name[-12:]}": words for name, words in TRAIN.items()}
    assert data.samples[0].image == tree / "train2014" / "000000000009.jpg"


@pytest.mark.parametrize(
    "truth",
    [
        "SegmentationClass/train2014/COCO_train2014_{}.png",
        "SegmentationClass/train/{}.png",
        "SegmentationClass/COCO_train2014_{}.png",
        "SegmentationClassAug/{}.png",
    ],
)
def test_masks_in_every_layout(tree: Path, truth: str) -> None:
    path = tree / truth.format("000000000025")
    path.parent.mkdir(parents=True)
    path.touch()
    truths = [sample.truth for sample in open_labelled(tree, split="train").samples]
    assert truths == [None, path, None]


def test_files_that_are_no_images_or_masks(tree: Path) -> None:
    for stray in (f"._{NINE}.jpg", f"{NINE}.txt", "zzz_000000000009.json"):
        (tree / "train2014" / stray).write_text("nothing")
    mask = tree / "SegmentationClass" / f"{NINE}.png"
    mask.parent.mkdir()
    mask.touch()
    mask.with_name(f"._{NINE}.png").touch()
    first = open_labelled(tree, split="train").samples[0]
    assert (first.image, first.truth) == (tree / "train2014" / f"{NINE}.jpg", mask)


def test_missing_images_and_annotations(tree: Path) -> None:
    (tree / "train2014" / f"{NINE}.jpg").unlink()
    with pytest.raises(DataError) as caught:
        open_labelled(tree, split="train")
    assert str(caught.value) == (
        f"{tree} lacks 1 of 3 images of instances_train2014.json (such as {NINE}.jpg). `ssrseg"
        f" prepare coco --data {tree}` says what is missing and where it comes from."
    )
    shutil.rmtree(tree / "train2014")
    with pytest.raises(
        DataError,
        match=r"lacks 3 of 3 images of instances_train2014.json \(such as COCO_train2014_",
    ):
        open_labelled(tree, split="train")
    instances_file(tree, "train").unlink()
    with pytest.raises(DataError, match=r'split "train" is unknown: .* The splits are: val'):
        open_labelled(tree, split="train")
    assert labels_of(open_labelled(tree)) == VAL


def test_the_folder_above(tree: Path) -> None:
    for wrong in (tree.parent, tree / "annotations"):
        with pytest.raises(DataError, match=f"is no data folder: .* Did you mean {tree}\\?"):
            open_labelled(wrong)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"json is no JSON, or cut short \(Expecting value"),
        ("[]", 'is no instances file of COCO: it has no list "images"'),
        ("{}", 'has no list "images"'),
        ('{"images": 3}', 'has no list "images"'),
        ('{"images": []}', 'has no list "annotations"'),
        ('{"images": [], "annotations": [3], "categories": []}', 'has no list "annotations"'),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
            "category None has the id 1; a name",
        ),
        ("[" * 3000, r"no JSON, or cut short \(its lists and tables lie too deep"),
        ("9" * 5000, r"no JSON, or cut short \(Exceeds the limit"),
    ],
)
def test_files_that_are_no_annotations(tree: Path, content: str, message: str) -> None:
    path = instances_file(tree, "train")
    path.write_text(content)
    with pytest.raises(LabelsError, match=message):
        open_labelled(tree, split="train")
    assert not path.with_suffix(".labels.cache").exists()


@pytest.mark.parametrize(
    ("key", "value", "what"), [("image_id", 8, "image 8"), ("category_id", 12, "category 12")]
)
def test_annotations_of_nothing(tree: Path, key: str, value: int, what: str) -> None:
    change(tree, "train", lambda table: table["annotations"][1].__setitem__(key, value))
    with pytest.raises(
        LabelsError, match=f"annotation 901 is of {what}, which the file does not list"
    ):
        open_labelled(tree, split="train")


# ---------------------------------------------------------------- masks


def test_smaller_instances_lie_over_larger_ones_and_crowds_are_classes(tree: Path) -> None:
    images = list(instances_by_image(read_instances(instances_file(tree, "train"))))
    assert [image.file_name for image in images] == [f"{Path(name).name}.jpg" for name in TRAIN]
    nine = np.zeros((61, 75), np.uint8)
    nine[10:40, 8:38] = 1
    nine[20:30, 20:32] = 80
    assert np.array_equal(semantic_mask(images[0]).numpy(), nine)
    thirty_four = np.zeros((67, 67), np.uint8)
    thirty_four[4:20, 4:64] = 1
    thirty_four[30:50, 6:26] = 12
    assert np.array_equal(semantic_mask(images[2]).numpy(), thirty_four)


sides = st.integers(0, 9), st.integers(0, 9), st.integers(1, 6), st.integers(1, 6)
boxes = st.tuples(*sides, st.integers(1, 80), st.booleans())


@settings(deadline=None, max_examples=40)
@given(st.lists(boxes, max_size=6))
def test_masks_are_those_of_a_slow_loop(drawn: list[tuple[int, int, int, int, int, bool]]) -> None:
    height, width = 12, 14
    covers, instances = [], []
    for top, left, rows, columns, class_id, as_runs in drawn:
        bottom, right = min(top + rows, height), min(left + columns, width)
        inside = np.zeros((height, width), bool)
        inside[top:bottom, left:right] = True
        shape: Any = [[left, top, right, top, right, bottom, left, bottom]]
        if as_runs:
            shape = {"counts": run_lengths(inside), "size": [height, width]}
        covers.append((inside, class_id))
        # by its pixels, if its area is not given
        area = None if class_id % 2 else float(inside.sum())
        instances.append(Instance(1, area, class_id, shape))
    found = semantic_mask(annotated((height, width), *instances))
    for row in range(height):
        for column in range(width):
            on = [(cover.sum(), n) for n, (cover, _) in enumerate(covers) if cover[row, column]]
            wanted = covers[min(on)[1]][1] if on else 0  # the smallest; of equals, the first
            assert found[row, column] == wanted


def annotated(size: tuple[int, int], *instances: Instance) -> ImageInstances:
    return ImageInstances(Path("instances_x.json"), "a.jpg", size, instances)


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        (None, "is missing; a box alone makes no mask"),
        ([], "is missing; a box alone makes no mask"),
        ("x", "is neither a list of polygons nor run lengths"),
        ([3], "is neither a list of polygons nor run lengths"),
        ([1, 1, 3, 1, 3, 3], "is neither a list of polygons nor run lengths"),
        ([[1] * 7], "has a polygon with half a point"),
        ([[{"x": 1, "y": 1}] * 3], "holds a point whose coordinates are no numbers"),
        ([["1", "1", "3", "1", "3", "3"]], "holds a point whose coordinates are no numbers"),
        ([[True, 1, 3, 1, 3, 3]], "holds a point whose coordinates are no numbers"),
        ([[None, 1, 3, 1, 3, 3]], "holds a point whose coordinates are no numbers"),
        ([[float("nan"), 1, 3, 1, 3, 3]], "holds a point whose coordinates are no numbers"),
        ([[float("-inf"), 1, 3, 1, 3, 3]], "holds a point whose coordinates are no numbers"),
        ([[1e300, 1, 3, 1, 3, 3]], "are no numbers, or far outside"),
        ([[10**400, 1, 3, 1, 3, 3]], "are no numbers, or far outside"),
        ([[1e6, 0, -1e6, 0, 1e6, 5]], "has an outline of millions of pixels"),
        ({"size": [4, 4]}, "has no run lengths"),
        ({"counts": [16], "size": [4, 5]}, r"is not of the size of the image, \[4, 4\]"),
        ({"counts": [16], "size": 4}, "is not of the size of the image"),
        ({"counts": [15], "size": [4, 4]}, "do not make up the image"),
        ({"counts": [-16, 32], "size": [4, 4]}, "has no run lengths"),
        ({"counts": [16.0], "size": [4, 4]}, "has no run lengths"),
        ({"counts": [2**40, 16 - 2**40], "size": [4, 4]}, "has no run lengths"),
        ({"counts": "", "size": [4, 4]}, "do not make up the image"),
        ({"counts": "\x00", "size": [4, 4]}, "has damaged run lengths"),
        ({"counts": "ä", "size": [4, 4]}, "has damaged run lengths"),
        ({"counts": "ooooooooooooo", "size": [4, 4]}, "has damaged run lengths"),
        ({"counts": "o", "size": [4, 4]}, "has run lengths that are cut short"),
    ],
)
def test_a_segmentation_that_is_none(outline: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        semantic_mask(annotated((4, 4), Instance(7, 1.0, 1, outline)))
    start = "instances_x.json: the segmentation of annotation 7 (of a.jpg) "
    assert str(caught.value).startswith(start)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9))
def test_packed_run_lengths_are_those_of_pycocotools(runs: list[int]) -> None:
    from pycocotools import mask as coder

    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    if not flat.size:
        return
    packed = coder.encode(np.asfortranarray(flat[:, None].astype(np.uint8)))["counts"].decode()
    shape = {"counts": packed, "size": [flat.size, 1]}
    found = semantic_mask(annotated((flat.size, 1), Instance(1, 1.0, 1, shape)))
    assert np.array_equal(found.numpy()[:, 0], flat)


def test_polygons_without_area_leave_nothing() -> None:
    instances = (Instance(1, 1.0, 1, [[]]), Instance(2, 0.0, 2, [[0, 0, 4, 4]]))
    assert semantic_mask(annotated((4, 4), *instances)).tolist() == [[0] * 4] * 4


@pytest.mark.parametrize("area", [True, -1, "9", float("nan"), float("inf"), 10**400, [1]])
def test_areas_that_are_none(tree: Path, area: Any) -> None:
    change(tree, "train", lambda table: table["annotations"][0].__setitem__("area", area))
    with pytest.raises(LabelsError, match=r"annotation 900 has the area .*pixels is expected"):
        list(instances_by_image(read_instances(instances_file(tree, "train"))))


@pytest.mark.parametrize("height", [None, True, 0, -4, 61.0, "61", 10**9, 2**16, [61]])
def test_sizes_that_are_none(tree: Path, height: Any) -> None:
    change(tree, "train", lambda table: table["images"][0].update(height=height, width=2**16))
    with pytest.raises(LabelsError, match=f'image "{NINE}.jpg" has height .* are expected'):
        list(instances_by_image(read_instances(instances_file(tree, "train"))))


def test_without_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(DataError, match="pip install pycocotools"):
        semantic_mask(annotated((4, 4)))


# ---------------------------------------------------------------- data of one's own


def own(root: Path, images: Any, annotations: Any, name: str = "train2014", /, **more: Any) -> Path:
    """A data set in COCO's format: file names by image id, and (image, category) of annotations."""
    table = {
        "images": [
            {"id": n, "file_name": file, "width": 9, "height": 8}
            for n, file in (images.items() if isinstance(images, dict) else images)
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": [1, 1, 5, 5]}
            for n, (image, category) in enumerate(annotations)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    } | more
    path = root / "annotations" / f"instances_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))
    return root


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


CAT = [{"id": 1, "name": "cat"}]


def opened(root: Path, split: str | None = None) -> dict[str, Any]:
    """Classes, by the image's path below the root."""
    data = open_labelled(root, split=split)
    return {
        sample.image.relative_to(root).as_posix(): [data.classes[n] for n in sample.labels]
        for sample in data.samples
    }


def refused(root: Path, split: str | None = None) -> str:
    with pytest.raises((DataError, LabelsError)) as caught:
        open_labelled(root, split=split)
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
    assert "annotations_trainval2014.zip" not in str(caught.value)
    return str(caught.value)


def test_two_cameras_at_one_time(tmp_path: Path) -> None:
    names = {1: "camA_20240501123456.jpg", 2: "camB_20240501123456.jpg"}
    root = own(tmp_path, names, [(1, 1), (2, 2)])
    files(root, *(f"train2014/{name}" for name in names.values()))
    masks = [f"SegmentationClass/{Path(name).stem}.png" for name in names.values()]
    files(root, *masks)
    assert opened(root) == {f"train2014/{names[1]}": ["cat"], f"train2014/{names[2]}": ["dog"]}
    truths = [sample.truth for sample in open_labelled(root).samples]
    assert truths == [root / mask for mask in masks]


def test_one_stem_with_two_suffixes(tmp_path: Path) -> None:
    root = own(tmp_path, {1: "x.jpg", 2: "x.png"}, [(1, 1), (2, 2)])
    files(root, "train2014/x.jpg", "train2014/x.png")
    assert refused(root) == (
        f'{root}: "x.jpg" and "x.png" have the same name "train2014/x" without suffix, under which'
        " results are written. Rename one, in the annotations too, or remove it."
    )


def test_one_file_for_two_images(tmp_path: Path) -> None:
    root = own(
        tmp_path, {1: "000000000009.jpg", 2: "COCO_train2014_000000000009.jpg"}, [(1, 1), (2, 2)]
    )
    files(root, "train2014/000000000009.jpg")
    assert 'have the same name "train2014/000000000009"' in refused(root)


def test_the_same_name_in_train_and_val(tmp_path: Path) -> None:
    root = own(tmp_path, {1: "p.jpg"}, [(1, 1)])
    own(root, {1: "p.jpg"}, [(1, 2)], "val2014")
    files(root, "train2014/p.jpg", "val2014/p.jpg", "SegmentationClass/p.png")
    assert opened(root) == {"train2014/p.jpg": ["cat"], "val2014/p.jpg": ["dog"]}
    for split in (None, "train", "val"):  # whose mask p.png is cannot be told
        data = open_labelled(root, split=split)
        assert [sample.truth for sample in data.samples] == [None] * len(data)
        assert "true mask, because it cannot be told" in data.notices[-1]
    files(root, "SegmentationClass/train/p.png", "SegmentationClass/val2014/p.png")
    (root / "SegmentationClass/p.png").unlink()
    truths = {s.name: s.truth for s in open_labelled(root).samples}
    assert truths == {
        "train2014/p": root / "SegmentationClass/train/p.png",
        "val2014/p": root / "SegmentationClass/val2014/p.png",
    }


def test_one_image_in_two_files(tmp_path: Path) -> None:
    root = own(tmp_path, {1: "p.jpg", 2: "q.jpg"}, [(1, 1), (2, 1)])
    own(root, {1: "p.jpg"}, [(1, 1)], "val2014")
    files(root, "images/p.jpg", "images/q.jpg")
    assert opened(root) == {"images/p.jpg": ["cat"], "images/q.jpg": ["cat"]}
    own(root, {1: "p.jpg"}, [(1, 2)], "val2014")
    assert '"p.jpg" is in the files of train and val with different labels' in refused(root)
    assert opened(root, "val") == {"images/p.jpg": ["dog"]}


@pytest.mark.parametrize(
    ("images", "annotations", "more", "message"),
    [
        ([(1, "p.jpg"), (1, "q.jpg")], [(1, 1)], {}, 'image id 1 is there twice, as "p.jpg" and'),
        ([(1, "p.jpg"), (2, "p.jpg")], [(1, 1)], {}, 'images 1 and 2 are both "p.jpg"'),
        ([(1, "p.jpg"), (2, ".\\p.jpg")], [(1, 1)], {}, 'images 1 and 2 are both "p.jpg"'),
        ([(1, "p.jpg")], [(2, 1)], {}, "annotation 0 is of image 2, which the file does not list"),
        ([(1, "p.jpg")], [(True, 1)], {}, "annotation 0 is of image True"),
        ([(1, "p.jpg")], [(1.0, 1)], {}, "annotation 0 is of image 1.0"),
        ([(1, "p.jpg")], [([1], 1)], {}, "annotation 0 is of image [1]"),
        ([(1, "p.jpg")], [(1, 3)], {}, "annotation 0 is of category 3"),
        ([(1, "p.jpg")], [(1, True)], {}, "annotation 0 is of category True"),
        ([(1, "p.jpg")], [(1, None)], {}, "annotation 0 is of category None"),
        ([(None, "p.jpg")], [], {}, "image 'p.jpg' has the id None, which is no number"),
        ([(True, "p.jpg")], [], {}, "image 'p.jpg' has the id True"),
        ([(float("nan"), "p.jpg")], [], {}, "image 'p.jpg' has the id nan"),
        ([(1, None)], [], {}, "image 1 has the file_name None, which is no text"),
        ([(1, "")], [], {}, 'image 1 has the file_name "", which is empty'),
        ([(1, "/etc/p.jpg")], [], {}, "which is an absolute path"),
        ([(1, "C:\\p.jpg")], [], {}, "which is an absolute path"),
        ([(1, "..\\p.jpg")], [], {}, '".." in it'),
        ([(1, "p\x1b[31m.jpg")], [], {}, r'file_name "p\x1b[31m.jpg", which holds'),
        ([(1, "p\n.jpg")], [], {}, r'file_name "p\n.jpg", which holds a line break'),
        ([(1, "p.jpg")], [], {}, "no image of train has an annotation"),
        ([], [], {"categories": [*CAT, *CAT]}, "id 1 is there twice"),
        ([], [], {"categories": [*CAT, {"id": 2, "name": "CAT "}]}, "is already there"),
        ([], [], {"categories": [{"id": True, "name": "a"}]}, "the category 'a' has the id True"),
        ([], [], {"categories": [{"id": "1", "name": "a"}]}, "the category 'a' has the id '1'"),
        ([], [], {"categories": [{"id": 1, "name": None}]}, "the category None has the id 1"),
        ([], [], {"categories": [{"id": 1, "name": "a\x1b[0m"}]}, r'category 1: "a\x1b[0m" cannot'),
        ([], [], {"categories": [{"id": 1, "name": "7"}]}, "category 1: \"7\" is a number"),
        ([], [], {"categories": []}, "names no class. Add its categories"),
        ([], [], {"categories": {"1": "cat"}}, 'has no list "categories"'),
        ([], [], {"images": None}, 'has no list "images"'),
        ([], [], {"annotations": [[1]]}, 'has no list "annotations"'),
        (
            [], [], {"categories": [{"id": n, "name": f"thing {n}"} for n in range(1, 256)]},
            "category 255: there are 255 classes",
        ),
    ],
)  # fmt: skip
def test_what_would_lose_an_image_or_mix_up_labels_is_refused(
    tmp_path: Path, images: Any, annotations: Any, more: Any, message: str
) -> None:
    root = own(tmp_path, images, annotations, **more)
    files(root, "train2014/p.jpg", "train2014/q.jpg")
    assert message in refused(root)


@pytest.mark.parametrize(
    ("name", "image", "file"),
    [
        ("train2014", "sub/p.jpg", "train2014/sub/p.jpg"),
        ("train2014", "sub\\p.jpg", "train2014/sub/p.jpg"),
        ("train2014", "./p.jpg", "train2014/p.JPG"),
        ("train2014", "images/p.jpg", "images/p.jpg"),
        ("train2014", "train2014/p.jpg", "train2014/p.jpg"),
        ("train2014", "p.jpg", "p.jpg"),
        ("default", "p.jpg", "images/default/p.jpg"),
        ("default", "p.jpg", "default/p.jpg"),
        ("default", "p.jpg", "images/p.jpg"),
        ("train2017", "000000000009.jpg", "train2017/000000000009.jpg"),
        ("train2017", "p.jpg", "images/train/p.jpg"),
    ],
)
def test_layouts_of_other_programs(tmp_path: Path, name: str, image: str, file: str) -> None:
    root = files(own(tmp_path, {1: image}, [(1, 2)], name), file)
    assert opened(root) == {file: ["dog"]}
    assert opened(root, name.replace("2014", "").replace("2017", "")) == {file: ["dog"]}
    assert 'split "test" is unknown' in refused(root, "test")


def test_image_ids_may_be_texts(tmp_path: Path) -> None:
    root = files(own(tmp_path, {"p": "p.jpg"}, [("p", 1)]), "train2014/p.jpg")
    assert opened(root) == {"train2014/p.jpg": ["cat"]}


def test_missing_images_of_other_data(tmp_path: Path) -> None:
    root = files(own(tmp_path, {1: "p.jpg"}, [(1, 1)], "default"), "images/q.jpg")
    assert refused(root) == (
        f"{root} lacks 1 of 1 images of instances_default.json (such as p.jpg). They are looked for"
        f" in {root}/images, {root}/JPEGImages, {root}."
    )


@pytest.mark.parametrize(
    ("file", "split", "image"),
    [
        ("annotations/result.json", "result", "images/p.jpg"),
        ("annotations/train.json", "train", "images/train/p.jpg"),
        ("train/_annotations.coco.json", "train", "train/p.jpg"),
        ("result.json", "result", "p.jpg"),
        ("result.json", "result", "some/where/p.jpg"),
        ("valid/annotations.json", "valid", "valid/images/p.jpg"),
        ("valid/annotations.json", "valid", "images/valid/p.jpg"),
    ],
)
def test_annotations_of_another_name(tmp_path: Path, file: str, split: str, image: str) -> None:
    root = files(own(tmp_path, {1: "p.jpg"}, [(1, 1)]), image)
    (root / file).parent.mkdir(exist_ok=True)
    instances_file(root, "train").rename(root / file)
    for opened_as in (None, split):
        assert opened(root, opened_as) == {image: ["cat"]}
    if not file.startswith("valid") or image.startswith("valid"):  # beside the file
        (sample,) = open_labelled(root / file).samples
        assert sample.image == root / image


def test_the_group_of_all_categories_is_no_class(tmp_path: Path) -> None:
    """As Roboflow writes it; one that is annotated is a class."""
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    root = files(own(tmp_path, {1: "p.jpg"}, [(1, 2)], categories=categories), "train2014/p.jpg")
    data = open_labelled(root)
    assert (data.classes, data.samples[0].labels) == (("cat", "dog"), (1,))
    assert data.notices == (
        '"pets" (category 0) is no class: it is the group of others, and nothing is annotated with'
        " it.",
    )
    own(root, {1: "p.jpg"}, [(1, 2), (1, 0)], categories=categories)
    data = open_labelled(root)
    assert (data.classes, data.samples[0].labels) == (("pets", "cat", "dog"), (0, 2))


def test_files_beside_cocos_own(tmp_path: Path) -> None:
    """They are named, not passed over without a word, and can be opened."""
    for name in ("train2014", "train2017", "extra"):
        root = own(tmp_path, {1: f"{name}.jpg"}, [(1, 1)], name)
    files(root, "train2014/train2014.jpg", "train2017/train2017.jpg", "extra/extra.jpg")
    data = open_labelled(root)
    assert [sample.name for sample in data.samples] == ["train2014/train2014"]
    assert data.notices == (
        f"{root}/annotations: instances_extra.json, instances_train2017.json are not read beside"
        " COCO 2014's own instances_train2014.json; as split extra, one can be opened by itself.",
    )
    for split in ("train", "train2017", "extra"):
        data = open_labelled(root, split=split)
        assert len(data) == 1 and data.samples[0].image.parent.name.startswith(split)
        assert data.notices == ()
    (root / "annotations/instances_train2014.json").unlink()
    data = open_labelled(root)  # none of COCO's own: all are used
    assert [s.name for s in data.samples] == ["extra/extra", "train2017/train2017"]
    assert data.notices == ()


@pytest.mark.parametrize(
    ("ids", "notice"),
    [
        ({"cat": 1, "dog": 2}, ()),
        ({"dog": 2, "cat": 1}, ("cat (category 1) = 1, dog (category 2) = 2",)),
        ({"cat": 0, "dog": 1}, ("cat (category 0) = 1, dog (category 1) = 2",)),
        ({"cat": 1, "dog": 5}, ("cat (category 1) = 1, dog (category 5) = 2",)),
        (
            {"cat": 8, "dog": 6, "cow": 4, "hen": 2},
            ("hen (category 2) = 1, cow (category 4) = 2, dog (category 6) = 3, ...",),
        ),
    ],
)
def test_which_id_a_class_gets(tmp_path: Path, ids: dict[str, int], notice: Any) -> None:
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    root = own(tmp_path, {1: "p.jpg"}, [(1, ids["cat"])], categories=categories)
    for _ in range(2):  # from the file, and as it is kept
        data = open_labelled(files(root, "train2014/p.jpg"))
        assert data.classes == tuple(sorted(ids, key=ids.__getitem__))
        assert data.notices == tuple(
            f"Class ids in masks count the categories by their ids: {each}." for each in notice
        )


def test_images_without_an_annotation_are_counted(tmp_path: Path) -> None:
    root = own(tmp_path, {1: "p.jpg", 2: "q.jpg", 3: "r.jpg"}, [(2, 1)])
    data = open_labelled(files(root, "train2014/p.jpg", "train2014/q.jpg"))
    assert [sample.name for sample in data.samples] == ["train2014/q"]
    assert data.notices == (
        "instances_train2014.json: 2 of 3 images left out, without an annotation: COCO's lists for"
        " this task are of images with an instance.",
    )


def test_labelmes_background_among_the_categories(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "_background_"},
        {"id": 1, "name": "cat"},
        {"id": 2, "name": "dog"},
    ]
    root = own(tmp_path, {1: "p.jpg"}, [(1, 2)], categories=categories)
    data = open_labelled(files(root, "train2014/p.jpg"))
    assert (data.classes, data.samples[0].labels) == (("cat", "dog"), (1,))
    assert '"cat" (category 1) is 1' in data.notices[0]
    assert open_labelled(root) == data  # from the stored table too
    own(root, {1: "p.jpg"}, [(1, 2), (1, 0)], categories=categories)
    assert "annotation 1 is of the background (category 0), which is no class" in refused(root)
