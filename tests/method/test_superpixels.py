from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.data import astronaut
from skimage.segmentation import slic
from torch import Tensor

from ssrseg.method.superpixels import (
    colour_regions,
    connected_regions,
    rgb_to_lab,
    slic_labels,
)

FLAT = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.7, 0.2], [0.2, 0.2, 0.9], [0.95, 0.95, 0.9]])


def cells(side: int = 32, cell: int = 4) -> Tensor:
    """Square superpixels, ids row by row."""
    n = side // cell
    at = torch.arange(side) // cell
    return (n * at[:, None] + at[None])[None]


def flat_quarters(side: int = 32) -> tuple[Tensor, Tensor]:
    """Image of four flat colours, and which colour each pixel has."""
    half = torch.arange(side) // (side // 2)
    which = 2 * half[:, None] + half[None]
    return FLAT[which].permute(2, 0, 1)[None], which


def test_slic_is_the_librarys_with_the_papers_settings():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (40, 56, 3), dtype=torch.uint8, generator=generator)
    labels = slic_labels(image, 30, 10.0)
    wanted = slic(image.numpy(), n_segments=30, compactness=10, sigma=0, start_label=0)
    assert labels.shape == (40, 56)
    assert labels.min() == 0
    assert np.array_equal(labels.numpy(), wanted)


def test_slic_follows_the_edges_of_flat_colours():
    image, which = flat_quarters(64)
    pixels = (image[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
    labels = slic_labels(pixels, 32, 10.0)
    assert 8 <= len(labels.unique()) <= 40
    for k in labels.unique():
        assert len(which[labels == k].unique()) == 1


def test_lab_equals_the_librarys():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 16, 16, generator=generator)
    image[0, :, 0] = torch.linspace(0, 0.08, 16)  # both sides of the two thresholds
    image[1, :, 0, :3] = torch.eye(3)
    wanted = rgb2lab(image.double().permute(0, 2, 3, 1).numpy())
    ours = rgb_to_lab(image).permute(0, 2, 3, 1).double()
    assert np.abs(ours.numpy() - wanted).max() < 1e-3


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [((1, 1, 1), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((1, 0, 0), (53.24, 80.09, 67.2))],
)
def test_lab_of_known_colours(rgb, lab):
    ours = rgb_to_lab(torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)).flatten()
    assert (ours - torch.tensor(lab)).abs().max() < 0.02


def test_flat_colours_are_separated():
    image, which = flat_quarters()
    regions = colour_regions(image, cells(), 4)[0]
    found = {(int(a), int(b)) for a, b in zip(which.flatten(), regions.flatten(), strict=True)}
    assert len(found) == 4
    assert {b for _, b in found} == {0, 1, 2, 3}


def test_like_colours_share_a_region_wherever_they_are():
    image, _ = flat_quarters()
    image[..., 16:, 16:] = image[..., :16, :16]
    regions = colour_regions(image, cells(), 3)[0]
    assert regions[0, 0] == regions[31, 31]
    assert len(regions.unique()) == 3


def test_a_superpixel_is_never_split():
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(2, 3, 32, 32, generator=generator)
    regions = colour_regions(image, cells().expand(2, -1, -1), 5)
    for b in range(2):
        for k in range(64):
            assert len(regions[b][cells()[0] == k].unique()) == 1


def test_regions_are_the_nearest_clusters_of_mean_colours():
    """A fixed point of Lloyd's algorithm in mean CIELAB, computed superpixel by superpixel."""
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(1, 3, 32, 32, generator=generator)
    regions = colour_regions(image, cells(), 4)[0]
    lab = rgb_to_lab(image)[0]
    mean = torch.stack([lab[:, cells()[0] == k].mean(1) for k in range(64)])
    region = torch.stack([regions[cells()[0] == k][0] for k in range(64)])
    centre = torch.stack([mean[region == r].mean(0) for r in range(4)])
    assert torch.equal(torch.cdist(mean, centre).argmin(1), region)


def test_more_starts_never_end_worse_and_sometimes_better():
    def inertia(image: Tensor, restarts: int) -> float:
        regions = colour_regions(image, cells(), 6, restarts=restarts)[0]
        lab = rgb_to_lab(image)[0]
        mean = torch.stack([lab[:, cells()[0] == k].mean(1) for k in range(64)])
        region = torch.stack([regions[cells()[0] == k][0] for k in range(64)])
        parts = [mean[region == r] for r in region.unique()]
        return sum(float((part - part.mean(0)).square().sum()) for part in parts)

    gains = []
    for seed in range(4):
        small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        image = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
        gains.append(inertia(image, 1) - inertia(image, 8))
    assert min(gains) > -1e-2
    assert max(gains) > 1


def test_padding_is_minus_one_and_has_no_influence():
    image, _ = flat_quarters()
    superpixels = cells().clone()
    superpixels[..., 24:] = -1
    regions = colour_regions(image, superpixels, 4)
    assert torch.equal(regions == -1, superpixels == -1)
    louder = image.clone()
    louder[..., 24:] = torch.rand(1, 3, 32, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(colour_regions(louder, superpixels, 4), regions)
    assert (colour_regions(image, torch.full_like(superpixels, -1), 4) == -1).all()


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 8))
def test_the_result_is_deterministic_in_range_and_independent_of_the_batch(seed, k):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, 3, 16, 16, generator=generator)
    superpixels = cells(16).expand(3, -1, -1).clone()
    superpixels[1] = cells(16, 8)[0]
    superpixels[2, :, 9:] = -1
    torch.manual_seed(seed)
    together = colour_regions(image, superpixels, k)
    torch.rand(7)
    assert torch.equal(colour_regions(image, superpixels, k), together)
    assert together.max() < k
    for b in range(3):
        alone = colour_regions(image[b : b + 1], superpixels[b : b + 1], k)
        assert torch.equal(alone[0], together[b])


def test_gaps_between_superpixel_ids_are_allowed():
    image, _ = flat_quarters()
    assert torch.equal(colour_regions(image, cells() * 7 + 5, 4), colour_regions(image, cells(), 4))


def test_fewer_superpixels_than_regions():
    image, which = flat_quarters()
    regions = colour_regions(image, which[None], 8)[0]
    assert len(regions.unique()) == 4


def partition(ids: Tensor | np.ndarray) -> set[frozenset[int]]:
    """The sets of pixels that share an id; -1 is none."""
    flat = np.asarray(ids).ravel()
    return {frozenset(np.flatnonzero(flat == k).tolist()) for k in np.unique(flat[flat >= 0])}


def labelled(regions: Tensor) -> np.ndarray:
    """Connected components of every region, by scipy."""
    ids = np.full(regions.shape, -1)
    for k in regions[regions >= 0].unique():
        found = ndimage.label((regions == k).numpy())[0]
        ids = np.where(found > 0, ids.max() + found, ids)
    return ids


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), colours=st.integers(1, 5))
def test_connected_regions_are_scipys_components(seed, colours):
    generator = torch.Generator().manual_seed(seed)
    superpixels = torch.cat([cells(), cells(32, 8)])
    colour = torch.randint(0, colours, (2, 64), generator=generator)
    regions = colour.gather(1, superpixels.flatten(1)).view_as(superpixels)
    regions[:, -4:], superpixels[:, -4:] = -1, -1  # padding
    found = connected_regions(regions, superpixels)
    for b in range(2):
        assert partition(found[b]) == partition(labelled(regions[b]))
        n = len(found[b][found[b] >= 0].unique())
        assert found[b].max() == n - 1
    assert torch.equal(found < 0, superpixels < 0)


def test_connected_regions_of_a_photograph():
    image = torch.from_numpy(astronaut()[::4, ::4].copy())
    superpixels = slic_labels(image, 60)[None]
    unit = image.permute(2, 0, 1)[None] / 255
    regions = colour_regions(unit, superpixels, 4)
    found = connected_regions(regions, superpixels)
    assert partition(found[0]) == partition(labelled(regions[0]))
    assert found.max() + 1 > 8  # there was something to split
    again = connected_regions(found, superpixels)
    assert torch.equal(again, found)


def test_a_snake_is_one_region():
    superpixels = cells(32, 4)
    rows = torch.arange(64).view(8, 8)
    snake = (rows // 8 % 2 == 0) | (rows == 15) | (rows == 24) | (rows == 47) | (rows == 56)
    regions = snake.flatten().long()[superpixels]
    found = connected_regions(regions, superpixels)
    assert len(found[regions == 1].unique()) == 1  # 36 links from end to end
    assert len(found[regions == 0].unique()) == 4


def test_gaps_among_the_ids_count_for_nothing():
    superpixels = torch.tensor([[[7, 7, 2, 2], [7, 7, 2, 2], [9, 9, 5, 5]]])
    regions = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]]])
    found = connected_regions(regions, superpixels)
    assert found[0].tolist() == [[2, 2, 0, 0], [2, 2, 0, 0], [3, 3, 1, 1]]
    assert torch.equal(connected_regions(regions, superpixels, n_superpixels=33), found)
