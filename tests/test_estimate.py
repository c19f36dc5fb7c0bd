"""The arithmetic of the estimate with known rates, and that trying changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_tiny import tiny_folder
from tiny_encoders import tiny_config

from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.estimate import (
    Cost,
    CropRates,
    Peak,
    PhotoRates,
    amount,
    duration,
    estimate,
    in_words,
    masks_cost,
    train_cost,
    try_crops,
    try_photos,
    typical,
)
from ssrseg.feature_cache import photo_sizes
from ssrseg.model import SSR
from ssrseg.schedule import plan

PHOTOS = PhotoRates(
    read=1e-3, superpixels=1e-2, rectify=10.0, encode=2.0, gather=4.0, write=1e-4, mask=0.5,
    patches=12, memory=Peak(1 << 40, (1 << 40) + 1200),
)  # fmt: skip
CROPS = CropRates(
    load=1.0, prepare=20.0, learn=30.0, step=5.0, align=7.0, weights=1000,
    one=Peak(0, 1 << 40), several=Peak(0, (1 << 40) + 900), crops=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_folder(tmp_path_factory.mktemp("estimate") / "photos"))


def model_with(data: LabelledImages, clip: Path, dino: Path, *overrides: str) -> SSR:
    return SSR.for_data(tiny_config(clip, dino, *overrides), data)


def test_masks_by_hand(
    data: LabelledImages, clip_dir: Path, dino_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_with(data, clip_dir, dino_dir, "data.workers=0")
    # 3 x 4 patches; and 1280 x 640, shrunk to 640 x 320: 40 x 20 patches
    cost = masks_cost(PHOTOS, model, [(48, 64), (1280, 640)], slots=1.5)
    pixels, small, patches = 48 * 64 + 1280 * 640, 48 * 64 + 640 * 320, 12 + 800
    loading, computing = 1e-3 * pixels + 1e-2 * small, 10 * patches + 1e-4 * pixels
    assert cost.seconds == pytest.approx(loading + computing)
    assert cost.disk == round(0.5 * pixels + 4 * 1.5 * patches) + 2 * small + 2 * 128 + 2 * 30_000
    assert cost.memory == (1 << 40) + 1200 * 800 // 12
    # readers beside the encoders take their share of the processors
    monkeypatch.setattr("ssrseg.estimate.processors", lambda: 5)
    busy = model_with(data, clip_dir, dino_dir, "data.workers=4")
    other = masks_cost(PHOTOS, busy, [(48, 64), (1280, 640)], slots=1.5)
    assert other.seconds == pytest.approx(computing + loading / 5)
    # and are waited for where they are slower
    slow = replace(PHOTOS, rectify=1e-9)
    other = masks_cost(slow, busy, [(48, 64), (1280, 640)], slots=1.5)
    assert other.seconds == pytest.approx(loading / 4)


@pytest.mark.parametrize("features", ["online", "cached"])
def test_training_by_hand(
    data: LabelledImages,
    clip_dir: Path,
    dino_dir: Path,
    features: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    settings = (f"optim.features={features}", "optim.views=[1.0, 0.5]", "optim.batch=16")
    settings = (*settings, "data.workers=0")
    model = model_with(data, clip_dir, dino_dir, *settings)
    sizes, schedule = [(48, 64)] * len(data), plan(model.config, "labels")
    images, pixels, patches = len(data), 48 * 64, 12
    cost = train_cost(PHOTOS, CROPS, model, data, sizes, schedule)
    once = images * pixels * 1e-3
    cut = images * pixels * 1e-2
    seconds = once + (once + images * patches * 4.0) + 8 * 7.0  # 8 iterations of CMPA
    if features == "cached":  # and a quarter of CLIP for the smaller view
        views = patches * (10.0 + 0.5**2 * 2.0)
        seconds += once + cut + images * views + 12 * (16 * (1.0 + 20.0 + 30.0) + 5.0)
    else:
        seconds += cut + 12 * (16 * (1.0 + 20.0 + 30.0) + 5.0)
    assert cost.seconds == pytest.approx(seconds)
    rows = 4 * model.text_features.shape[1] * (int(data.labels.sum()) + 2 * images)
    assert cost.memory == (1 << 40) + 900 + 300 * 12 + rows  # 300 bytes a crop, 16 crops
    # half of the decoder's iterations are left
    rest = train_cost(PHOTOS, CROPS, model, data, sizes, schedule, first=14)
    assert rest.seconds == pytest.approx(once + 6 * (16 * 51.0 + 5.0))
    shared = train_cost(PHOTOS, CROPS, model, data, sizes, schedule, first=14, processes=4)
    assert shared.seconds == pytest.approx(once / 4 + 6 * (4 * 51.0 + 5.0))
    assert shared.memory == (1 << 40) + 900 + rows


@pytest.mark.parametrize("features", ["online", "cached"])
def test_trying_changes_nothing(
    data: LabelledImages, clip_dir: Path, dino_dir: Path, features: str
) -> None:
    model = model_with(data, clip_dir, dino_dir, f"optim.features={features}", "optim.batch=3")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.random.get_rng_state()
    photos = try_photos(model, data.samples[:2], len(data))
    crops = try_crops(model, data, data.samples[:2])
    assert torch.equal(torch.random.get_rng_state(), random)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert model.decoder is None and model.alignment is None
    assert crops.crops == 3
    rates = (photos.read, photos.superpixels, photos.rectify, photos.gather, photos.write)
    assert min(*rates, crops.load, crops.learn, crops.step, crops.align) > 0
    assert photos.gather > photos.encode > 0
    assert crops.weights % 4 == 0 and crops.weights > 4000
    assert photos.mask * 40 * 40 > 100  # a PNG of some hundred bytes


def test_everything_at_once(data: LabelledImages, clip_dir: Path, dino_dir: Path) -> None:
    config = tiny_config(clip_dir, dino_dir, "optim.iterations=null", "optim.features=auto")
    found = estimate(data, photo_sizes(data, config), config, Path())
    assert found.settings.optim.iterations == 500
    assert found.settings.optim.features == "cached"
    assert found.train.seconds > found.masks.seconds > 0
    assert set(found.tried) <= set(data.samples) and len(found.tried) == 2
    assert found.train.disk > found.masks.disk > 0


def test_typical_images(data: LabelledImages) -> None:
    samples = data.samples
    sizes = [(10 * (index + 1), 10) for index in range(len(samples))]
    assert typical(samples[:1], sizes[:1]) == samples[:1]
    some = tuple(replace(samples[0], name=f"{index}") for index in range(9))
    assert typical(some, [(9 - index, 5) for index in range(9)]) == (some[5], some[2])
    bare = tuple(replace(each, labels=()) for each in some)
    assert len(typical(bare, [(5, 5)] * 9)) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"), (44.6, "45 s"), (119.0, "2 min"), (4000.0, "67 min"), (7300.0, "2 h"),
        (7900.0, "2 h 10 min"), (100_000.0, "28 h"), (300_000.0, "3.5 days"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_costs_in_words() -> None:
    assert in_words(Cost(7900.0, 2_834_000_000, 0, 31_400_000)) == (
        "about 2 h 10 min, 2.8 GB of memory, 31 MB of disk"
    )
    assert in_words(Cost(5.0, 0, 12_000_000_000, 900)) == (
        "about 5 s, 12 GB of GPU memory, 1 kB of disk"
    )
    assert amount(9_960_000) == "10 MB"
