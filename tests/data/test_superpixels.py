from __future__ import annotations

import numpy as np
import pytest
import torch

from ssrseg.data import superpixels as cache_module
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import resize
from ssrseg.method.sgc import slic_labels


@pytest.fixture
def image():
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 255, (5, 7, 3), generator=generator, dtype=torch.uint8)
    return tiles.repeat_interleave(8, 0).repeat_interleave(8, 1)


@pytest.fixture
def calls(monkeypatch):
    """Names of the settings SLIC was run with."""
    seen = []

    def counted(image, n_segments, compactness):
        seen.append((n_segments, compactness))
        return slic_labels(image, n_segments, compactness)

    monkeypatch.setattr(cache_module, "slic_labels", counted)
    return seen


def test_the_second_call_reads_what_the_first_computed(tmp_path, image, calls):
    cache = SuperpixelCache(tmp_path, n_segments=30, compactness=10.0)
    first = cache(image)
    second = SuperpixelCache(tmp_path, n_segments=30, compactness=10.0)(image)
    assert calls == [(30, 10.0)]
    assert first.dtype == second.dtype == torch.int32
    assert torch.equal(first, second)
    assert torch.equal(first, slic_labels(image, 30, 10.0).int())
    assert len(first.unique()) > 10


def test_files_are_uint16_and_can_be_memory_mapped(tmp_path, image):
    cache = SuperpixelCache(str(tmp_path), n_segments=30, compactness=10.0)
    labels = cache(image)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [cache.path(image)]
    stored = np.load(files[0], mmap_mode="r")
    assert isinstance(stored, np.memmap)
    assert stored.dtype == np.uint16
    assert np.array_equal(stored, labels.numpy())


def test_a_changed_image_or_setting_is_computed_anew(tmp_path, image, calls):
    cache = SuperpixelCache(tmp_path, n_segments=30, compactness=10.0)
    cache(image)
    changed = image.clone()
    changed[20, 20, 1] ^= 1
    assert torch.equal(cache(changed), slic_labels(changed, 30, 10.0))
    cache(image.transpose(0, 1))
    SuperpixelCache(tmp_path, n_segments=31, compactness=10.0)(image)
    SuperpixelCache(tmp_path, n_segments=30, compactness=11.0)(image)
    assert len(calls) == 5
    cache(image)
    assert len(calls) == 5


def test_a_damaged_file_is_computed_anew(tmp_path, image, calls):
    cache = SuperpixelCache(tmp_path, n_segments=30, compactness=10.0)
    expected = cache(image)
    path = cache.path(image)
    for content in (b"", b"nonsense", path.read_bytes()[:500]):
        path.write_bytes(content)
        assert torch.equal(cache(image), expected)
    np.save(path, np.zeros((3, 3), np.uint16))
    assert torch.equal(cache(image), expected)
    assert len(calls) == 5
    assert np.load(path).shape == (40, 56)


def test_without_a_folder_nothing_is_stored(tmp_path, image, calls, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = SuperpixelCache(None, n_segments=30, compactness=10.0)
    assert torch.equal(cache(image), cache(image))
    assert len(calls) == 2
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="has no folder"):
        cache.path(image)


def test_superpixels_of_a_smaller_image(tmp_path, image):
    whole = SuperpixelCache(tmp_path, n_segments=30, compactness=10.0)
    half = SuperpixelCache(tmp_path, n_segments=30, compactness=10.0, zoom=0.5)
    found = half(image)
    assert whole.path(image) != half.path(image)
    # every id of the image of half the size is a square of two by two pixels
    small = slic_labels(resize(image, (20, 28), bicubic=False), 30, 10.0)
    assert torch.equal(found, small.int().repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert torch.equal(half(image), found) and not torch.equal(whole(image), found)
    # never less than a pixel
    assert (
        SuperpixelCache(None, n_segments=3, compactness=1.0, zoom=0.01)(image).unique().numel() == 1
    )


def test_more_superpixels_than_uint16_numbers(tmp_path, image, monkeypatch):
    cache = SuperpixelCache(tmp_path, n_segments=70000, compactness=10.0)
    numbered = torch.arange(40 * 56).view(40, 56)
    monkeypatch.setattr(cache_module, "slic_labels", lambda *_: numbered + 65535 - 40 * 56 + 1)
    assert int(cache(image).max()) == 65535
    assert int(cache(image).max()) == 65535
    monkeypatch.setattr(cache_module, "slic_labels", lambda *_: numbered + 65535)
    other = 255 - image
    with pytest.raises(ValueError, match="superpixels, but the cache stores at most 65,536"):
        cache(other)
    assert [path for path in tmp_path.rglob("*.npy")] == [cache.path(image)]
