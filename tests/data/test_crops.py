from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssrseg.config import DataConfig
from ssrseg.data.crops import CropBatch, CropDraws, derive_seed
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import DataError

SETTINGS = DataConfig(crop=48, scale=(0.5, 2.0))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Five photographs whose red says the row and whose green says the column, masks likewise."""
    root = tmp_path_factory.mktemp("crops")
    samples = []
    for index in range(5):
        rows, columns = np.mgrid[: 40 + 10 * index, : 80 - 10 * index]
        photo = np.stack([rows * 2, columns * 2, np.full_like(rows, 50 * index + 5)], -1)
        Image.fromarray(photo.astype(np.uint8)).save(root / f"{index}.png")
        Image.fromarray((rows // 8 * 10 + columns // 8).astype(np.uint8)).save(
            root / f"{index}t.png"
        )
        labels = (0, index) if index else ()
        samples.append(Sample(f"{index}", root / f"{index}.png", labels, root / f"{index}t.png"))
    return LabelledImages(root, tuple(f"class {n}" for n in range(100)), tuple(samples))


def batches(draws: CropDraws, start: int, stop: int, batch: int = 2) -> list[CropBatch]:
    return list(draws.loader(start, stop, batch))


def assert_equal(one: CropBatch, other: CropBatch) -> None:
    for name in ("image", "ids", "valid", "present"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_draw_depends_on_its_number_only(data: LabelledImages) -> None:
    whole = batches(CropDraws(data, SETTINGS, None, 3), 0, 12)
    assert len(whole) == 6
    for one, other in zip(
        whole[2:], batches(CropDraws(data, SETTINGS, None, 3), 4, 12), strict=True
    ):
        assert_equal(one, other)
    crop, _ = CropDraws(data, SETTINGS, None, 3)[7]
    assert torch.equal(crop.image, whole[3].image[1])
    other_seed = batches(CropDraws(data, SETTINGS, None, 4), 0, 12)
    assert not torch.equal(whole[0].image, other_seed[0].image)


def test_workers_change_nothing(data: LabelledImages) -> None:
    alone = batches(CropDraws(data, SETTINGS, None, 0), 3, 9)
    helped = batches(CropDraws(data, replace(SETTINGS, workers=2), None, 0), 3, 9)
    for one, other in zip(alone, helped, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("workers", [0, 1])
def test_processes_load_shares_of_each_batch(data: LabelledImages, workers: int) -> None:
    draws = CropDraws(data, replace(SETTINGS, workers=workers), None, 0)
    whole = batches(draws, 0, 8, 4)
    shares = [list(draws.loader(0, 8, 4, share=(rank, 2))) for rank in range(2)]
    for number, batch in enumerate(whole):
        first, second = (share[number] for share in shares)
        for name in ("image", "ids", "valid", "present"):  # present: with as many slots
            joined = torch.cat([getattr(first, name), getattr(second, name)])
            assert torch.equal(joined, getattr(batch, name)), name
        assert first.draws + second.draws == batch.draws == tuple(range(4 * number, 4 * number + 4))
        assert first.rows == second.rows == batch.rows


def test_every_image_once_per_pass(data: LabelledImages) -> None:
    draws = CropDraws(data, SETTINGS, None, 0)
    blues = [round(float(draws[k][0].image[2].max()) * 255) // 50 for k in range(15)]
    for epoch in range(3):
        assert sorted(blues[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert blues[:5] != blues[5:10] or blues[5:10] != blues[10:]


def test_ids_follow_the_image_and_padding_is_marked(data: LabelledImages) -> None:
    draws = CropDraws(data, SETTINGS, None, 1)
    padded = mirrored = 0
    for k in range(20):
        crop, _ = draws[k]
        assert crop.image.shape == (3, 48, 48)
        inside = crop.valid
        assert (crop.image[:, ~inside] == 0).all()
        assert (crop.ids[~inside] == 255).all()
        assert inside.any()
        row, column = crop.image[0] * 255 / 2, crop.image[1] * 255 / 2
        expected_row, expected_column = crop.ids // 10 * 8 + 3.5, crop.ids % 10 * 8 + 3.5
        # a block is 8 pixels wide; bilinear and nearest resizing differ by less than a pixel or two
        assert (row - expected_row).abs()[inside].max() < 6.5
        assert (column - expected_column).abs()[inside].max() < 6.5
        rows = inside.any(1).nonzero()[:, 0]
        columns = inside.any(0).nonzero()[:, 0]
        assert inside.sum() == len(rows) * len(columns)  # one box
        padded += int(not inside.all())
        across = column[rows[0], columns]
        mirrored += int(across[0] > across[-1])
    assert padded > 0
    assert 4 < mirrored < 16


def test_superpixels_and_labels(data: LabelledImages) -> None:
    cache = SuperpixelCache(None, n_segments=10, compactness=10.0)
    batch = next(iter(CropDraws(data, SETTINGS, cache, 0).loader(0, 5, 5)))
    assert batch.ids.dtype == torch.int32
    assert int(batch.ids.max()) < batch.n_ids <= int(batch.ids.max()) + 1
    assert torch.equal(batch.ids < 0, ~batch.valid)
    rows = sorted(tuple(row) for row in batch.present.tolist())
    assert rows == [(-1, -1), (0, 1), (0, 2), (0, 3), (0, 4)]


def test_a_large_photograph_is_shrunk_first(data: LabelledImages) -> None:
    fixed = DataConfig(crop=48, scale=(1.0, 1.0), flip=False, max_side=40)
    for k in range(5):
        crop, _ = CropDraws(data, fixed, None, 0)[k]
        assert crop.valid.any(1).sum() <= 40
        assert crop.valid.any(0).sum() <= 40


def test_split(data: LabelledImages) -> None:
    batch = next(iter(CropDraws(data, SETTINGS, None, 0).loader(0, 5, 5)))
    parts = list(batch.split(2))
    assert [len(part.image) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.ids for part in parts]), batch.ids)


def test_masks_are_needed_where_they_are_asked_for(data: LabelledImages) -> None:
    bare = replace(data, samples=(replace(data.samples[0], truth=None), *data.samples[1:]))
    with pytest.raises(DataError, match=r"1 have none .*such as 0.*train from labels"):
        CropDraws(bare, SETTINGS, None, 0)


def test_masks_that_do_not_fit_are_refused(data: LabelledImages) -> None:
    one, other = data.samples[:2]
    swapped = replace(data, samples=(replace(one, truth=other.truth),))
    with pytest.raises(DataError, match=r"1t\.png is 70 x 50 pixels, its image 80 x 40"):
        CropDraws(swapped, SETTINGS, None, 0)[0]
    few = replace(data, classes=("a", "b"), samples=data.samples[:2])
    with pytest.raises(DataError, match=r"holds class id \d+, but the data have 2 classes"):
        CropDraws(few, SETTINGS, None, 0)[0]


def test_mixed_seeds_differ() -> None:
    seeds = {
        derive_seed(seed, k, stream) for seed in range(3) for k in range(20) for stream in range(5)
    }
    assert len(seeds) == 300
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_paths_are_not_needed_before_a_draw(tmp_path: Path) -> None:
    gone = LabelledImages(tmp_path, ("a",), (Sample("x", tmp_path / "x.png", (0,), None),))
    draws = CropDraws(gone, SETTINGS, SuperpixelCache(None, n_segments=9, compactness=1.0), 0)
    with pytest.raises(DataError, match=r"x\.png"):
        draws[0]
