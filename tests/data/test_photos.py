from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from make_tiny import tiny_folder
from PIL import Image
from tiny_encoders import tiny_config
from torch import Tensor

from ssrseg.config import DataConfig
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.open import open_labelled
from ssrseg.data.photos import (
    PATCH_BYTES,
    PhotoBatch,
    UnreadablePhoto,
    patches_at_once,
    photo_batches,
    read_photos,
    reading_threads,
)
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import DataError
from ssrseg.foreground import ForegroundFeatures, collect_foreground
from ssrseg.model import SSR
from ssrseg.pseudo_masks import make_masks

PATCH = 16
CPU = torch.device("cpu")
NO_CACHE = SuperpixelCache(None, n_segments=20, compactness=10.0)


def grey_photos(folder: Path, sizes: list[tuple[int, int]]) -> list[Sample]:
    """Photographs of one grey each, 10 · (index + 1), with index % 3 labels."""
    samples = []
    for index, (height, width) in enumerate(sizes):
        path = folder / f"{index}.png"
        Image.fromarray(np.full((height, width, 3), 10 * (index + 1), np.uint8)).save(path)
        samples.append(Sample(str(index), path, tuple(range(index % 3)), None))
    return samples


def read(samples: list[Sample], settings: DataConfig) -> Iterator[PhotoBatch]:
    return photo_batches(samples, settings, PATCH, NO_CACHE, CPU)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_one_size_and_know_whose_photographs_they_are(
    tmp_path: Path, workers: int
) -> None:
    wide, tall = (32, 40), (48, 20)  # 2 x 3 and 3 x 2 patches: two make a batch
    samples = grey_photos(tmp_path, [wide, tall, wide, wide, tall, wide, (64, 80)])
    batches = list(read(samples, DataConfig(max_side=48, workers=workers, patches=12)))
    # (64, 80) becomes (38, 48), a size of its own
    assert [batch.index for batch in batches] == [(0, 2), (1, 4), (3, 5), (6,)]
    for batch in batches:
        for row, index in enumerate(batch.index):
            grey = 10 * (index + 1)
            size = tuple(batch.originals[row].shape[:2])
            assert size == ((64, 80) if index == 6 else tall if index in (1, 4) else wide)
            assert (batch.originals[row] == grey).all()
            for picture in (batch.small[row], batch.image[row]):
                assert (picture * 255 - grey).abs().max() < 1e-3
            labels = [label for label in batch.present[row].tolist() if label >= 0]
            assert tuple(labels) == samples[index].labels
        height, width = batch.small.shape[2:]
        assert batch.image.shape[2:] == (-(-height // PATCH) * PATCH, -(-width // PATCH) * PATCH)
        assert batch.superpixels is not None
        assert batch.superpixels.shape[1:] == (height, width)
        assert batch.n_superpixels == int(batch.superpixels.max()) + 1


def test_photographs_of_odd_sizes_do_not_pile_up(tmp_path: Path) -> None:
    # 2 patches each, so 2 make a batch and at most 4 x 2 may wait; no two are of one size
    samples = grey_photos(tmp_path, [(17 + index, 16) for index in range(12)])
    samples[9].image.unlink()  # nobody has asked for it when the first batch comes
    batches = read(samples, DataConfig(patches=4, workers=0))
    assert next(batches).index == (0,)
    grey_photos(tmp_path, [(17 + index, 16) for index in range(12)])
    assert [batch.index for batch in batches] == [(index,) for index in range(1, 12)]


def test_threads_are_two_photographs_ahead_at_most(tmp_path: Path) -> None:
    samples = grey_photos(tmp_path, [(32, 32)] * 9)
    batches = read(samples, DataConfig(patches=4, workers=1))
    assert next(batches).index == (0,)
    # 1 and 2 are read, 3 may be asked for when the next one is taken
    for sample in samples[4:]:
        sample.image.unlink()
    assert [next(batches).index for _ in range(3)] == [(1,), (2,), (3,)]
    with pytest.raises(DataError, match=r"4\.png"):
        next(batches)


def test_as_many_threads_as_the_device_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for here, expected in ((1, (0, 1)), (2, (1, 2)), (64, (1, 8))):
        monkeypatch.setattr("ssrseg.data.photos.processors", lambda here=here: here)
        found = [reading_threads(DataConfig(), device) for device in (CPU, cuda)]
        assert tuple(found) == expected
        assert reading_threads(DataConfig(workers=3), CPU) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_photograph_ends_nothing(tmp_path: Path, workers: int) -> None:
    samples = grey_photos(tmp_path, [(32, 32), (32, 48), (32, 32), (32, 32), (15, 32)])
    samples[2].image.write_bytes(samples[2].image.read_bytes()[:40])
    settings = DataConfig(workers=workers, patches=400)
    taken: list[int] = []
    faults: dict[int, str] = {}
    for batch in read_photos(samples, settings, PATCH, NO_CACHE, CPU):
        if isinstance(batch, UnreadablePhoto):
            faults[batch.index] = str(batch.error)
        else:
            taken += batch.index
    assert sorted(taken) == [0, 1, 3]
    assert sorted(faults) == [2, 4]
    assert "2.png" in faults[2] and "4.png is 32 x 15 pixels" in faults[4]
    assert "Traceback" not in faults[2]
    with pytest.raises(DataError, match=r"2\.png"):  # for work that needs them all
        list(read(samples, settings))


@pytest.fixture
def mixed(tmp_path: Path) -> LabelledImages:
    """A folder in which sizes and numbers of classes alternate."""
    root = tiny_folder(tmp_path / "data", n=6)
    for path in sorted((root / "images").iterdir())[::2]:
        Image.open(path).convert("RGB").resize((50, 70)).save(path)
    return open_labelled(root)


def test_results_do_not_depend_on_what_is_seen_together(
    mixed: LabelledImages, tmp_path: Path, clip_dir: Path, dino_dir: Path
) -> None:
    pairs: list[ForegroundFeatures] = []
    written: list[dict[str, Tensor]] = []
    for patches in (1, 4000):
        config = tiny_config(
            clip_dir,
            dino_dir,
            "cam.mode=clip",
            "cmpa.cam_source=refined",
            f"data.patches={patches}",
        )
        cache = SuperpixelCache(None, n_segments=20, compactness=10.0)
        pairs.append(
            collect_foreground(SSR.from_config(config, mixed.classes), mixed, cache, aligned=False)
        )
        out = tmp_path / f"masks-{patches}"
        make_masks(mixed, out, config)
        written.append({path.name: read_class_ids(path) for path in (out / "masks").rglob("*.png")})
    one, together = pairs
    assert len(one.classes)
    assert one.classes.tolist() == together.classes.tolist()
    assert (
        one.image_index.tolist()
        == together.image_index.tolist()
        == sorted(one.image_index.tolist())
    )
    for entry in fields(ForegroundFeatures):
        found, expected = getattr(together, entry.name), getattr(one, entry.name)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4), entry.name
    assert len(written[0]) == len(mixed)
    for name, mask in written[0].items():  # rounding may turn a pixel on an edge
        assert (mask != written[1][name]).double().mean() < 0.01, name


@pytest.mark.parametrize(
    ("free", "reusable", "patches"),
    [
        (7, 0, 4096),  # of a card of 8 GB
        (3, 4, 4096),  # PyTorch keeps the rest for itself
        (6.5, 0, 4096),
        (22, 0, 16384),
        (40, 0, 32768),
        (78, 0, 65536),
        (1000, 0, 65536),
        (0.1, 0, 1024),
    ],
)
def test_patches_by_the_free_memory_of_the_card(
    monkeypatch: pytest.MonkeyPatch, free: float, reusable: float, patches: int
) -> None:
    card = torch.device("cuda", 1)
    asked: list[object] = []

    def info(device: object) -> tuple[int, int]:
        asked.append(device)
        return int(free * 1e9), 10**12

    monkeypatch.setattr(torch.cuda, "mem_get_info", info)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: int(reusable * 1e9) + 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 10**9)
    assert patches_at_once(DataConfig(), card) == patches
    assert asked == [card]
    if patches > 1024:  # half of the memory stays free
        assert patches * PATCH_BYTES <= (free + reusable) * 1e9 / 2
    assert patches_at_once(DataConfig(patches=77), card) == 77
    assert patches_at_once(DataConfig(), CPU) == 1024
