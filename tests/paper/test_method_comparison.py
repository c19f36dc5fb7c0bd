"""Masks of several methods for the same photographs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_tiny import tiny_voc
from PIL import Image
from tiny_encoders import tiny_config

from ssrseg.data.class_ids import read_class_ids, write_class_ids
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import DataError
from ssrseg.method.metrics import confusion_matrix, scores, undecided_pixels
from ssrseg.model import SSR
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.decoder import Decoder
from ssrseg.networks.vocabulary import Vocabulary
from ssrseg.paper.image_choice import ImageChoice, ShownImage
from ssrseg.paper.method_comparison import ComparedSet, compare_methods, parse_rows

CLASSES = ("cat", "dog", "red car")


@pytest.fixture
def data(tmp_path: Path) -> LabelledImages:
    return open_labelled(tiny_voc(tmp_path / "voc", n=3, classes=CLASSES))


@pytest.fixture(scope="module")
def model(clip_dir: Path, dino_dir: Path) -> SSR:
    clip = FrozenCLIP.load(str(clip_dir))
    torch.manual_seed(0)
    decoder = Decoder(clip.depth - 1, clip.width, 3, layers=1, dropout=0.1).eval()
    config = tiny_config(clip_dir, dino_dir)
    return SSR(config, clip, None, Vocabulary(CLASSES, ()), decoder=decoder)


@pytest.fixture
def part(data: LabelledImages, model: SSR) -> ComparedSet:
    shown = tuple(ShownImage(sample, sample.labels[0]) for sample in data.samples[1:])
    return ComparedSet(data, ImageChoice(shown, "two"), model)


def write_row(folder: Path, part: ComparedSet, seed: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    masks = {}
    for each in part.choice.shown:
        size = read_image(each.sample.image).shape[:2]
        ids = rng.choice([0, 1, 2, 3, 255], tuple(size)).astype(np.uint8)
        masks[each.sample.name] = torch.from_numpy(ids)
        write_class_ids(folder / f"{each.sample.name}.png", masks[each.sample.name])
    return masks


def test_each_row_has_its_own_masks(part: ComparedSet, model: SSR, tmp_path: Path) -> None:
    written = {name: write_row(tmp_path / name, part, seed) for seed, name in enumerate(("a", "b"))}
    (columns,) = compare_methods([part], {name: [tmp_path / name] for name in written})
    assert [column.name for column in columns] == part.choice.names
    for column, shown in zip(columns, part.choice.shown, strict=True):
        assert list(column.masks) == ["a", "b", "SSR"]
        for name, masks in written.items():
            found = column.masks[name]
            assert found is not None and torch.equal(found, masks[column.name])
        photo = read_image(shown.sample.image)
        ours = column.masks["SSR"]
        assert ours is not None and torch.equal(ours, model.segment_photo(photo).pseudo_mask)
        assert torch.equal(column.photo, photo)
        assert shown.sample.truth is not None
        truth = read_class_ids(shown.sample.truth)
        assert column.truth is not None and torch.equal(column.truth, truth)
        for name, ids in column.masks.items():
            assert ids is not None
            known = ids != 255
            matrix = confusion_matrix(ids[known], truth[known], 4)
            expected = scores(matrix, undecided_pixels(ids, truth, 4)).miou
            assert column.miou[name] == expected


def test_two_data_sets_and_a_row_that_knows_one(part: ComparedSet, tmp_path: Path) -> None:
    other = open_labelled(tiny_voc(tmp_path / "other", n=1, classes=CLASSES))
    renamed = replace(other.samples[0], name="other_1", truth=None)
    second = ComparedSet(
        replace(other, samples=(renamed,)),
        ImageChoice((ShownImage(renamed, 0),), "one"),
        part.model,
    )
    write_row(tmp_path / "a", part, 0)
    write_row(tmp_path / "b", part, 1)
    write_row(tmp_path / "b2", second, 2)
    rows = {"a": [tmp_path / "a"], "b": [tmp_path / "b", tmp_path / "b2"]}
    left, right = compare_methods([part, second], rows)
    assert [len(left), len(right)] == [2, 1]
    assert right[0].masks["a"] is None
    assert right[0].masks["b"] is not None
    assert (right[0].truth, right[0].miou) == (None, {})


def test_masks_that_are_missing(part: ComparedSet, tmp_path: Path) -> None:
    write_row(tmp_path / "a", part, 0)
    first, second = part.choice.names
    (tmp_path / "a" / f"{second}.png").unlink()
    with pytest.raises(DataError, match=rf"--row a: .*lacks {second} .*1 of the 2 images shown"):
        compare_methods([part], {"a": [tmp_path / "a"]})
    (tmp_path / "a" / f"{first}.png").unlink()
    with pytest.raises(
        DataError, match=rf"holds the mask of no image shown \(such as {first}\.png"
    ):
        compare_methods([part], {"a": [tmp_path / "a"]})


def test_masks_that_do_not_fit(part: ComparedSet, tmp_path: Path) -> None:
    write_row(tmp_path / "a", part, 0)
    file = tmp_path / "a" / f"{part.choice.names[0]}.png"
    Image.new("L", (40, 30)).save(file)
    with pytest.raises(DataError, match=rf"{file.name} is 40 x 30 pixels, its image 64 x 80"):
        compare_methods([part], {"a": [tmp_path / "a"]})
    Image.new("L", (64, 80), 9).save(file)
    with pytest.raises(DataError, match=rf"{file.name} holds class id 9, but the data have 3"):
        compare_methods([part], {"a": [tmp_path / "a"]})


def test_rows_by_name(tmp_path: Path) -> None:
    for name in ("a", "b", "c/masks"):
        (tmp_path / name).mkdir(parents=True)
    given = (f"SeCo={tmp_path / 'a'}", f"w/o CRF={tmp_path / 'c'}", f"SeCo={tmp_path / 'b'}")
    assert parse_rows(given) == {
        "SeCo": [tmp_path / "a", tmp_path / "b"],
        "w/o CRF": [tmp_path / "c" / "masks"],
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("folder", "expected NAME=FOLDER"),
        ("=folder", "expected NAME=FOLDER"),
        ("name=", "expected NAME=FOLDER"),
        ("SSR=.", 'has a row "SSR" of its own'),
        ("ground truth=.", 'has a row "ground truth" of its own'),
        ("a=not/there", "there is no folder not/there"),
    ],
)
def test_rows_that_are_none(given: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_rows([given])
