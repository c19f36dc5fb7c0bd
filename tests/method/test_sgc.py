from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2lab
from skimage.segmentation import slic
from torch import Tensor
from torch.nn import functional

from ssrseg.method.cam import min_max
from ssrseg.method.sgc import (
    activation_ratio,
    colour_regions,
    corrected_cam,
    correction_mask,
    region_occupancy,
    rgb_to_lab,
    slic_labels,
    target_patches,
)

GRID = (3, 3)
seeds = st.integers(0, 10_000)


def rand(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def quarters(side: int = 16) -> Tensor:
    """Four square regions: 0 1 / 2 3."""
    half = torch.arange(side) // (side // 2)
    return (2 * half[:, None] + half[None])[None]


# --- Eq. 7


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


# --- Eq. 8: colour regions


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


# --- Eq. 8: targets


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=seeds, ratio=st.sampled_from(["cluster", "image"]))
def test_activation_ratio_by_a_loop(seed, ratio):
    cam = rand(seed, 2, 2, 6, 5)
    regions = torch.randint(-1, 3, (2, 6, 5), generator=torch.Generator().manual_seed(seed))
    ours = activation_ratio(cam, regions, 3, high=0.4, ratio=ratio)
    for b in range(2):
        for c in range(2):
            image_total = sum(
                float(cam[b, c, y, x]) for y in range(6) for x in range(5) if regions[b, y, x] >= 0
            )
            for k in range(3):
                inside = [
                    float(cam[b, c, y, x])
                    for y in range(6)
                    for x in range(5)
                    if regions[b, y, x] == k
                ]
                total = sum(inside) if ratio == "cluster" else image_total
                confident = sum(value for value in inside if value >= 0.4)
                assert ours[b, c, k] == pytest.approx(confident / max(total, 1e-12), abs=1e-5)


def test_padding_counts_neither_for_the_ratio_nor_for_occupancy():
    cam = torch.full((1, 1, 4, 4), 0.9)
    regions = torch.zeros(1, 4, 4, dtype=torch.long)
    regions[:, :, 2:] = -1
    cam[..., 2:] = 0.3
    for ratio in ("cluster", "image"):
        assert activation_ratio(cam, regions, 2, ratio=ratio).tolist() == [[[1.0, 0.0]]]
    occupancy = region_occupancy(regions, 2, (2, 2))
    assert occupancy.tolist() == [[[1, 0, 1, 0], [0, 0, 0, 0]]]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=seeds)
def test_occupancy_by_a_loop(seed):
    regions = torch.randint(-1, 3, (2, 8, 12), generator=torch.Generator().manual_seed(seed))
    occupancy = region_occupancy(regions, 3, (2, 3))
    for b in range(2):
        for k in range(3):
            for p in range(6):
                y, x = 4 * (p // 3), 4 * (p % 3)
                share = float((regions[b, y : y + 4, x : x + 4] == k).float().mean())
                assert occupancy[b, k, p] == pytest.approx(share, abs=1e-6)


def cam_in_quarter(quarter: int, peak: float = 1.0) -> Tensor:
    cam = torch.zeros(1, 1, 4, 4)
    y, x = 2 * (quarter // 2), 2 * (quarter % 2)
    cam[..., y : y + 2, x : x + 2] = peak
    return cam


@pytest.mark.parametrize("quarter", range(4))
def test_the_region_under_the_cam_is_the_target(quarter):
    target = target_patches(cam_in_quarter(quarter), quarters(), 4)
    assert torch.equal(target.view(1, 1, 4, 4), cam_in_quarter(quarter).bool())


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=seeds, min_ratio=st.sampled_from([0.3, 0.5, 0.8]))
def test_target_patches_by_a_loop(seed, min_ratio):
    cam = min_max(rand(seed, 1, 2, 4, 4) ** 2)
    regions = torch.randint(0, 5, (1, 4, 4), generator=torch.Generator().manual_seed(seed))
    regions = regions.repeat_interleave(4, 1).repeat_interleave(4, 2).roll(1, 2)
    ours = target_patches(cam, regions, 5, min_ratio=min_ratio)
    full = min_max(functional.interpolate(cam, (16, 16), mode="bilinear"))
    for c in range(2):
        r = activation_ratio(full, regions, 5)[0, c].tolist()
        chosen = [k for k in range(5) if r[k] > min_ratio] or [r.index(max(r))]
        for p in range(16):
            y, x = 4 * (p // 4), 4 * (p % 4)
            inside = sum(int(i) in chosen for i in regions[0, y : y + 4, x : x + 4].flatten())
            assert bool(ours[0, c, p]) == (inside >= 8)


def test_without_a_target_region_the_best_one_is_taken():
    cam = cam_in_quarter(3)
    cam[..., :2, :2] = 0.7
    assert not (activation_ratio(cam, torch.zeros(1, 4, 4).long(), 1) > 1.0).any()
    target = target_patches(cam, quarters(), 4, high=0.9, min_ratio=1.0)
    assert torch.equal(target.view(1, 1, 4, 4), cam_in_quarter(3).bool())


def test_without_a_target_patch_the_peak_and_its_region_are_taken():
    """Stripes of three colours: no colour holds half a patch."""
    regions = (torch.arange(12) % 3)[None, None].expand(1, 12, -1).clone()
    regions[:, :, :6] = (torch.arange(6) % 3 != 0).long() * 3 + torch.arange(6) % 3
    cam = torch.zeros(1, 1, 2, 2)
    cam[0, 0, 1, 1] = 1.0
    occupancy = region_occupancy(regions, 6, (2, 2))
    assert occupancy.max() < 0.5
    target = target_patches(cam, regions, 6, min_ratio=1.0)
    same = occupancy.argmax(1)[0] == occupancy.argmax(1)[0, 3]
    assert target.any()
    assert target[0, 0].tolist() == same.tolist()
    assert target[0, 0, 3]


def test_the_fallback_takes_no_patch_of_padding():
    """Valid pixels fill under half of each patch; the right column of patches is all padding."""
    regions = torch.full((1, 8, 12), -1)
    regions[:, :, 0:1] = 0
    regions[:, :, 4:5] = 0
    cam = torch.zeros(1, 1, 2, 3)
    cam[0, 0, 0, 0] = 1.0
    target = target_patches(cam, regions, 2)
    assert target.view(2, 3).tolist() == [[True, True, False], [True, True, False]]


def test_a_peak_inside_padding_is_the_only_target():
    regions = torch.full((1, 8, 8), -1)
    cam = torch.zeros(1, 1, 2, 2)
    cam[0, 0, 1, 0] = 1.0
    assert target_patches(cam, regions, 2).tolist() == [[[False, False, True, False]]]


def test_one_region_everywhere_is_a_no_op():
    cam = min_max(rand(0, 1, 3, 4, 4))
    regions = torch.zeros(1, 16, 16, dtype=torch.long)
    target = target_patches(cam, regions, 8)
    assert target.all()
    affinity = rand(1, 1, 16, 16)
    torch.testing.assert_close(
        corrected_cam(affinity, cam, target), corrected_cam(affinity, cam, None)
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 98), min_size=3, max_size=3))
def test_half_a_patch_is_enough_however_many_regions_share_it(cuts):
    """98 of the 196 pixels of a 14 x 14 patch; float32 shares may add up to 0.49999997."""
    a, b, c = sorted(cuts)
    regions = torch.full((5 * 196,), 4)
    regions[:98], regions[:c], regions[:b], regions[:a] = 3, 2, 1, 0
    cam = torch.tensor([1.0, 0.55, 0.55, 0.55, 0.0]).view(1, 1, 5, 1)
    target = target_patches(cam, regions.view(1, 70, 14), 5, high=0.6, min_ratio=0.6)
    assert target.tolist() == [[[True, False, False, False, False]]]


def test_targets_per_class_and_for_the_image():
    cam = torch.cat([cam_in_quarter(0), cam_in_quarter(3)], 1)
    own = target_patches(cam, quarters(), 4)
    assert torch.equal(own.view(1, 2, 4, 4), cam.bool())
    shared = target_patches(cam, quarters(), 4, per_class=False)
    union = cam.amax(1, keepdim=True).bool().expand(-1, 2, -1, -1)
    assert torch.equal(shared.view(1, 2, 4, 4), union)


def test_a_batch_equals_its_images():
    cam = min_max(rand(0, 3, 2, 4, 4))
    regions = torch.randint(-1, 4, (3, 16, 16), generator=torch.Generator().manual_seed(0))
    regions = regions[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)
    together = target_patches(cam, regions, 4)
    for b in range(3):
        alone = target_patches(cam[b : b + 1], regions[b : b + 1], 4)
        assert torch.equal(alone[0], together[b])


@pytest.mark.parametrize("n_regions", [5, 16, 17, 40])
def test_occupancy_of_many_regions(n_regions):
    generator = torch.Generator().manual_seed(0)
    regions = torch.randint(-1, n_regions, (2, 13, 10), generator=generator)  # 13 is no multiple
    found = region_occupancy(regions, n_regions, (4, 5))
    assert found.shape == (2, n_regions, 20)
    for k in range(n_regions):
        share = functional.adaptive_avg_pool2d((regions == k).float()[:, None], (4, 5))
        torch.testing.assert_close(found[:, k], share.flatten(1))


# --- Eq. 10-11


@pytest.mark.parametrize("power", [1, 2, 3])
def test_corrected_cam_is_the_masked_affinity_times_the_cam(power):
    affinity, cam = rand(0, 2, 9, 9), rand(1, 2, 4, *GRID)
    target = rand(2, 2, 4, 9) > 0.5
    whole = torch.linalg.matrix_power(affinity, power)
    masked = whole[:, None] * correction_mask(target)
    literal = (masked @ cam.flatten(2)[..., None])[..., 0].view(cam.shape)
    ours = corrected_cam(affinity, cam, target, power=power)
    torch.testing.assert_close(ours, literal)
    rows = whole[:, None] * correction_mask(target).mT
    row_reading = (rows @ cam.flatten(2)[..., None])[..., 0].view(cam.shape)
    assert (ours - row_reading).abs().max() > 0.1
    torch.testing.assert_close(
        corrected_cam(affinity, cam, target, power=power, axis="row"), row_reading
    )
    both = (masked * correction_mask(target).mT) @ cam.flatten(2)[..., None]
    torch.testing.assert_close(
        corrected_cam(affinity, cam, target, power=power, axis="both"),
        both[..., 0].view(cam.shape),
    )


def test_correction_mask_is_true_in_target_columns():
    mask = correction_mask(torch.tensor([[[True, False, True]]]))
    assert mask.tolist() == [[[[True, False, True]] * 3]]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=seeds, power=st.integers(0, 3), axis=st.sampled_from(["col", "row", "both"]))
def test_no_target_and_an_all_true_target_change_nothing(seed, power, axis):
    affinity, cam = rand(seed, 1, 9, 9), rand(seed + 1, 1, 2, *GRID)
    everywhere = torch.ones(1, 2, 9, dtype=torch.bool)
    free = corrected_cam(affinity, cam, None, power=power, axis=axis)
    torch.testing.assert_close(
        free, corrected_cam(affinity, cam, everywhere, power=power, axis=axis)
    )
    literal = torch.linalg.matrix_power(affinity, power) @ cam.flatten(2).mT
    torch.testing.assert_close(free, literal.mT.reshape(cam.shape))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=seeds)
def test_patches_outside_the_target_send_nothing(seed):
    affinity, cam = rand(seed, 1, 9, 9), rand(seed + 1, 1, 1, *GRID)
    target = rand(seed + 2, 1, 1, 9) > 0.5
    louder = torch.where(target.view(cam.shape), cam, cam + 5)
    torch.testing.assert_close(
        corrected_cam(affinity, louder, target), corrected_cam(affinity, cam, target)
    )


def test_a_single_sender_by_hand():
    """Only patch 1 sends: each row i receives A_i1 · CAM_1."""
    affinity = torch.tensor([[[0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [0.0, 0.4, 0.6]]])
    cam = torch.tensor([[[[1.0, 0.5, 0.8]]]])
    target = torch.tensor([[[False, True, False]]])
    refined = corrected_cam(affinity, cam, target, power=1)
    torch.testing.assert_close(refined, torch.tensor([[[[0.1, 0.3, 0.2]]]]))
