from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from make_tiny import opened_files, tiny_folder, tiny_voc

from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.data.images import read_image
from ssrseg.data.open import CONVERT_ONEHOT, open_images, open_labelled
from ssrseg.errors import DataError, LabelsError


def error_of(root, kind=DataError, **kwargs):
    with pytest.raises(kind) as caught:
        open_labelled(root, **kwargs)
    return str(caught.value)


def labels_of(data):
    return {s.name: [data.classes[label] for label in s.labels] for s in data.samples}


def test_voc_layout_from_annotations(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    data = open_labelled(root)
    assert data.classes == VOC_CLASSES
    assert labels_of(data) == {
        "2007_000000": ["bird"],
        "2007_000001": ["cat"],
        "2007_000002": ["bird", "dog"],
        "2007_000003": ["bird"],
        "2007_000004": ["cat"],
        "2007_000005": ["bird", "dog"],
    }
    for sample in data.samples:
        assert sample.image == root / "JPEGImages" / f"{sample.name}.jpg"
        assert sample.truth == root / "SegmentationClass" / f"{sample.name}.png"
        shown = {int(label) - 1 for label in read_class_ids(sample.truth).unique()} - {-1, 254}
        assert shown == set(sample.labels)


def test_splits_keep_their_order(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    assert [s.name for s in open_labelled(root, split="val").samples] == [
        "2007_000004",
        "2007_000005",
    ]
    (root / "ImageSets/Segmentation/mine.txt").write_text("2007_000005\r\n\r\n2007_000001 \r\n")
    assert list(labels_of(open_labelled(root, split="mine"))) == ["2007_000005", "2007_000001"]


def test_classes_txt_wins_over_vocs(tmp_path):
    root = tiny_voc(tmp_path / "world", classes=("balloon", "tv", "boat"))
    data = open_labelled(root)
    assert data.classes == ("balloon", "tv", "boat")
    assert data.samples[2].labels == (0, 2)


def test_labels_csv_wins_over_annotations(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    (root / "labels.csv").write_text("image,labels\nJPEGImages/2007_000001.jpg,cow;train\n")
    data = open_labelled(root)
    assert data.classes == VOC_CLASSES
    assert labels_of(data) == {"2007_000001": ["cow", "train"]}
    assert data.samples[0].truth == root / "SegmentationClass" / "2007_000001.png"


def test_vocs_own_truth_is_preferred(tmp_path):
    root = tiny_voc(tmp_path / "voc", n=3)
    (root / "SegmentationClassAug").mkdir()
    for i in (0, 1):  # as converted from SBD, which has masks of VOC's images as well
        (root / "SegmentationClassAug" / f"2007_00000{i}.png").touch()
    for i in (1, 2):
        (root / "SegmentationClass" / f"2007_00000{i}.png").unlink()
    folders = [s.truth and s.truth.parent.name for s in open_labelled(root).samples]
    assert folders == ["SegmentationClass", "SegmentationClassAug", None]


def test_users_folder(tmp_path):
    root = tiny_folder(tmp_path / "mine")
    data = open_labelled(root)
    assert data.classes == ("cat", "dog", "red car")
    assert data.samples[0].name == "photo_0"
    assert data.samples[0].image == root / "images" / "photo_0.jpg"
    assert [s.truth for s in data.samples] == [None] * 6
    assert data.labels.sum(1).tolist() == [1, 1, 2, 1, 1, 0]
    (root / "train.txt").write_text("photo_3\nphoto_1\n")
    assert list(labels_of(open_labelled(root, split="train"))) == ["photo_3", "photo_1"]


def test_order_of_classes_from_a_file(tmp_path):
    root = tiny_folder(tmp_path / "mine")
    (root / "classes.yaml").write_text("red car: automobile\ndog:\ncat: [kitten, tiger]\n")
    data = open_labelled(root)
    assert data.classes == ("red car", "dog", "cat")
    assert data.prompts == {"red car": "automobile", "cat": "kitten, tiger"}
    assert data.samples[0].labels == (2,)


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a.jpg", "b.jpg"], ["a", "b"]),
        (["photos/a.jpg", "photos/b.v2.jpg"], ["photos/a", "photos/b.v2"]),
        (["photos/x/a.jpg", "photos/y/a.jpg"], ["photos/x/a", "photos/y/a"]),
        (["images/x/a.jpg", "images/x/b.jpg"], ["x/a", "x/b"]),
        (["JPEGImages/x/a.jpg", "images.jpg"], ["x/a", "images"]),
        (["x/a.jpg", "a.jpg"], ["x/a", "a"]),
    ],
)
def test_names_are_made_of_the_own_path_alone(tmp_path, images, names):
    for image in images:
        (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / image).touch()
    lines = ["image,labels", *(f"{image},cat" for image in images)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert [s.name for s in open_labelled(tmp_path).samples] == names


def test_the_projects_part_of_voc(shared):
    data = open_labelled(shared / "data" / "VOC2012-part", split="train")
    assert len(data) == 437
    assert data.classes == VOC_CLASSES
    assert data.samples[0].name == "2007_000063"
    assert labels_of(data)["2007_000063"] == ["chair", "dog"]
    assert all(s.truth is not None for s in data.samples)
    assert read_image(data.samples[0].image).shape == (375, 500, 3)
    photos = open_labelled(shared / "data" / "VOC2012-photos-320")
    assert len(photos) == 1994
    assert photos.samples[0].name == "2008_000008"


def test_no_mask_and_no_image_is_opened(tmp_path):
    voc = tiny_voc(tmp_path / "voc")
    shutil.copytree(voc / "SegmentationClass", voc / "SegmentationClassAug")
    with opened_files() as paths:
        data = open_labelled(voc, split="train")
        assert not any(path.endswith((".jpg", ".png")) for path in paths)
        for sample in data.samples:
            read_image(sample.image)
        assert not any("SegmentationClass" in path for path in paths)
    assert sum(path.endswith(".jpg") for path in paths) == len(data) == 4
    with opened_files() as paths:
        read_class_ids(data.samples[0].truth)
    assert set(paths) == {str(data.samples[0].truth)}


def test_a_folder_is_listed_once_however_many_images_it_holds(tmp_path, monkeypatch):
    """One listing per folder and no stat per image, or a network drive takes minutes."""
    calls: list[tuple[object, ...]] = []

    def watched(real):
        return lambda *args, **kwargs: calls.append(args) or real(*args, **kwargs)

    roots = [tiny_folder(tmp_path / str(n), n=n) for n in (3, 30)]
    for name in ("stat", "lstat", "listdir", "scandir"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    open_labelled(roots[0])
    few = len(calls)
    assert (roots[0] / "images",) in calls
    assert len(open_labelled(roots[1])) == 30
    assert len(calls) == 2 * few


def test_missing_folder(tmp_path):
    tiny_folder(tmp_path / "photos")
    assert error_of(tmp_path / "photo") == (
        f'data folder {tmp_path}/photo does not exist. Did you mean "photos"? Give a folder with'
        " labels.csv, or one in the VOC 2012 layout."
    )


def test_a_file_that_has_no_labels(tmp_path):
    root = tiny_folder(tmp_path / "mine")
    assert error_of(root / "images/photo_0.jpg") == (
        f"{root}/images/photo_0.jpg is a file, but a data folder or a file of labels (.csv, .json,"
        " .jsonl, .ndjson, .tab, .tsv, .txt, .xml, .yaml, .yml) is expected. Give"
        f" {root}/images."
    )


def test_neither_layout(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"):
        (tmp_path / name).touch()
    assert error_of(tmp_path) == (
        f"{tmp_path} is no data folder: no labels.csv, no other label file that ssrseg knows, no"
        " layout of VOC 2012 or COCO, and no folder per class is in it. It"
        " holds a.jpg, b.jpg, c.jpg, d.jpg, e.jpg and 1 more."
        ' Write labels.csv there: the header "image,labels", then a line such as'
        ' "images/a.jpg,cat;dog" for each image.'
    )
    (tmp_path / "empty").mkdir()
    assert "It holds nothing. Write" in error_of(tmp_path / "empty")


def test_one_folder_too_high_or_too_deep(tmp_path):
    root = tiny_voc(tmp_path / "VOCdevkit" / "VOC2012")
    for wrong in (root.parent, root.parent.parent, root / "JPEGImages", root / "SegmentationClass"):
        assert error_of(wrong).endswith(f" Did you mean {root}?")


def test_voc_layout_without_labels(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    shutil.rmtree(root / "Annotations")
    assert error_of(root) == (
        f"{root} has the VOC 2012 layout but no image-level labels: neither labels.csv nor the"
        " folder Annotations is there. Copy Annotations from VOC 2012, or write labels.csv (header"
        ' "image,labels", then lines such as "JPEGImages/2007_000063.jpg,chair;dog").'
    )


def test_onehot_pickle_is_refused_and_its_cure_works(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    expected = labels_of(open_labelled(root))
    shutil.rmtree(root / "Annotations")
    table = {
        name: np.array([word in words for word in VOC_CLASSES], np.float32)
        for name, words in expected.items()
    }
    table["2007_000000"][:] = 0
    np.save(root / "cls_labels_onehot.npy", table, allow_pickle=True)
    message = error_of(root)
    assert message.startswith(
        f"{root}/cls_labels_onehot.npy is a pickle, which can run any code when it is loaded"
    )
    assert message.endswith(CONVERT_ONEHOT)
    command = CONVERT_ONEHOT.replace("python ", f"{sys.executable} ", 1)
    subprocess.run(command, shell=True, cwd=root, check=True)
    assert labels_of(open_labelled(root)) == {**expected, "2007_000000": []}


def test_labels_csv_that_is_a_mask_folder(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    shutil.copytree(root / "SegmentationClass", root / "labels.csv")
    assert "labels.csv is a folder with 6 .png files (masks?), but a label file is expected" in (
        error_of(root, LabelsError)
    )


def test_unknown_class_names_the_list(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    (root / "labels.csv").write_text("image,labels\n2007_000001.jpg,cta\n")
    assert error_of(root, LabelsError) == (
        f'{root}/labels.csv line 2: class "cta" is not in VOC\'s class list (20 names). Did you'
        ' mean "cat"?'
    )
    (root / "classes.txt").write_text("dog\ncat\n")
    assert 'line 2: class "cta" is not in classes.txt (2 names).' in (error_of(root, LabelsError))


def test_faulty_annotations_all_at_once(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    folder = root / "Annotations"
    text = (folder / "2007_000000.xml").read_text()
    (folder / "2007_000000.xml").write_text(text.replace(">bird<", ">brid<"))
    (folder / "2007_000001.xml").unlink()
    (folder / "2007_000002.xml").write_text(text[:100])
    lines = error_of(root, LabelsError).splitlines()
    assert lines[0] == f"{folder} has 3 faults:"
    assert lines[1] == (
        '  2007_000000.xml: class "brid" is not in VOC\'s class list (20 names). Did you mean'
        ' "bird"?'
    )
    assert lines[2] == ("  2007_000001.xml is missing. Add it, or write a labels.csv instead.")
    assert lines[3].startswith("  2007_000002.xml is not valid XML (")
    assert lines[4].startswith(f"  If these are classes of your own, write {root}/classes.txt")
    assert len(lines) == 5
    (root / "ImageSets/Segmentation/good.txt").write_text("2007_000004\n")
    assert len(open_labelled(root, split="good")) == 1  # faults elsewhere do not matter


def test_an_annotation_without_objects_is_an_image_of_nothing(tmp_path):
    root = tiny_voc(tmp_path / "voc", n=2)
    (root / "Annotations/2007_000000.xml").write_text("<annotation></annotation>")
    assert labels_of(open_labelled(root))["2007_000000"] == []


def test_unknown_split(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    lists = root / "ImageSets" / "Segmentation"
    assert error_of(root, split="trian") == (
        f'split "trian" is unknown: neither {lists}/trian.txt nor {root}/trian.txt exists. Did you'
        ' mean "train"? The splits are: train, trainval, val. Without a split, all labelled images'
        " are used."
    )
    folder = tiny_folder(tmp_path / "mine")
    (folder / "classes.txt").write_text("cat\ndog\nred car\n")
    assert error_of(folder, split="train").endswith(
        f"{folder}/train.txt exists. Without a split, all labelled images are used."
    )


def test_a_number_is_no_slip_for_another(tmp_path):
    root = tiny_voc(tmp_path / "voc", n=3)
    path = root / "ImageSets" / "Segmentation" / "mine.txt"
    path.write_text("2007_000009\n2007_0000001\n")
    first, second = error_of(root, split="mine").splitlines()[1:]
    assert first.endswith('there is no image "2007_000009" in JPEGImages.')
    assert second.endswith('Did you mean "2007_000001"?')


def test_split_that_names_no_image(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    path = root / "ImageSets" / "Segmentation" / "mine.txt"
    path.write_text("2007_000001\n2007_00002\n2007_000001\nzzz\n")
    assert error_of(root, split="mine").splitlines() == [
        f"{path} has 3 faults:",
        '  line 2: there is no image "2007_00002" in JPEGImages. Did you mean "2007_000002"?',
        '  line 3: "2007_000001" is already on line 1. Remove one.',
        '  line 4: there is no image "zzz" in JPEGImages.',
    ]
    (root / "labels.csv").write_text("image,labels\n2007_000001.jpg,cat\n")
    path.write_text("2007_000003\n")
    assert error_of(root, split="mine") == (
        f'{path} line 1: there is no image "2007_000003" in labels.csv.'
    )
    path.write_text("\n")
    assert error_of(root, split="mine") == (
        f"{path} names no image. Write one image name per line, without suffix."
    )


def test_two_images_of_one_name(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    shutil.copy(root / "JPEGImages/2007_000001.jpg", root / "JPEGImages/2007_000001.png")
    assert error_of(root) == (
        f"{root}/JPEGImages holds both 2007_000001.jpg and 2007_000001.png, which have the same"
        " name up to the suffix. Remove one."
    )


def test_images_of_a_list_need_no_labels(tmp_path):
    root = tiny_voc(tmp_path / "voc")
    for folder in ("Annotations", "SegmentationClass"):
        shutil.rmtree(root / folder)
    (root / "ImageSets/Segmentation/test.txt").write_text("2007_000004\n2007_000001\n")
    with opened_files() as paths:
        found = open_images(root, split="test")
    assert found == {
        name: root / "JPEGImages" / f"{name}.jpg" for name in ("2007_000004", "2007_000001")
    }
    assert list(found) == ["2007_000004", "2007_000001"]
    assert not [path for path in paths if path.endswith(".jpg")]
    assert len(open_images(root)) == 6
    with pytest.raises(DataError, match=r'split "tets" is unknown.*Did you mean "test"'):
        open_images(root, split="tets")


def test_images_have_the_names_of_the_samples(tmp_path):
    for root in (tiny_voc(tmp_path / "voc"), tiny_folder(tmp_path / "mine")):
        samples = open_labelled(root).samples
        assert open_images(root) == {sample.name: sample.image for sample in samples}


# ---------------------------------------------------------------- names and true masks


def user_data(root, *images, masks=()):
    for image in (*images, *(f"SegmentationClass/{mask}" for mask in masks)):
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).touch()
    rows = [f"{image},{'cat' if number % 2 else 'dog'}" for number, image in enumerate(images)]
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]))
    return root


def truths(data):
    below = data.root / "SegmentationClass"
    return {s.name: s.truth and s.truth.relative_to(below).as_posix() for s in data.samples}


def test_a_row_in_another_folder_renames_nothing(tmp_path):
    rows = ["photos/train/a.jpg", "photos/train/b.jpg"]
    root = user_data(tmp_path / "x", *rows, masks=["a.png", "b.png", "c.png"])
    before = truths(open_labelled(root))
    assert before == {"photos/train/a": "a.png", "photos/train/b": "b.png"}
    user_data(root, *rows, "photos/val/c.jpg")
    data = open_labelled(root)
    assert truths(data) == {**before, "photos/val/c": "c.png"}
    assert not any("true mask" in notice for notice in data.notices)


def test_a_mask_that_may_be_of_two_images_is_nobodys_and_said(tmp_path):
    images = ["photos/train/a.jpg", "photos/val/a.jpg"]
    root = user_data(tmp_path / "x", *images, masks=["a.png"])
    data = open_labelled(root)
    assert truths(data) == {"photos/train/a": None, "photos/val/a": None}
    assert data.notices[-1] == (
        "2 images have no true mask, because it cannot be told which one is theirs: call that of"
        ' "photos/train/a" SegmentationClass/photos/train/a.png.'
    )
    (root / "one.txt").write_text("photos/train/a\n")  # the same if one of them is looked at
    assert truths(open_labelled(root, split="one")) == {"photos/train/a": None}
    user_data(root, *images, masks=["photos/train/a.png", "photos/val/a.png"])
    assert truths(open_labelled(root)) == {
        "photos/train/a": "photos/train/a.png",
        "photos/val/a": "photos/val/a.png",
    }


def test_masks_with_a_suffix_in_capitals(tmp_path):
    root = user_data(tmp_path / "x", "images/a.jpg", masks=["a.PNG"])
    assert truths(open_labelled(root)) == {"a": "a.PNG"}


def test_lists_may_shorten_names_where_that_is_clear(tmp_path):
    root = user_data(tmp_path / "x", "p/x/a.jpg", "p/y/a.jpg", "p/y/b.jpg")
    (root / "few.txt").write_text("b\nx/a\n")
    assert [s.name for s in open_labelled(root, split="few").samples] == ["p/y/b", "p/x/a"]
    (root / "few.txt").write_text("b\nimages/p/y/b\na\nz/a\n")
    assert error_of(root, split="few").splitlines()[1:] == [
        '  line 2: "images/p/y/b" is already on line 1. Remove one.',
        '  line 3: "a" may be "p/x/a" or "p/y/a". Write the whole name.',
        '  line 4: there is no image "z/a" in labels.csv. Did you mean "p/y/a"?',
    ]


def test_lists_hold_any_bytes(tmp_path):
    root = tiny_voc(tmp_path / "voc", n=2)
    path = root / "mine.txt"
    path.write_bytes(b"2007_000001\x1b[31m\nk\xfche\n2007_000000\xe2\x80\xa82007_000001\n\x00\n")
    message = error_of(root, split="mine")
    assert r'line 1: there is no image "2007_000001\x1b[31m" in JPEGImages' in message
    assert r'line 2: there is no image "k\udcfche"' in message
    assert r'line 3: there is no image "2007_000000\u20282007_000001"' in message
    assert all(line.isprintable() for line in message.split("\n"))
    os.rename(
        root / "JPEGImages/2007_000001.jpg", os.fsencode(root / "JPEGImages") + b"/k\xfche.jpg"
    )
    os.rename(
        root / "Annotations/2007_000001.xml", os.fsencode(root / "Annotations") + b"/k\xfche.xml"
    )
    path.write_bytes(b"k\xfche\n")
    assert [s.name for s in open_labelled(root, split="mine").samples] == ["k\udcfche"]


@pytest.mark.parametrize("split", ["a\0b", "x" * 5000, "../..", "a\nb", "\x1b[31m", ""])
def test_splits_that_are_no_names(tmp_path, split):
    root = tiny_folder(tmp_path / "mine")
    assert "is unknown" in error_of(root, split=split)


def test_the_head_of_labelmes_list(tmp_path):
    root = tiny_folder(tmp_path / "mine")
    (root / "classes.txt").write_text("__ignore__\n_background_\nred car\ndog\ncat\n")
    data = open_labelled(root)
    assert data.classes == ("red car", "dog", "cat")
    assert '"red car" (line 3) is 1.' in data.notices[0]


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    root = tiny_folder(tmp_path / "mine")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "photos")

    monkeypatch.setattr("ssrseg.data.open.read_classes", refuse)
    assert error_of(root).startswith("photos cannot be read (Permission denied).")


def test_a_split_of_paths_instead_of_names(tmp_path):
    root = tiny_folder(tmp_path / "mine")
    path = root / "few.txt"
    path.write_text("images/photo_0.jpg\nphoto_1.jpg\nimages\\photo_2\n")
    with pytest.raises(DataError) as caught:
        open_labelled(root, split="few")
    end = 'in labels.csv. Write "photo_{}", without suffix and without images/ before it.'
    assert str(caught.value).splitlines()[1:3] == [
        f'  line 1: there is no image "images/photo_0.jpg" {end.format(0)}',
        f'  line 2: there is no image "photo_1.jpg" {end.format(1)}',
    ]
