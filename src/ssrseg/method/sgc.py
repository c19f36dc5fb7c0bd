"""Superpixel-guided correction: superpixels (Eq. 7), targets (Eq. 8), correction (Eq. 10-11).

A region is one of the colour clusters of superpixels; a *target* region of a class is one that the
class's CAM activates strongly. Only patches in target regions may send activation along the
affinity.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from skimage.segmentation import slic
from torch import Tensor
from torch.nn import functional

from ssrseg.method.cam import min_max
from ssrseg.method.kmeans import kmeans, spread_seeds

TINY = 1e-12
HALF = 0.5 - 1e-4  # shares of several regions, added in float32, may miss an exact half

# --- Eq. 7: superpixels


def slic_labels(
    image: UInt8[Tensor, "height width 3"], n_segments: int = 200, compactness: float = 10.0
) -> Int[Tensor, "height width"]:
    """SLIC superpixels of one image (Eq. 7), ids from 0.

    The library merges small ones, so about 2/3 of ``n_segments`` come out. ``compactness`` weighs
    position against colour.
    """
    labels = slic(
        image.cpu().numpy(),
        n_segments=n_segments,
        compactness=compactness,
        sigma=0,
        convert2lab=True,
        enforce_connectivity=True,
        start_label=0,
    )
    return torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))


# --- Eq. 8: colour regions and which of them are targets


def rgb_to_lab(
    image: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """CIELAB (D65, 2°; L in [0, 100]) of sRGB in [0, 1]."""
    linear = torch.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    red, green, blue = linear.unbind(1)
    x = (0.412453 * red + 0.357580 * green + 0.180423 * blue) / 0.95047
    y = 0.212671 * red + 0.715160 * green + 0.072169 * blue
    z = (0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.08883
    xyz = torch.stack([x, y, z], 1)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-8) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def colour_regions(
    image: Float[Tensor, "batch 3 height width"],
    superpixels: Int[Tensor, "batch height width"],
    k: int = 8,
    *,
    n_superpixels: int | None = None,
    restarts: int = 3,
) -> Int[Tensor, "batch height width"]:
    """Cluster superpixels by mean colour: the regions R_1 .. R_K of Eq. 8, by ids 0 .. k - 1.

    A region is a set of superpixels of like colour anywhere in the image; it need not be
    connected. CIELAB and the number of regions are our choice.

    Args:
        image: RGB in [0, 1].
        superpixels: Ids per pixel, gaps allowed; -1 = padding, and stays -1.
        n_superpixels: Larger than every id; None asks the device for the largest.
        restarts: K-means starts; the one with the least inertia is kept.
    """
    # mean colour of each superpixel: (batch, superpixels, 3); slot 0 is the padding
    index = superpixels.flatten(1).long() + 1  # (batch, pixels)
    n = int(index.max()) + 1 if n_superpixels is None else n_superpixels + 1
    colour = rgb_to_lab(image).flatten(2)  # (batch, 3, pixels)
    count = colour.new_zeros(len(image), n).scatter_add(1, index, torch.ones_like(colour[:, 0]))
    total = colour.new_zeros(len(image), 3, n)
    total = total.scatter_add(2, index[:, None].expand_as(colour), colour)
    mean = (total / count[:, None].clamp(min=1)).mT
    valid = count > 0
    valid[:, 0] = False
    # K-means from several starts, all of them in one batch: (restarts * batch, superpixels)
    generator = torch.Generator().manual_seed(0)
    seeds = torch.cat([spread_seeds(mean, valid, k, generator) for _ in range(restarts)])
    points, counted = mean.repeat(restarts, 1, 1), valid.repeat(restarts, 1)
    cluster, centroids = kmeans(points, seeds, counted)
    # keep the start with the least inertia: (batch, superpixels)
    nearest = centroids.gather(1, cluster[..., None].expand_as(points))
    inertia = ((points - nearest).square().sum(-1) * counted).sum(-1)
    best = inertia.view(restarts, -1).argmin(0)
    region = cluster.view(restarts, *count.shape)[best, torch.arange(len(best), device=best.device)]
    # back to pixels
    return region.masked_fill(~valid, -1).gather(1, index).view_as(superpixels)


def region_occupancy(
    regions: Int[Tensor, "batch height width"], n_regions: int, grid: tuple[int, int]
) -> Float[Tensor, "batch regions patches"]:
    """Share of each patch's pixels that lies in each region; pixels marked -1 lie in none.

    Where the grid does not divide the map, neighbouring patches share a row or column of pixels,
    as in adaptive average pooling.
    """
    size = (regions.shape[1], regions.shape[2])
    if size[0] % grid[0] or size[1] % grid[1]:
        ids = torch.arange(n_regions, device=regions.device)[:, None, None]
        inside = (regions[:, None] == ids).float()  # (batch, regions, height, width)
        return functional.adaptive_avg_pool2d(inside, grid).flatten(2)
    # counting pixels by (region, patch) is the same, three times faster
    rows = torch.arange(size[0], device=regions.device) // (size[0] // grid[0])
    columns = torch.arange(size[1], device=regions.device) // (size[1] // grid[1])
    patch = rows[:, None] * grid[1] + columns
    n_patches = grid[0] * grid[1]
    cell = ((regions.long() + 1) * n_patches + patch).flatten(1)
    count = torch.zeros(len(regions), (n_regions + 1) * n_patches, device=regions.device)
    count.scatter_add_(1, cell, torch.ones_like(cell, dtype=count.dtype))
    share = count / (size[0] * size[1] // n_patches)
    return share.view(len(regions), n_regions + 1, n_patches)[:, 1:]


def activation_ratio(
    cam: Float[Tensor, "batch slots height width"],
    regions: Int[Tensor, "batch height width"],
    n_regions: int,
    *,
    high: float = 0.4,
    ratio: Literal["cluster", "image"] = "cluster",
) -> Float[Tensor, "batch slots regions"]:
    """r_k: share of a region's activation that lies where the CAM is at least ``high`` (Eq. 8).

    Args:
        cam: In [0, 1], at the size of ``regions``.
        regions: Ids 0 .. n_regions - 1; -1 = padding.
        high: τ_hi, what counts as high confidence.
        ratio: Denominator: the region's activation, or the image's (the paper does not say).
    """
    pixels = cam.flatten(2)
    index = (regions.flatten(1).long() + 1)[:, None].expand_as(pixels)
    zeros = pixels.new_zeros(*pixels.shape[:2], n_regions + 1)
    confident = zeros.scatter_add(2, index, pixels * (pixels >= high))[..., 1:]
    total = zeros.scatter_add(2, index, pixels)[..., 1:]
    if ratio == "image":
        total = total.sum(-1, keepdim=True).expand_as(total)
    return confident / total.clamp(min=TINY)


def target_patches(
    cam: Float[Tensor, "batch slots grid_h grid_w"],
    regions: Int[Tensor, "batch height width"],
    n_regions: int,
    *,
    high: float = 0.4,
    min_ratio: float = 0.5,
    ratio: Literal["cluster", "image"] = "cluster",
    per_class: bool = True,
) -> Bool[Tensor, "batch slots patches"]:
    """Patches of the target regions of each class: R_k is a target iff r_k > ρ (Eq. 8).

    Our choice where the paper is silent: a patch is a target if at least half of it lies in target
    regions. If no region passes, the one with the largest r_k does. If then no patch passes, the
    CAM's peak does, with all patches of its region.

    Args:
        cam: Initial CAMs in [0, 1].
        regions: Ids 0 .. n_regions - 1; -1 = padding.
        high: τ_hi; this and ``ratio`` are those of ``activation_ratio``.
        min_ratio: ρ.
        per_class: Targets for each class; else one set from the largest CAM of the image.
    """
    # r_k of every region, from CAMs at the size of the regions: (batch, slots, regions)
    source = cam if per_class else cam.amax(1, keepdim=True)
    full = functional.interpolate(source, regions.shape[1:], mode="bilinear", align_corners=False)
    full = min_max(full)
    r = activation_ratio(full, regions, n_regions, high=high, ratio=ratio)
    # target regions: r_k > ρ, or the best one: (batch, slots, regions)
    best = functional.one_hot(r.argmax(-1), n_regions).bool()
    chosen = torch.where((r > min_ratio).any(-1, keepdim=True), r > min_ratio, best)
    # target patches: at least half inside target regions: (batch, slots, patches)
    occupancy = region_occupancy(regions, n_regions, (cam.shape[2], cam.shape[3]))
    target = chosen.to(occupancy) @ occupancy >= HALF
    # without any: the peak of the CAM and the patches of its region
    peak = source.flatten(2).argmax(-1)
    region_of_patch = occupancy.argmax(1)
    same_region = region_of_patch[:, None] == region_of_patch.gather(1, peak)[..., None]
    peak_only = functional.one_hot(peak, target.shape[-1]).bool()
    same_region &= (occupancy.sum(1) > 0)[:, None]  # patches of padding have no region
    target = torch.where(target.any(-1, keepdim=True), target, same_region | peak_only)
    return target.expand(-1, cam.shape[1], -1)


# --- Eq. 10-11: correction


def correction_mask(
    target: Bool[Tensor, "batch slots patches"],
) -> Bool[Tensor, "batch slots patches patches"]:
    """Mask of Eq. 10, as the paper writes it: true in column j iff patch j is a target.

    For figures and tests; ``corrected_cam`` needs no patches x patches mask.
    """
    return target[:, :, None, :].expand(-1, -1, target.shape[-1], -1)


def corrected_cam(
    affinity: Float[Tensor, "batch patches patches"] | None,
    cam: Float[Tensor, "batch slots grid_h grid_w"],
    target: Bool[Tensor, "batch slots patches"] | None,
    *,
    power: int = 2,
    axis: Literal["col", "row", "both"] = "col",
) -> Float[Tensor, "batch slots grid_h grid_w"]:
    """Propagate each CAM along the affinity, from its target patches only (Eq. 10-11).

    CAM_refine = (Aᵖ ⊙ Mask) · CAM, >= 0, not normalised. Masking columns equals zeroing the CAM
    outside the target first, so neither the power of A nor a masked copy of it is ever built.

    Args:
        affinity: A. Row i receives, column j sends. Values >= 0. None where ``power`` is 0.
        cam: Initial CAM in [0, 1].
        target: True where a patch lies in a target region of the class (Eq. 8); None = everywhere.
        power: p; CLIP-ES squares.
        axis: ``col``: targets send (the paper). ``row``: they receive. ``both``.
    """
    moving = cam.flatten(2)  # (batch, slots, patches)
    if target is not None and axis != "row":
        moving = moving * target
    for _ in range(power):
        assert affinity is not None
        moving = moving @ affinity.mT
    if target is not None and axis != "col":
        moving = moving * target
    return moving.reshape(cam.shape)
