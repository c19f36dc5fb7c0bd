"""What the baselines and controls need: nothing of SSR is in here."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ssrseg.method.kmeans import EXACT
from ssrseg.method.objective import Counts, all_there
from ssrseg.method.pseudo_mask import IGNORE

TINY = 1e-12
BLOCK = 2**24
"""Numbers alive at once where patches x patches x words are needed: 64 MB."""

# --- CLIP-ES (CVPR 2023)


def box_patches(
    cam: Float[Tensor, "batch slots grid_h grid_w"], *, high: float = 0.4
) -> Bool[Tensor, "batch slots patches"]:
    """CLIP-ES, the mask that SGC replaces: bounding boxes of the areas where the CAM is high.

    Works on the CAM in 256 grey levels, as the original does. There a box's last row and column are
    clipped to the grid's last index, which is exclusive: the last row and column of the grid are
    never inside a box. Kept, because the published figures were made with it. ``high`` is the share
    of the maximum that counts as high (0.4 for VOC, 0.7 for COCO).
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


# --- WeCLIP (CVPR 2024)


def feature_affinity(
    features: Float[Tensor, "batch patches width"],
) -> Float[Tensor, "batch patches patches"]:
    """WeCLIP: A_dec = sigmoid(F Fᵀ) of the decoder's fused features, not normalised."""
    return (features @ features.mT).sigmoid()


def decoder_gate(
    attention: Float[Tensor, "batch layers patches patches"],
    decoder_affinity: Float[Tensor, "batch patches patches"],
) -> Float[Tensor, "batch patches patches"]:
    """WeCLIP's RFM: keep the blocks that the decoder doubts least, average, weigh by A_dec.

    A block l stays if Σ(A_dec - A_l) is at most the mean of these sums over the blocks. A_dec is
    the same in all of them, so what decides is the attention that a block leaves to patches: it is
    computed so, and the sums of a hundred thousand sigmoids do not drown the difference. A_l is
    averaged over heads, without CLS. As in WeCLIP's code.
    """
    on_patches = attention.sum((-2, -1), dtype=torch.float64)
    mean = on_patches.mean(1, keepdim=True)
    # equal blocks all stay, whatever their mean is rounded to
    kept = on_patches >= torch.minimum(mean, on_patches.amax(1, keepdim=True))
    share = (kept / kept.sum(1, keepdim=True)).to(attention)
    return torch.einsum("bl,blij->bij", share, attention) * decoder_affinity


def affinity_loss(
    affinity: Float[Tensor, "batch patches patches"],
    pseudo_mask: UInt8[Tensor, "batch height width"],
    grid: tuple[int, int],
    *,
    radius: int = 8,
    whole: Counts = all_there,
) -> Float[Tensor, ""]:
    """WeCLIP, AFA: pull near patches of one class together, push near patches of two apart.

    Half the mean of 1 - A over the first, plus half that of A over the second. One is added to both
    counts, as there.

    Args:
        affinity: A_dec, in (0, 1).
        pseudo_mask: Class ids, read at each patch's first pixel; pairs with a 255 do not count.
        radius: Rows and columns between two patches of a pair, at most.
        whole: As for ``segmentation_loss``.
    """
    # class of each patch, and the pairs that are near and known
    ids = functional.interpolate(pseudo_mask[:, None].float(), grid, mode="nearest").flatten(1)
    row, column = (torch.arange(side, device=ids.device) for side in grid)
    near_rows = (row[:, None] - row).abs() <= radius
    near_columns = (column[:, None] - column).abs() <= radius
    near = torch.kron(near_rows.byte(), near_columns.byte()).bool()
    known = ids != IGNORE
    counted = near & known[:, :, None] & known[:, None]
    same = ids[:, :, None] == ids[:, None]
    alike, unlike = counted & same, counted & ~same
    pairs = whole(torch.stack([alike.sum(), unlike.sum()])) + 1
    pull = ((1 - affinity) * alike).sum() / pairs[0]
    push = (affinity * unlike).sum() / pairs[1]
    return (pull + push) / 2


# --- CD-CLIP (CVPR 2026)


def jensen_shannon(
    distribution: Float[Tensor, "batch patches words"],
) -> Float[Tensor, "batch patches patches"]:
    """Jensen-Shannon divergence of every two rows, in bits: 0 = equal, 1 = disjoint.

    JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2. The first term is no product of matrices: it
    takes patches² x words logarithms, and goes through memory in blocks of rows. Rows of
    ``distribution`` sum to 1.
    """
    batch, patches, words = distribution.shape
    half = distribution / 2
    rows = max(1, BLOCK // max(1, batch * patches * words))
    blocks = [half[:, first : first + rows, None] for first in range(0, patches, rows)]
    mixed = torch.cat([torch.special.entr(block + half[:, None]).sum(-1) for block in blocks], 1)
    own = torch.special.entr(distribution).sum(-1)
    nats: Tensor = mixed - (own[:, :, None] + own[:, None]) / 2
    return (nats / math.log(2)).clamp(0, 1)


def class_distribution_affinity(
    affinity: Float[Tensor, "batch patches patches"],
    patch_features: Float[Tensor, "batch patches dim"],
    text: Float[Tensor, "words dim"],
    temperature: float,
) -> Float[Tensor, "batch patches patches"]:
    """CD-CLIP's A_d: a patch receives what all patches like it to the texts would receive along A.

    S_a = min-max of cos(V, T), text by text; S_d = (1 - JS of the rows of softmax(S_a)) / τ_d;
    A_d = softmax(S_d)·A.

    Args:
        affinity: A of Eq. 9. Row i receives, column j sends.
        patch_features: V, any norm.
        text: T, any norm, backgrounds included.
        temperature: τ_d. JS of rows as soft as these is small, so useful values are small too.
    """
    # S_a, then its softmax over the texts: (batch, patches, words)
    cosine = functional.normalize(patch_features, dim=-1) @ functional.normalize(text, dim=-1).T
    low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    distribution = ((cosine - low) / (high - low).clamp(min=TINY)).softmax(-1)
    # softmax of S_d: (batch, patches, patches)
    alike = ((1 - jensen_shannon(distribution)) / temperature).softmax(-1)
    return alike @ affinity


# --- Our controls


def colour_position_kernel(
    image: Float[Tensor, "batch 3 height width"],
    grid: tuple[int, int],
    *,
    sigma_colour: float = 0.1,
    sigma_position: float = 0.15,
) -> Float[Tensor, "batch patches patches"]:
    """Our control without a network: a Gaussian affinity of mean patch colour and position.

    A learned affinity that loses to it has not learned objects.

    Args:
        image: RGB in [0, 1].
        sigma_colour: Width in RGB units.
        sigma_position: Width in units of the longer side.
    """
    colour = functional.adaptive_avg_pool2d(image, grid).flatten(2).mT
    sides = (torch.arange(side, device=image.device) for side in grid)
    position = torch.cartesian_prod(*sides).to(image) / max(grid)  # (patches, 2)
    far = torch.cdist(position, position, compute_mode=EXACT).square() / (2 * sigma_position**2)
    unlike = torch.cdist(colour, colour, compute_mode=EXACT).square() / (2 * sigma_colour**2)
    return torch.exp(-unlike - far)


def centre_prior(
    present: Int[Tensor, "batch slots"], grid: tuple[int, int]
) -> Float[Tensor, "batch slots grid_h grid_w"]:
    """Our control without an image: the CAM that says that things lie in the middle.

    A CAM that does not beat it has located nothing. It is 1 in the centre and falls to 0 in the
    corners along ellipses that fit the image; at a background exponent of 1 the seed reaches 0.7 of
    the way to the sides. All classes of an image get the same map, so the first of them takes it.
    """
    rows, columns = ((torch.arange(n, device=present.device) + 0.5) * (2 / n) - 1 for n in grid)
    distance = (rows[:, None] ** 2 + columns[None] ** 2).sqrt()
    cam = 1 - distance / 2**0.5
    return cam * (present >= 0)[:, :, None, None]
