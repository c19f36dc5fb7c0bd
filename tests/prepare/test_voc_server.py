from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from make_tiny import tiny_voc
from PIL import Image

from ssrseg.data.class_ids import voc_palette, write_class_ids
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.errors import DataError
from ssrseg.prepare import voc_server as module
from ssrseg.prepare.voc_server import voc_archive

INSIDE = "results/VOC2012/Segmentation/comp6_test_cls"
NAMES = [f"2007_{i:06d}" for i in range(4)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Images and a test list, and nothing that tells what they show."""
    root = tiny_voc(tmp_path / "voc", n=4)
    for folder in ("Annotations", "SegmentationClass"):
        shutil.rmtree(root / folder)
    text = "\n".join([*NAMES[1:], ""])
    (root / "ImageSets" / "Segmentation" / "test.txt").write_text(text)
    return root


@pytest.fixture
def masks(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "PUBLISHED", 3)
    for number, name in enumerate(NAMES[1:]):
        with Image.open(tree / "JPEGImages" / f"{name}.jpg") as image:
            ids = torch.zeros(image.size[::-1], dtype=torch.uint8)
        ids[5:9] = 18 + number
        write_class_ids(tmp_path / "out" / "masks" / f"{name}.png", ids)
    (tmp_path / "out" / "classes.txt").write_text("\n".join(VOC_CLASSES) + "\n")
    return tmp_path / "out"


def refusal(*arguments: Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        voc_archive(*arguments, **options)
    assert not arguments[2].exists()
    return str(caught.value)


def test_the_archive_is_what_the_server_wants(tree: Path, masks: Path, tmp_path: Path) -> None:
    result = voc_archive(masks, tree, tmp_path / "results.tgz")
    assert (result.path, result.images) == (tmp_path / "results.tgz", 3)
    with tarfile.open(tmp_path / "results.tgz", "r:gz") as archive:
        assert archive.getnames() == [f"{INSIDE}/{name}.png" for name in NAMES[1:]]
        for name in NAMES[1:]:
            file = archive.extractfile(f"{INSIDE}/{name}.png")
            assert file is not None
            with Image.open(io.BytesIO(file.read())) as image:
                assert image.mode == "P"
                assert image.getpalette() == voc_palette().ravel().tolist()
                found = np.array(image)
            with Image.open(masks / "masks" / f"{name}.png") as image:
                assert np.array_equal(found, np.array(image))


def test_grey_masks_of_others_and_another_list(tree: Path, masks: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    with Image.open(masks / "masks" / "2007_000003.png") as image:
        Image.fromarray(np.array(image)).save(plain / "2007_000003.png")  # grey, 18-20
    out = tmp_path / "val.tar.gz"
    assert voc_archive(plain, tree, out, split="val").images == 1
    with tarfile.open(out) as archive:
        file = archive.extractfile(f"{INSIDE}/2007_000003.png")
        assert file is not None
        with Image.open(io.BytesIO(file.read())) as image:
            assert image.mode == "P"


def test_a_mask_is_missing(tree: Path, masks: Path, tmp_path: Path) -> None:
    (masks / "masks" / "2007_000002.png").unlink()
    message = refusal(masks, tree, tmp_path / "results.tgz")
    assert "lacks the masks of 1 of 3 images (such as 2007_000002.png)" in message
    assert f"ssrseg predict --data {tree} --split test" in message


def test_a_mask_of_another_size(tree: Path, masks: Path, tmp_path: Path) -> None:
    path = masks / "masks" / "2007_000002.png"
    write_class_ids(path, torch.zeros(9, 7, dtype=torch.uint8))
    message = refusal(masks, tree, tmp_path / "results.tgz")
    assert f"{path} is 7 x 9 pixels, its image 51 x 96." in message


@pytest.mark.parametrize(
    ("value", "words"),
    [(255, "undecided pixels (255)"), (21, "class id 21, but the data have 20 classes")],
)
def test_ids_the_server_does_not_know(
    tree: Path, masks: Path, tmp_path: Path, value: int, words: str
) -> None:
    ids = torch.zeros(96, 51, dtype=torch.uint8)
    ids[3, 4] = value
    write_class_ids(masks / "masks" / "2007_000002.png", ids)
    assert words in refusal(masks, tree, tmp_path / "results.tgz")


def test_other_classes_another_list_and_another_name(
    tree: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Name it results.tgz" in refusal(masks, tree, tmp_path / "results.zip")
    monkeypatch.setattr(module, "PUBLISHED", 1456)
    message = refusal(masks, tree, tmp_path / "results.tgz")
    assert "names 3 images, but the server scores 1,456" in message
    (masks / "classes.txt").write_text("cat\ndog\n")
    message = refusal(masks, tree, tmp_path / "results.tgz")
    assert f"{masks}/classes.txt names 2 classes that are not VOC's 20" in message
