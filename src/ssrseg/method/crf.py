"""Dense CRF: mean field with Gaussian filtering on the permutohedral lattice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Filter:
    """A Gaussian filter K of pixel features as three sparse steps: splat, blur, slice.

    Every pixel lies in a simplex of the lattice and shares its value among the simplex's corners;
    each step is a weighted sum of rows, written as the rows' indices and weights.

    Attributes:
        corners: Lattice point of every corner of every pixel's simplex.
        corner_weights: Share of that corner; multiplies when slicing.
        pixels: The pixels of lattice point 0, then those of 1, ...: ``corners`` read backwards.
        pixel_weights: Share of the lattice point in that pixel; multiplies when splatting.
        starts: Where in ``pixels`` each lattice point begins.
        chains: Along each lattice direction: the point itself, the next and the previous one.
        chain_weights: 1, 1/2, 1/2; 0 where there is no such point.
    """

    corners: Int[Tensor, "pixels corners"]
    corner_weights: Float[Tensor, "pixels corners"]
    pixels: Int[Tensor, " shares"]
    pixel_weights: Float[Tensor, " shares"]
    starts: Int[Tensor, " points"]
    chains: Int[Tensor, "directions points 3"]
    chain_weights: Float[Tensor, "directions points 3"]

    def __call__(self, values: Float[Tensor, "pixels labels"]) -> Float[Tensor, "pixels labels"]:
        """K @ values."""
        held = functional.embedding_bag(
            self.pixels, values, self.starts, mode="sum", per_sample_weights=self.pixel_weights
        )
        for chain, weights in zip(self.chains, self.chain_weights, strict=True):
            held = functional.embedding_bag(chain, held, mode="sum", per_sample_weights=weights)
        return functional.embedding_bag(
            self.corners, held, mode="sum", per_sample_weights=self.corner_weights
        )


def _simplex(
    features: Float[Tensor, "dim pixels"],
) -> tuple[Int[Tensor, "pixels corners"], Float[Tensor, "pixels corners"], Int[Tensor, " corners"]]:
    """The lattice simplex around every feature vector: keys of its corners and their weights.

    The lattice is the grid of integer points in dim + 1 dimensions seen along the diagonal, so two
    points that differ by (1, ..., 1) are one. A feature vector is lifted into the plane orthogonal
    to the diagonal; from the corner below it, adding 1 to the coordinates in order of falling
    fractional part visits all corners. A point's key is its coordinates less the last one, packed
    into an integer; ``steps`` is what adding 1 to each coordinate adds to the key.

    Raises:
        ValueError: If the kernel is so narrow that a key does not fit into 63 bits.
    """
    dim, n_pixels = features.shape
    axis = torch.arange(dim, device=features.device)
    # Edge lengths for which splat + blur + slice have standard deviation 1 (Adams et al. 2010).
    scaled = features * torch.sqrt(2 / 3 / ((axis + 1) * (axis + 2)))[:, None]
    lifted = functional.pad(scaled.flip(0).cumsum(0).flip(0), (0, 0, 0, 1))
    lifted[1:] -= (axis + 1)[:, None] * scaled

    below = lifted.floor()
    fraction, order = (lifted - below).sort(0, descending=True)
    weights = torch.cat([1 - fraction[:1] + fraction[-1:], -fraction.diff(dim=0)])

    coordinates = (below[:-1] - below[-1:]).long()
    # A corner is up to 1 away from ``below``, its neighbour on a chain another 1.
    lowest = coordinates.amin(1) - 2
    spans = [int(span) + 3 for span in coordinates.amax(1) - lowest]
    if math.prod(spans) >= 2**63:
        raise ValueError(f"kernel too narrow for this image: a lattice of {spans} points")
    places = [math.prod(spans[i + 1 :]) for i in range(dim)]
    steps = torch.tensor([*places, -sum(places)], device=features.device)
    keys = torch.empty(dim + 1, n_pixels, dtype=torch.long, device=features.device)
    keys[0] = ((coordinates - lowest[:, None]) * steps[:-1, None]).sum(0)
    keys[1:] = steps[order[:-1]]
    return keys.cumsum(0).T.contiguous(), weights.T.contiguous(), steps


def gaussian_filter(features: Float[Tensor, "dim pixels"]) -> Filter:
    """exp(-‖f_i - f_j‖² / 2) between pixels, normalised symmetrically: D^-1/2 K D^-1/2, D = K 1.

    ValueError if the kernel is so narrow that the lattice cannot be numbered.

    Source: Adams, Baek & Davis 2010; normalisation of Krähenbühl & Koltun's code.
    """
    keys, weights, steps = _simplex(features)
    sorted_keys, order = keys.flatten().sort()
    points, point, counts = torch.unique_consecutive(
        sorted_keys, return_inverse=True, return_counts=True
    )
    corners = torch.empty_like(point).scatter_(0, order, point).view_as(keys)

    own = torch.arange(len(points), device=keys.device)
    chains = own[None, :, None].repeat(len(steps), 1, 3)
    chain_weights = features.new_tensor([1.0, 0.0, 0.0]).repeat(len(steps), len(points), 1)
    for chain, share, step in zip(chains, chain_weights, steps, strict=True):
        after = torch.searchsorted(points, points + step).clamp(max=len(points) - 1)
        before = own[points[after] == points + step]
        after = after[before]
        chain[before, 1], share[before, 1] = after, 0.5
        chain[after, 2], share[after, 2] = before, 0.5
    filtered = Filter(
        corners=corners.int(),
        corner_weights=weights,
        pixels=(order // keys.shape[1]).int(),
        pixel_weights=weights.flatten().index_select(0, order),
        starts=(counts.cumsum(0) - counts).int(),
        chains=chains.int(),
        chain_weights=chain_weights,
    )
    scale = filtered(torch.ones_like(weights[:, :1])).rsqrt()
    return replace(
        filtered,
        corner_weights=filtered.corner_weights * scale,
        pixel_weights=filtered.pixel_weights * scale.flatten().index_select(0, filtered.pixels),
    )


def _softmax(energies: Float[Tensor, "pixels labels"]) -> Float[Tensor, "pixels labels"]:
    """In place; torch's own is three times slower over a short last axis on the CPU."""
    energies.sub_(energies.amax(1, keepdim=True)).exp_()
    return energies.div_(energies.sum(1, keepdim=True))


@torch.no_grad()
def dense_crf(
    image: UInt8[Tensor, "height width 3"],
    probabilities: Float[Tensor, "labels height width"],
    gaussian_xy: float = 3.0,
    gaussian_weight: float = 3.0,
    bilateral_xy: float = 64.0,
    bilateral_rgb: float = 5.0,
    bilateral_weight: float = 4.0,
    *,
    iterations: int = 10,
) -> Float[Tensor, "labels height width"]:
    """Marginals (sum 1) of a fully connected CRF: near pixels, and like-coloured ones, agree.

    Q ← softmax(log p + w_g K_g Q + w_b K_b Q), with Potts compatibility, a kernel K_g of position
    and a bilateral one K_b of position and colour.

    Args:
        probabilities: p of each label; they need not sum to 1. Clipped to [1e-5, 1].
        gaussian_xy: Standard deviation of K_g, in pixels.
        bilateral_xy: Standard deviation of K_b in position, in pixels.
        bilateral_rgb: Standard deviation of K_b in colour, in grey levels of 0..255.
        iterations: Mean-field updates.

    Raises:
        ValueError: If the sizes differ.

    Source: Krähenbühl & Koltun 2011; settings of WeCLIP; numbers agree with pydensecrf.
    """
    n_labels, height, width = probabilities.shape
    if image.shape[:2] != (height, width):
        raise ValueError(
            f"image {tuple(image.shape)} and probabilities {tuple(probabilities.shape)} need the "
            "same height and width"
        )
    sides = (torch.arange(side, device=image.device) for side in (height, width))
    position = torch.cartesian_prod(*sides).T.flip(0).float()  # column and row of each pixel
    colour = image.flatten(0, 1).T.float()
    near = gaussian_filter(position / gaussian_xy)
    alike = gaussian_filter(torch.cat([position / bilateral_xy, colour / bilateral_rgb]))

    # One row per pixel: every step above and below reads whole rows.
    evidence = probabilities.float().flatten(1).T.contiguous().clamp(1e-5, 1).log()
    marginals = _softmax(evidence.clone())
    for _ in range(iterations):
        energies = near(marginals).mul_(gaussian_weight)
        energies.add_(alike(marginals), alpha=bilateral_weight).add_(evidence)
        marginals = _softmax(energies)
    return marginals.T.reshape(n_labels, height, width)
