"""Superpixel-guided correction: targets (Eq. 8), column mask (Eq. 10), corrected CAM (Eq. 11).

A region is one of the colour clusters of superpixels; a *target* region of a class is one that the
class's CAM activates strongly. Only patches in target regions may send activation along the
affinity.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ssrseg.method.cam import min_max

TINY = 1e-12
REGIONS_AT_ONCE = 16  # connected regions are many, and each is a map of the image's size
HALF = 0.5 - 1e-4  # shares of several regions, added in float32, may miss an exact half


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
        shares = []
        for first in range(0, n_regions, REGIONS_AT_ONCE):
            inside = regions[:, None] == ids[first : first + REGIONS_AT_ONCE]
            shares.append(functional.adaptive_avg_pool2d(inside.float(), grid))
        return torch.cat(shares, 1).flatten(2)
    # counting pixels is the same without the (batch, regions, height, width) map
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
    """r_k: how much of a region's activation is high-confidence activation (Eq. 8).

    Args:
        cam: CAMs in [0, 1] at the size of ``regions``.
        regions: Region ids 0 .. n_regions - 1; -1 = padding.
        n_regions: K of Eq. 8.
        high: τ_hi, what counts as high confidence.
        ratio: Denominator: the region's activation, or the image's (the paper does not say).

    Returns:
        Ratios in [0, 1].
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

    A patch is a target if at least half of it lies in target regions. Without any target region
    the one with the largest r_k is taken; without any patch, the patch where the CAM is largest
    together with the patches of its region.

    Args:
        cam: Initial CAMs in [0, 1].
        regions: Region ids 0 .. n_regions - 1; -1 = padding.
        n_regions: K of Eq. 8.
        high: τ_hi.
        min_ratio: ρ.
        ratio: See :func:`activation_ratio`.
        per_class: Targets for each class; else one set from the largest CAM of the image.

    Source: Eq. 8; fallbacks and the half-a-patch rule are our choice, spec §7.1.
    """
    source = cam if per_class else cam.amax(1, keepdim=True)
    full = min_max(
        functional.interpolate(source, regions.shape[1:], mode="bilinear", align_corners=False)
    )
    r = activation_ratio(full, regions, n_regions, high=high, ratio=ratio)
    best = functional.one_hot(r.argmax(-1), n_regions).bool()
    chosen = torch.where((r > min_ratio).any(-1, keepdim=True), r > min_ratio, best)
    occupancy = region_occupancy(regions, n_regions, (cam.shape[2], cam.shape[3]))
    target = chosen.to(occupancy) @ occupancy >= HALF
    peak = source.flatten(2).argmax(-1)
    region_of_patch = occupancy.argmax(1)
    same_region = region_of_patch[:, None] == region_of_patch.gather(1, peak)[..., None]
    peak_only = functional.one_hot(peak, target.shape[-1]).bool()
    same_region &= (occupancy.sum(1) > 0)[:, None]  # patches of padding have no region
    target = torch.where(target.any(-1, keepdim=True), target, same_region | peak_only)
    return target.expand(-1, cam.shape[1], -1)


def box_patches(
    cam: Float[Tensor, "batch slots grid_h grid_w"], *, high: float = 0.4
) -> Bool[Tensor, "batch slots patches"]:
    """CLIP-ES's mask: bounding boxes of the connected areas where the CAM is high.

    Works on the CAM in 256 grey levels, as the original does. There a box's last row and column are
    clipped to the grid's last index, which is exclusive: the last row and column of the grid are
    never inside a box. Kept, because the published figures were made with it.

    Args:
        cam: CAMs in [0, 1].
        high: Share of the maximum that counts as high (0.4 for VOC, 0.7 for COCO).
    """
    height, width = cam.shape[2:]
    grey = (cam * 255).to(torch.uint8).cpu().numpy()
    boxes = np.zeros(grey.shape, dtype=bool)
    for index in np.ndindex(grey.shape[:2]):
        above = grey[index] > int(high * grey[index].max())
        areas, _ = ndimage.label(above, structure=np.ones((3, 3)))
        for rows, columns in ndimage.find_objects(areas):
            bottom, right = min(rows.stop, height - 1), min(columns.stop, width - 1)
            boxes[index][rows.start : bottom, columns.start : right] = True
    return torch.from_numpy(boxes).flatten(2).to(cam.device)


def correction_mask(
    target: Bool[Tensor, "batch slots patches"],
) -> Bool[Tensor, "batch slots patches patches"]:
    """Mask of Eq. 10, as the paper writes it: true in column j iff patch j is a target.

    For figures and tests; :func:`corrected_cam` needs no patches x patches mask.
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

    CAM_refine = (Aᵖ ⊙ Mask) · CAM. Masking columns equals zeroing the CAM outside the target
    first, so neither the power of A nor a masked copy of it is ever built.

    Args:
        affinity: A. Row i receives, column j sends. Values >= 0. None where ``power`` is 0.
        cam: Initial CAM in [0, 1].
        target: True where a patch lies in a target region of the class (Eq. 8); None = everywhere.
        power: p; CLIP-ES squares.
        axis: ``col``: targets send (the paper). ``row``: targets receive. ``both``.

    Returns:
        Refined CAM, >= 0, not normalised.

    Source: Eq. 10-11; column reading in docs/decisions/0010.
    """
    moving = cam.flatten(2)
    if target is not None and axis != "row":
        moving = moving * target
    for _ in range(power):
        assert affinity is not None
        moving = moving @ affinity.mT
    if target is not None and axis != "col":
        moving = moving * target
    return moving.reshape(cam.shape)
