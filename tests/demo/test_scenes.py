from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from ssrseg.data.class_ids import voc_palette
from ssrseg.data.open import open_labelled
from ssrseg.demo.scenes import BACKGROUNDS, CLASSES, render_scene, write_dataset
from ssrseg.demo.sprites import SPRITES


@pytest.fixture(scope="module")
def voc_scenes():
    return [render_scene(seed) for seed in range(150)]


def test_a_seed_is_a_scene() -> None:
    first, again = render_scene(5), render_scene(5)
    for field in ("image", "truth", "backdrop"):
        assert np.array_equal(getattr(first, field), getattr(again, field))
    assert first.classes == again.classes
    assert (first.image != render_scene(6).image).mean() > 0.5
    assert (first.image != render_scene(5, density="crowded").image).mean() > 0.5


def test_values_are_in_range(voc_scenes) -> None:
    for scene in voc_scenes:
        assert scene.image.shape == (128, 128, 3)
        assert scene.truth.shape == scene.backdrop.shape == (128, 128)
        assert scene.truth.max() <= len(CLASSES)
        assert scene.backdrop.max() < len(BACKGROUNDS)


def test_labels_are_what_the_truth_shows(voc_scenes) -> None:
    for scene in voc_scenes:
        shown = [name for k, name in enumerate(CLASSES) if (scene.truth == k + 1).sum() >= 60]
        assert scene.classes == tuple(shown)


def test_statistics_are_near_voc(voc_scenes) -> None:
    assert 1.3 <= np.mean([len(scene.classes) for scene in voc_scenes]) <= 1.8
    assert 0.2 <= np.mean([(scene.truth > 0).mean() for scene in voc_scenes]) <= 0.3
    crowded = [render_scene(seed, density="crowded") for seed in range(60)]
    assert 1.9 <= np.mean([len(scene.classes) for scene in crowded]) <= 2.5


def test_every_class_and_background_occurs(voc_scenes) -> None:
    assert {name for scene in voc_scenes for name in scene.classes} == set(CLASSES)
    behind = np.unique(np.stack([scene.backdrop for scene in voc_scenes]))
    assert behind.tolist() == list(range(len(BACKGROUNDS)))


def test_things_and_background_differ_in_look(voc_scenes) -> None:
    # a renderer that forgot to paint would leave the same colours on both sides
    gaps = []
    for scene in voc_scenes:
        for name in scene.classes:
            inside = scene.truth == 1 + CLASSES.index(name)
            gaps.append(np.abs(scene.image[inside].mean(0) - scene.image[scene.truth == 0].mean(0)))
    assert np.mean(gaps) > 20


def test_size_scales_the_scene_and_the_threshold() -> None:
    scene = render_scene(3, size=64)
    assert scene.image.shape == (64, 64, 3)
    shown = [name for k, name in enumerate(CLASSES) if (scene.truth == k + 1).sum() >= 15]
    assert scene.classes == tuple(shown)


@pytest.mark.parametrize("name", CLASSES)
def test_sprites_fill_their_box(name: str) -> None:
    for seed in range(8):
        parts = SPRITES[name].draw(np.random.default_rng(seed))
        corners = np.concatenate([part.outline for part in parts])
        assert corners.min() >= -0.05 and corners.max() <= 1.05
        assert np.ptp(corners, 0).min() > 0.7
        assert all(0 <= value <= 255 for part in parts for value in part.colour)


def test_dataset_is_voc_as_the_library_reads_it(tmp_path) -> None:
    write_dataset(tmp_path, train=range(3), val=range(10, 12))
    folders = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert folders == {
        "JPEGImages", "SegmentationClassAug", "ImageSets", "labels.csv", "classes.txt",
    }  # fmt: skip
    assert tuple((tmp_path / "classes.txt").read_text().split()) == CLASSES
    with (tmp_path / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 5
    for split, seeds in (("train", range(3)), ("val", range(10, 12))):
        data = open_labelled(tmp_path, split=split)
        assert data.classes == CLASSES
        assert len(data.samples) == len(seeds)
        for sample, seed in zip(data.samples, seeds, strict=True):
            scene = render_scene(seed)
            assert tuple(CLASSES[k] for k in sample.labels) == scene.classes
            with Image.open(sample.truth) as stored:
                assert np.array_equal(np.asarray(stored), scene.truth)
                assert stored.getpalette()[:63] == voc_palette()[:21].ravel().tolist()
            with Image.open(sample.image) as stored:
                change = np.abs(np.asarray(stored).astype(int) - scene.image)
            assert change.mean() < 6


def test_dataset_refuses_shared_scenes(tmp_path) -> None:
    with pytest.raises(ValueError, match="share scenes"):
        write_dataset(tmp_path, train=range(5), val=range(4, 6))
    assert not list(tmp_path.iterdir())
