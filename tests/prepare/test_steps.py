from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from make_tiny import opened_files, tiny_coco, tiny_voc_sbd
from PIL import Image
from tiny_encoders import tiny_config

from ssrseg.config import load_config
from ssrseg.data import superpixels as cache_module
from ssrseg.data.class_ids import read_class_ids, voc_palette, write_class_ids
from ssrseg.data.coco import IMAGE_FOLDERS, instances_file
from ssrseg.data.open import open_labelled
from ssrseg.errors import DataError, LabelsError
from ssrseg.prepare import coco as coco_module
from ssrseg.prepare import steps as module
from ssrseg.prepare import voc as voc_module
from ssrseg.prepare.archives import (
    COCO_ANNOTATIONS,
    COCO_IMAGES,
    SBD,
    VOC_TEST,
    VOC_TRAINVAL,
    Archive,
)
from ssrseg.prepare.coco import prepare_coco
from ssrseg.prepare.steps import Prepared
from ssrseg.prepare.voc import prepare_voc
from ssrseg.pseudo_masks import make_masks
from ssrseg.training import train

NAMES = [f"2007_{i:06d}" for i in range(9)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tiny_voc_sbd(tmp_path / "voc", tmp_path / "voc" / "SBD")


def found(result: Prepared) -> dict[str, str]:
    return {check.what: check.found for check in result.checks}


def cures(result: Prepared) -> dict[str, str]:
    return {check.what: check.cure for check in result.checks if check.cure}


def snapshot(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- VOC


def test_a_voc_tree_gets_its_list_and_masks(tree: Path) -> None:
    result = prepare_voc(tree)
    assert result.complete
    listed = (tree / "ImageSets" / "Segmentation" / "train_aug.txt").read_text().split()
    assert listed == [*NAMES[:3], *NAMES[6:]]
    assert found(result) == {
        "train": "3 images; the published list has 1,464",
        "train_aug": "6 images; the published list has 10,582",
        "val": "3 images; the published list has 1,449",
        "labels of train_aug": "8 classes in 6 images",
        "labels of val": "4 classes in 3 images",
        "true masks": "SegmentationClassAug: 9 written now",
        "test": "no list; only needed for the VOC server, which gives VOC2012test.tar to"
        f" registered users: put it into {tree}/downloads",
    }
    aug = tree / "SegmentationClassAug"
    for name in NAMES[:6]:  # VOC's own bytes, although SBD has (empty) masks of four of them
        own = tree / "SegmentationClass" / f"{name}.png"
        assert (aug / f"{name}.png").read_bytes() == own.read_bytes()
    for i in (6, 7, 8):
        path = aug / f"{NAMES[i]}.png"
        with Image.open(path) as image:
            assert image.mode == "P"
            assert image.getpalette() == voc_palette().ravel().tolist()
        shown = set(read_class_ids(path).unique().tolist()) - {0}
        sample = next(s for s in open_labelled(tree, split="train_aug").samples if s.truth == path)
        assert shown == {label + 1 for label in sample.labels}


def test_a_second_call_writes_nothing(tree: Path) -> None:
    prepare_voc(tree)
    before = snapshot(tree)
    result = prepare_voc(tree)
    assert found(result)["true masks"] == "SegmentationClassAug: 0 written now"
    assert snapshot(tree) == before
    (tree / "SegmentationClassAug" / f"{NAMES[7]}.png").unlink()
    assert found(prepare_voc(tree))["true masks"] == "SegmentationClassAug: 1 written now"


def test_labels_of_sbds_images_are_vocs_annotations(tree: Path) -> None:
    prepare_voc(tree)
    before = [sample.labels for sample in open_labelled(tree, split="train_aug").samples]
    for path in (tree / "SegmentationClassAug").iterdir():
        write_class_ids(path, torch.full((9, 9), 19, dtype=torch.uint8))
    with opened_files() as paths:
        after = [sample.labels for sample in open_labelled(tree, split="train_aug").samples]
    assert after == before
    assert not [path for path in paths if path.endswith((".png", ".mat"))]


def test_what_is_missing_is_named_with_its_archive(tree: Path) -> None:
    for gone in ("JPEGImages/2007_000001.jpg", "Annotations/2007_000007.xml"):
        (tree / gone).unlink()
    for i in (3, 4, 5):
        (tree / "SegmentationClass" / f"{NAMES[i]}.png").unlink()
    for i in (6, 8):
        (tree / "SBD" / "cls" / f"{NAMES[i]}.mat").unlink()
    result = prepare_voc(tree)
    assert not result.complete
    voc = (
        "run the same command with --download, or put VOCtrainval_11-May-2012.tar (2.0 GB) from"
        f" {VOC_TRAINVAL.url} into {tree}/downloads and run the same command again."
    )
    assert cures(result) == {
        "images": f"2007_000001: {voc}",
        "annotations": f"2007_000007: {voc}",
        "masks of VOC": f"2007_000003, 2007_000004, 2007_000005: {voc}",
        "masks of SBD": "2007_000006, 2007_000008: run the same command with --download, or put"
        f" benchmark.tgz (1.4 GB) from {SBD.url} into {tree}/downloads and run the same command"
        " again.",
    }
    assert found(result)["masks of VOC"] == "3 of 6 missing"
    assert len(list((tree / "SegmentationClassAug").iterdir())) == 4  # those that can be made


def test_an_empty_file_is_missing(tree: Path, tmp_path: Path) -> None:
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (tree / folder / f"{NAMES[0]}.{suffix}").write_bytes(b"")
    aug = tree / "SegmentationClassAug" / f"{NAMES[0]}.png"
    write_class_ids(aug, torch.zeros(9, 9, dtype=torch.uint8))  # no help: the empty one is opened
    (tree / "JPEGImages" / f"{NAMES[1]}.jpg").unlink()
    (tree / "JPEGImages" / f"{NAMES[1]}.jpg").symlink_to("nowhere.jpg")
    result = prepare_voc(tree)
    assert found(result)["images"] == "2 of 9 missing"
    assert found(result)["masks of VOC"] == "1 of 6 missing"
    coco = tiny_coco(tmp_path / "coco")
    for image in (coco / "val2014").iterdir():
        image.write_bytes(b"")
    assert found(prepare_coco(coco))["images of val"] == "2 of 2 missing"
    for mask in (coco / "SegmentationClass" / "val2014").iterdir():
        mask.write_bytes(b"")
    assert found(prepare_coco(coco))["true masks of val"] == "2, 2 written now"


def test_a_tree_that_cannot_be_written_to(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_voc(tree)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("unlink", "mkdir", "write_text"):
        monkeypatch.setattr(Path, name, refuse)
    assert prepare_voc(tree).complete
    for name in NAMES[:4]:
        os.remove(tree / "JPEGImages" / f"{name}.jpg")
    assert f"{', '.join(NAMES[:3])}, ...: " in cures(prepare_voc(tree))["images"]


def test_more_names_than_the_report_holds_are_in_a_file(tree: Path) -> None:
    for name in NAMES[:5]:
        (tree / "JPEGImages" / f"{name}.jpg").rename(tree / f"{name}.jpg")
    (tree / "Annotations" / "2007_000007.xml").rename(tree / "2007_000007.xml")
    listed = tree / "downloads" / "missing.txt"
    assert f"{', '.join(NAMES[:3])}, ... (all in {listed}): " in cures(prepare_voc(tree))["images"]
    lines = listed.read_text().splitlines()
    assert sorted(lines) == ["annotations\t2007_000007", *(f"images\t{n}" for n in NAMES[:5])]
    for name in NAMES[:5]:
        (tree / f"{name}.jpg").rename(tree / "JPEGImages" / f"{name}.jpg")
    assert cures(prepare_voc(tree))["annotations"].startswith("2007_000007: ")
    assert not listed.exists()


def test_an_empty_folder_and_a_wrong_one(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = prepare_voc(tmp_path / "empty")
    assert list(cures(result)) == ["lists"]
    assert list((tmp_path / "empty").iterdir()) == []
    with pytest.raises(DataError, match=r"there is no such folder.*--download"):
        prepare_voc(tmp_path / "absent")
    with pytest.raises(DataError, match="is a file, but a folder"):
        prepare_voc(tree / "ImageSets" / "Segmentation" / "val.txt")
    (tmp_path / "VOCdevkit").mkdir()
    tree.rename(tmp_path / "VOCdevkit" / "VOC2012")
    with pytest.raises(DataError, match=r"a folder too high\. Give .*VOCdevkit/VOC2012\."):
        prepare_voc(tmp_path)


def test_masks_that_others_have_converted(tree: Path) -> None:
    prepare_voc(tree)
    listed = (tree / "ImageSets" / "Segmentation" / "train_aug.txt").read_bytes()
    (tree / "ImageSets" / "Segmentation" / "train_aug.txt").unlink()
    shutil.rmtree(tree / "SBD")
    assert prepare_voc(tree).complete
    assert (tree / "ImageSets" / "Segmentation" / "train_aug.txt").read_bytes() == listed
    (tree / "ImageSets" / "Segmentation" / "train_aug.txt").unlink()
    for i in (6, 7, 8):  # VOC's own masks alone say nothing of SBD
        (tree / "SegmentationClassAug" / f"{NAMES[i]}.png").unlink()
    assert list(cures(prepare_voc(tree))) == ["list train_aug"]


def test_sbds_masks_of_vocs_images_are_not_scored_on(tree: Path) -> None:
    """Some converters write all of SBD, and SBD has masks of most of VOC's train and val."""
    aug = tree / "SegmentationClassAug"
    aug.mkdir()
    for name in NAMES:
        write_class_ids(aug / f"{name}.png", torch.zeros(9, 9, dtype=torch.uint8))
    result = prepare_voc(tree)
    assert result.complete and "masks of VOC" not in found(result)
    for split in ("train", "val"):
        for sample in open_labelled(tree, split=split).samples:
            assert sample.truth == tree / "SegmentationClass" / f"{sample.name}.png"
    (tree / "SegmentationClass" / f"{NAMES[0]}.png").unlink()
    assert (
        "1 of 6 have one in SegmentationClassAug only" in found(prepare_voc(tree))["masks of VOC"]
    )


def test_a_list_that_holds_images_of_val(tree: Path) -> None:
    path = tree / "ImageSets" / "Segmentation" / "train_aug.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES))
    result = prepare_voc(tree)
    assert found(result)["train_aug and val"] == "3 images are in both"
    assert f"Remove {path}" in cures(result)["train_aug and val"]
    path.unlink()
    assert prepare_voc(tree).complete


def test_faulty_annotations_are_said(tree: Path) -> None:
    path = tree / "Annotations" / "2007_000008.xml"
    path.write_text(path.read_text().replace(">bird<", ">brid<"))
    with pytest.raises(LabelsError, match=r'2007_000008\.xml: class "brid" is not in VOC'):
        prepare_voc(tree)


def test_a_broken_mask_of_sbd_stops_and_a_mended_one_goes_on(tree: Path) -> None:
    path = tree / "SBD" / "cls" / "2007_000008.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"2007_000008\.mat is no mask of SBD"):
        prepare_voc(tree)
    assert len(list((tree / "SegmentationClassAug").iterdir())) == 8
    path.write_bytes(whole)
    assert found(prepare_voc(tree))["true masks"] == "SegmentationClassAug: 1 written now"


@pytest.fixture
def sent_away(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Work goes through pickle as on its way to other processes; how many are asked for."""
    asked: list[int] = []

    def pickled(function: object, items: Iterable[object], workers: int) -> Iterator[object]:
        asked.append(workers)
        for item in items:
            yield pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(item)))

    for part in ("workers", "steps"):
        monkeypatch.setattr(f"ssrseg.prepare.{part}.in_processes", pickled)
    return asked


def test_work_can_be_sent_to_other_processes(
    tree: Path, tmp_path: Path, sent_away: list[int]
) -> None:
    assert prepare_voc(tree, workers=3, superpixels=tmp_path / "cache").complete
    assert prepare_coco(tiny_coco(tmp_path / "coco"), workers=4).complete
    assert sent_away == [3, 3, 4, 4]
    assert len(list((tree / "SegmentationClassAug").iterdir())) == 9
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 9


def test_the_projects_part_of_voc(shared: Path, tmp_path: Path) -> None:
    """A part of VOC with labels.csv instead of annotations, and masks converted by others."""
    root = tmp_path / "VOC2012-part"
    root.mkdir()
    for path in (shared / "data" / "VOC2012-part").iterdir():
        (root / path.name).symlink_to(path)
    result = prepare_voc(root)
    assert result.complete
    assert found(result)["train_aug"] == "1,137 images; the published list has 10,582"
    assert found(result)["true masks"] == "SegmentationClassAug: 0 written now"


# ---------------------------------------------------------------- superpixels


@pytest.fixture
def no_slic(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collects what would have been computed."""
    asked: list[str] = []
    original = cache_module.slic_labels

    def counted(image: torch.Tensor, *settings: object) -> torch.Tensor:
        asked.append(str(tuple(image.shape)))
        return original(image, *settings)

    monkeypatch.setattr(cache_module, "slic_labels", counted)
    yield asked


def test_training_and_masks_find_the_superpixels(
    tree: Path, tmp_path: Path, clip_dir: Path, dino_dir: Path, no_slic: list[str]
) -> None:
    config = tiny_config(
        clip_dir,
        dino_dir,
        "optim.iterations=2",
        "optim.cmpa_iterations=2",
        "data.max_side=64",
        "sgc.compactness=7",
    )
    result = prepare_voc(tree, config=config, superpixels=tmp_path / "cache")
    assert found(result)["superpixels"] == f"9 images in {tmp_path / 'cache'}"
    assert len(no_slic) == 9
    assert all(max(map(int, shape[1:-1].split(", "))) <= 64 for shape in no_slic)
    data = open_labelled(tree, split="train_aug")
    train(data, tmp_path / "run", config, cache=tmp_path / "cache")
    timed = len(no_slic) - 9
    assert timed == 3  # the estimate times superpixels of an image and a crop, and keeps none
    make_masks(data, tmp_path / "masks", config, cache=tmp_path / "cache")
    assert len(no_slic) == 9 + timed
    prepare_voc(tree, config=config, superpixels=tmp_path / "cache")
    assert len(no_slic) == 9 + timed
    prepare_voc(tree, config=load_config(), superpixels=tmp_path / "cache")  # other settings
    assert len(no_slic) == 18 + timed


def test_superpixels_of_one_list(tree: Path, tmp_path: Path, no_slic: list[str]) -> None:
    prepare_voc(tree, superpixels=tmp_path / "cache", split="val")
    stored = set((tmp_path / "cache").rglob("*.npy"))
    assert len(stored) == len(NAMES[3:6])
    prepare_voc(tree, superpixels=tmp_path / "all")
    everything = {path.name for path in (tmp_path / "all").rglob("*.npy")}
    assert len(everything) == 9 and {path.name for path in stored} < everything


def test_an_image_without_superpixels_ends_nothing(
    tree: Path, tmp_path: Path, no_slic: list[str]
) -> None:
    broken = sorted((tree / "JPEGImages").glob("*.jpg"))[0]
    broken.write_bytes(b"no image")
    result = prepare_voc(tree, superpixels=tmp_path / "cache")
    check = next(each for each in result.checks if each.what == "superpixels")
    assert check.found == f"8 images in {tmp_path / 'cache'}"
    assert str(broken) in check.cure


def test_superpixels_need_room(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_slic: list[str]
) -> None:
    asked: list[int] = []

    def small(folder: Path, needed: int, purpose: str) -> None:
        asked.append(needed)
        raise DataError(f"{purpose}: no room")

    monkeypatch.setattr(module, "check_room", small)
    with pytest.raises(DataError, match="The superpixels: no room"):
        prepare_voc(tree, superpixels=tmp_path / "cache")
    pixels = sum(np.array(Image.open(path)).size // 3 for path in (tree / "JPEGImages").iterdir())
    assert asked == [2 * pixels]
    assert no_slic == []


# ---------------------------------------------------------------- COCO


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return tiny_coco(tmp_path / "coco")


def test_a_coco_tree_gets_its_masks(coco: Path) -> None:
    result = prepare_coco(coco)
    assert result.complete
    assert found(result) == {
        "train": "3 of 4 images show an instance, 5 classes in them; the published list has 82,081"
        " of 82,783",
        "val": "2 of 3 images show an instance, 3 classes in them; the published list has 40,137"
        " of 40,504",
        "true masks of train": "3, 3 written now",
        "true masks of val": "2, 2 written now",
    }
    for split in ("train", "val"):
        for sample in open_labelled(coco, split=split).samples:
            assert sample.name.startswith(f"{split}2014/COCO_{split}2014_")
            assert sample.truth == coco / "SegmentationClass" / f"{sample.name}.png"
            truth = read_class_ids(sample.truth)
            with Image.open(sample.image) as image:
                assert truth.shape == image.size[::-1]
            assert set(truth.unique().tolist()) - {0} == {label + 1 for label in sample.labels}
    before = snapshot(coco)
    assert found(prepare_coco(coco))["true masks of train"] == "3, 0 written now"
    assert snapshot(coco) == before


def test_labels_of_ones_own_in_a_coco_tree(coco: Path, tmp_path: Path) -> None:
    (coco / "labels.csv").write_text(
        "image,labels\ntrain2014/COCO_train2014_000000000030.jpg,none\n"
        "train2014/COCO_train2014_000000000009.jpg,cat\n"
    )
    result = prepare_coco(coco, superpixels=tmp_path / "cache")
    assert found(result)["labels.csv"] == "is there and wins over the annotations"
    assert found(result)["superpixels"].startswith("2 images")


@pytest.mark.parametrize("images", IMAGE_FOLDERS)
def test_every_layout(tmp_path: Path, images: str) -> None:
    assert prepare_coco(tiny_coco(tmp_path / "coco", images)).complete


def test_masks_that_are_there_are_taken(coco: Path) -> None:
    mask = torch.zeros(61, 75, dtype=torch.uint8)
    mask[3:9] = 80
    path = coco / "SegmentationClass" / "train" / "000000000009.png"
    write_class_ids(path, mask)
    assert found(prepare_coco(coco))["true masks of train"] == "3, 2 written now"
    assert open_labelled(coco, split="train").samples[0].truth == path


def test_masks_of_category_ids_are_refused(coco: Path) -> None:
    mask = torch.zeros(61, 75, dtype=torch.uint8)
    mask[3:9] = 90  # a toothbrush in COCO's own count
    path = coco / "SegmentationClass" / "train" / "000000000009.png"
    write_class_ids(path, mask)
    with pytest.raises(
        DataError, match=r"holds class ids \[90\], .* say \[1, 80\] .*Move .*train "
    ):
        prepare_coco(coco)


def test_an_interrupted_call_goes_on(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    original = coco_module.write_class_ids

    def interrupt(path: Path, ids: torch.Tensor) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        original(path, ids)

    with monkeypatch.context() as patch:
        patch.setattr(coco_module, "write_class_ids", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare_coco(coco)
    assert sorted(path.name for path in coco.rglob("*.png")) == sorted(written)
    assert found(prepare_coco(coco))["true masks of train"] == "3, 1 written now"


def test_coco_without_images_or_annotations(coco: Path, tmp_path: Path) -> None:
    (coco / "train2014" / "COCO_train2014_000000000025.jpg").unlink()
    result = prepare_coco(coco)
    assert cures(result) == {
        "images of train": "COCO_train2014_000000000025.jpg: run the same command with --download,"
        f" or put train2014.zip (13.5 GB) from {COCO_IMAGES['train'].url} into {coco}/downloads"
        " and run the same command again."
    }
    assert found(result)["true masks of train"] == "3, 3 written now"
    instances_file(coco, "val").unlink()
    result = prepare_coco(coco)
    assert found(result) == {"annotations": "1 of 2 missing"}
    assert cures(result)["annotations"].startswith("instances_val2014.json: run the same command")
    coco.rename(tmp_path / "COCO2014")
    with pytest.raises(DataError, match=r"a folder too high\. Give .*COCO2014"):
        prepare_coco(tmp_path)


def test_without_pycocotools_labels_are_ready(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_module, "find_spec", lambda name: None)
    result = prepare_coco(coco)
    assert "pip install pycocotools" in cures(result)["true masks of val"]
    assert len(open_labelled(coco, split="val")) == 2


def test_superpixels_of_coco(coco: Path, tmp_path: Path) -> None:
    result = prepare_coco(coco, superpixels=tmp_path / "cache")
    assert found(result)["superpixels"] == f"5 images in {tmp_path / 'cache'}"
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 5


# ---------------------------------------------------------------- downloads


class Shelf:
    """A web server with archives, and the facts about them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.asked: list[str] = []
        shelf = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                shelf.asked.append(self.path)

        handler = partial(Handler, directory=str(folder))
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/mirror"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def facts(self, archive: Archive) -> Archive:
        """The archive with the size and checksum of what lies here."""
        content = (self.folder / "mirror" / archive.name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return Archive(archive.name, archive.url, len(content), digest, archive.top, archive.wanted)

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "shelf")
    (shelf.folder / "mirror").mkdir()
    yield shelf
    shelf.close()


def put_in_tar(path: Path, content: Path, top: str, mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        archive.add(content, top)


def put_in_zip(path: Path, content: Path, top: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(content.rglob("*")):
            if file.is_file():
                archive.write(file, f"{top}/{file.relative_to(content)}")


@pytest.fixture
def voc_shelf(tree: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    place = shelf.folder / "mirror"
    (tree / "SBD" / "inst").mkdir()
    (tree / "SBD" / "inst" / "2007_000006.mat").write_bytes(b"not needed")
    put_in_tar(place / SBD.name, tree / "SBD", SBD.top, "w:gz")
    shutil.rmtree(tree / "SBD")
    put_in_tar(place / VOC_TRAINVAL.name, tree, VOC_TRAINVAL.top, "w")
    for name in ("SBD", "VOC_TRAINVAL"):
        monkeypatch.setattr(voc_module, name, shelf.facts(getattr(voc_module, name)))
    return shelf


def test_voc_is_downloaded_unpacked_and_prepared(
    voc_shelf: Shelf, tree: Path, tmp_path: Path
) -> None:
    root = tmp_path / "new" / "VOC2012"
    result = prepare_voc(str(root), download=f"{voc_shelf.url}/")
    assert result.complete
    assert found(result)["labels of train_aug"] == "8 classes in 6 images"
    assert sorted(path.name for path in (root / "downloads").iterdir()) == sorted(
        [SBD.name, VOC_TRAINVAL.name]
    )
    assert sorted(path.name for path in (root / "SBD").iterdir()) == ["cls", "train.txt", "val.txt"]
    for path in (tree / "JPEGImages").iterdir():
        assert (root / "JPEGImages" / path.name).read_bytes() == path.read_bytes()
    assert voc_shelf.asked == [f"/mirror/{VOC_TRAINVAL.name}", f"/mirror/{SBD.name}"]
    shutil.rmtree(root / "downloads")
    assert prepare_voc(root, download=voc_shelf.url).complete
    assert len(voc_shelf.asked) == 2  # nothing is missing, so nothing is fetched


def test_archives_that_lie_there_need_no_network(voc_shelf: Shelf, tmp_path: Path) -> None:
    root = tmp_path / "new"
    shutil.copytree(voc_shelf.folder / "mirror", root / "downloads")
    assert prepare_voc(root).complete
    assert voc_shelf.asked == []


def test_an_archive_of_another_content_is_refused(voc_shelf: Shelf, tmp_path: Path) -> None:
    root = tmp_path / "new"
    shutil.copytree(voc_shelf.folder / "mirror", root / "downloads")
    path = root / "downloads" / VOC_TRAINVAL.name
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"VOCtrainval_11-May-2012\.tar has SHA-256 .*Fetch it again"
    ):
        prepare_voc(root)
    assert not (root / "JPEGImages").exists()
    (voc_shelf.folder / "mirror" / VOC_TRAINVAL.name).write_bytes(content)
    path.unlink()
    with pytest.raises(DataError, match=r"gave another file .*\.tar\.rejected; delete it"):
        prepare_voc(root, download=voc_shelf.url)
    assert not (root / "JPEGImages").exists()


def test_a_disk_too_small_is_noticed_before_the_download(
    voc_shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("ssrseg.prepare.download.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"VOCtrainval.*packed and unpacked, needs 0\.\d GB"):
        prepare_voc(tmp_path / "new", download=voc_shelf.url)
    assert voc_shelf.asked == []


def test_the_servers_test_archive_is_unpacked_when_it_lies_there(
    tree: Path, tmp_path: Path
) -> None:
    extra = tmp_path / "extra"
    (extra / "ImageSets" / "Segmentation").mkdir(parents=True)
    (extra / "ImageSets" / "Segmentation" / "test.txt").write_text("2008_000006\n")
    (extra / "JPEGImages").mkdir()
    shutil.copy(tree / "JPEGImages" / "2007_000000.jpg", extra / "JPEGImages" / "2008_000006.jpg")
    (extra / "Annotations").mkdir()
    (extra / "Annotations" / "2008_000006.xml").write_text("<annotation/>")
    (tree / "downloads").mkdir()
    (tree / "ImageSets" / "Segmentation" / "test.txt").write_text("2008_000006\n")
    result = prepare_voc(tree)
    assert result.complete  # nothing else suffers
    assert found(result)["test"].startswith("1 of 1 images missing; only needed for the VOC server")
    put_in_tar(tree / "downloads" / VOC_TEST.name, extra, VOC_TEST.top, "w")
    result = prepare_voc(tree)
    assert result.complete
    assert found(result)["test"] == "1 images; the published list has 1,456"
    assert (tree / "JPEGImages" / "2008_000006.jpg").is_file()
    assert not (tree / "Annotations" / "2008_000006.xml").exists()  # holds no classes


def test_coco_is_downloaded_unpacked_and_prepared(
    coco: Path, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shelf.folder / "mirror"
    (coco / "annotations" / "captions_train2014.json").write_text("{}")
    put_in_zip(place / COCO_ANNOTATIONS.name, coco / "annotations", COCO_ANNOTATIONS.top)
    for split, archive in COCO_IMAGES.items():
        put_in_zip(place / archive.name, coco / f"{split}2014", archive.top)
    monkeypatch.setattr(coco_module, "COCO_ANNOTATIONS", shelf.facts(COCO_ANNOTATIONS))
    facts = {split: shelf.facts(archive) for split, archive in COCO_IMAGES.items()}
    monkeypatch.setattr(coco_module, "COCO_IMAGES", facts)
    root = tmp_path / "new"
    (root / "JPEGImages" / "val").mkdir(parents=True)  # a layout that is begun is kept
    result = prepare_coco(str(root), download=shelf.url)
    assert result.complete
    assert shelf.asked == [
        f"/mirror/{name}"
        for name in ("annotations_trainval2014.zip", "train2014.zip", "val2014.zip")
    ]
    assert sorted(path.name for path in (root / "annotations").iterdir()) == [
        "instances_train2014.json",
        "instances_train2014.labels.cache",
        "instances_val2014.json",
        "instances_val2014.labels.cache",
    ]
    assert len(list((root / "train2014").iterdir())) == 4
    assert len(list((root / "JPEGImages" / "val").iterdir())) == 3
    assert len(open_labelled(root)) == 5
    assert json.loads(instances_file(root, "val").read_text())["images"]
