"""Superpixels (Eq. 7) and their colour clusters, the regions of Eq. 8."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from skimage.segmentation import slic
from torch import Tensor

from ssrseg.method.kmeans import kmeans, spread_seeds


def slic_labels(
    image: UInt8[Tensor, "height width 3"], n_segments: int = 200, compactness: float = 10.0
) -> Int[Tensor, "height width"]:
    """SLIC superpixels of one image (Eq. 7), ids from 0.

    Args:
        image: RGB, 0 .. 255, not normalised.
        n_segments: Wanted number; the library merges small ones, so about 2/3 of it comes out.
        compactness: Weight of position against colour.
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
    seed: int = 0,
) -> Int[Tensor, "batch height width"]:
    """Cluster superpixels by mean CIELAB colour: the regions R_1 .. R_k of Eq. 8.

    A region is a set of superpixels of like colour anywhere in the image; it need not be
    connected.

    Args:
        image: RGB in [0, 1].
        superpixels: Ids per pixel, gaps allowed; -1 = padding.
        k: Regions per image.
        n_superpixels: A bound above every id; None looks the largest up, for which a GPU has to be
            waited for.
        restarts: K-means starts; the one with the least inertia is kept.
        seed: Of the starts.

    Returns:
        Region ids 0 .. k - 1 per pixel; -1 = padding.

    Source: Eq. 8; colour space and k are our choice, spec §7.1.
    """
    index = superpixels.flatten(1).long() + 1
    n = int(index.max()) + 1 if n_superpixels is None else n_superpixels + 1
    colour = rgb_to_lab(image).flatten(2)
    count = colour.new_zeros(len(image), n).scatter_add(1, index, torch.ones_like(colour[:, 0]))
    total = colour.new_zeros(len(image), 3, n)
    total = total.scatter_add(2, index[:, None].expand_as(colour), colour)
    mean = (total / count[:, None].clamp(min=1)).mT
    valid = count > 0
    valid[:, 0] = False  # slot 0 is the padding
    generator = torch.Generator().manual_seed(seed)
    best, least = None, None
    for _ in range(restarts):
        cluster, centroids = kmeans(mean, spread_seeds(mean, valid, k, generator), valid)
        nearest = centroids.gather(1, cluster[..., None].expand_as(mean))
        inertia = ((mean - nearest).square().sum(-1) * valid).sum(-1)
        if best is None or least is None:
            best, least = cluster, inertia
        else:
            best = torch.where((inertia < least)[:, None], cluster, best)
            least = torch.minimum(least, inertia)
    assert best is not None
    best = best.masked_fill(~valid, -1)
    return best.gather(1, index).view_as(superpixels)


def connected_regions(
    regions: Int[Tensor, "batch height width"],
    superpixels: Int[Tensor, "batch height width"],
    *,
    n_superpixels: int | None = None,
) -> Int[Tensor, "batch height width"]:
    """Split regions into connected ones (edge to edge), so that like colours far apart part ways.

    Works on the graph of superpixels, no image by itself: two of them are linked where they touch
    and lie in one region, and paths of links are found by squaring. A superpixel counts as
    connected, even where a crop has cut it in two.

    Args:
        regions: Region ids per pixel, one per superpixel; -1 = padding.
        superpixels: Ids per pixel, gaps allowed; -1 = padding.
        n_superpixels: A bound above every id, as in :func:`colour_regions`; regions are no more.

    Returns:
        Ids 0, 1, ... of each image, in the order of their first superpixel; -1 = padding.

    Source: our choice, spec §7.1 (``sgc.connected``).
    """
    index = superpixels.long() + 1  # slot 0 is the padding
    n = int(index.max()) + 1 if n_superpixels is None else n_superpixels + 1
    region = regions.new_full((len(index), n), -1, dtype=torch.long)
    region.scatter_(1, index.flatten(1), regions.flatten(1).long())
    linked = torch.zeros(len(index), n * n, dtype=torch.bool, device=index.device)
    for one, other in (
        (index[:, :, :-1], index[:, :, 1:]),
        (index[:, :-1], index[:, 1:]),
    ):
        linked.scatter_(1, (one * n + other).flatten(1), True)
    linked = linked.view(-1, n, n)
    inside = region >= 0
    together = (region[:, :, None] == region[:, None]) & inside[:, None]
    own = torch.arange(n, device=index.device)
    reached = ((linked | linked.mT) & together) | torch.eye(n, dtype=torch.bool, device=own.device)
    for _ in range(max(1, n - 1).bit_length()):  # paths of 2, 4, 8, ... links
        steps = reached.float()
        reached = steps @ steps > 0
    first = torch.where(reached, own, n).amin(-1)
    number = ((first == own) & inside).cumsum(-1) - 1  # -1 in slot 0, before any region
    component = number.gather(1, first)
    return component.gather(1, index.flatten(1)).view_as(superpixels)
