"""Sizes that the encoders accept, and training crops of an image with its superpixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor


def to_unit(image: UInt8[Tensor, "height width 3"]) -> Float[Tensor, "3 height width"]:
    """RGB in [0, 1], channels first."""
    return image.permute(2, 0, 1).float() / 255


def resize(
    image: UInt8[Tensor, "height width 3"], size: tuple[int, int], *, bicubic: bool = True
) -> UInt8[Tensor, "new_height new_width 3"]:
    """Antialiased resize; bicubic as CLIP's own preprocessing, or bilinear."""
    if tuple(image.shape[:2]) == size:
        return image
    kind = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    picture = Image.fromarray(image.numpy()).resize((size[1], size[0]), kind)
    return torch.from_numpy(np.array(picture))


def fit_to_patches(
    image: UInt8[Tensor, "height width 3"], patch: int
) -> UInt8[Tensor, "new_height new_width 3"]:
    """Each side rounded up to whole patches (500 x 375 -> 512 x 384) [CLIP-ES]."""
    rows, columns = patch_grid((image.shape[0], image.shape[1]), patch)
    return resize(image, (rows * patch, columns * patch))


def patch_grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches that cover an image of ``size`` (height, width) in pixels."""
    return -(-size[0] // patch), -(-size[1] // patch)


def limit_side(
    image: UInt8[Tensor, "height width 3"], max_side: int
) -> UInt8[Tensor, "new_height new_width 3"]:
    """Shrink an image whose longer side exceeds ``max_side``; never enlarge."""
    return resize(image, limited_size((image.shape[0], image.shape[1]), max_side))


def limited_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Height and width that ``limit_side`` gives an image."""
    factor = max_side / max(size)
    if factor >= 1:
        return size
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


@dataclass(frozen=True)
class Crop:
    """A training crop.

    Attributes:
        image: RGB in [0, 1]; 0 where padded.
        ids: Superpixel ids, or class ids under full supervision; ``fill`` where padded.
        valid: False = padding.
    """

    image: Float[Tensor, "3 size size"]
    ids: Int[Tensor, "size size"]
    valid: Bool[Tensor, "size size"]


def random_crop(
    image: UInt8[Tensor, "height width 3"],
    ids: Int[Tensor, "height width"],
    *,
    size: int,
    scale: tuple[float, float],
    flip: bool,
    fill: int,
    generator: torch.Generator,
) -> Crop:
    """Random resize, mirror and crop of an image together with a map of ids.

    Args:
        ids: One id per pixel; resized by nearest neighbour.
        size: Side of the crop in pixels. What an image lacks is padded at a random side.
        scale: Smallest and largest resize factor.
        flip: Mirror half of the draws.
        fill: Id of the padding.

    Source: WeCLIP; the valid map is our choice, so that padding gets no label and sends
        nothing; as in WeCLIP, a CAM is min-maxed before its padding is cleared.
    """
    factor, mirror, down, right = torch.rand(4, generator=generator).tolist()
    factor = scale[0] + factor * (scale[1] - scale[0])
    height, width = (max(1, round(side * factor)) for side in ids.shape)
    mirrored = flip and mirror < 0.5
    rows, top_from, top_to = _overlap(height, size, down)
    columns, left_from, left_to = _overlap(width, size, right)
    if mirrored:  # the crop of the mirror image is the mirror image of another crop
        left_from = width - columns - left_from
    window = (top_from, left_from, rows, columns)
    resized = to_unit(_resized_window(image, (height, width), window))
    down_to = (torch.arange(rows) + top_from) * ids.shape[0] // height
    right_to = (torch.arange(columns) + left_from) * ids.shape[1] // width
    moved = ids[down_to][:, right_to]
    if mirrored:
        resized, moved = resized.flip(-1), moved.flip(-1)
    canvas = torch.zeros(3, size, size)
    id_canvas = torch.full((size, size), fill, dtype=ids.dtype)
    valid = torch.zeros(size, size, dtype=torch.bool)
    there = (slice(top_to, top_to + rows), slice(left_to, left_to + columns))
    canvas[:, *there] = resized
    id_canvas[there] = moved
    valid[there] = True
    return Crop(canvas, id_canvas, valid)


def _resized_window(
    image: UInt8[Tensor, "height width 3"], size: tuple[int, int], window: tuple[int, int, int, int]
) -> UInt8[Tensor, "rows columns 3"]:
    """A window (top, left, rows, columns) of the image resized to ``size``; only it is computed."""
    top, left, rows, columns = window
    down, right = image.shape[0] / size[0], image.shape[1] / size[1]
    box = (left * right, top * down, (left + columns) * right, (top + rows) * down)
    box = (*box[:2], min(box[2], image.shape[1]), min(box[3], image.shape[0]))  # rounding
    picture = Image.fromarray(image.numpy())
    picture = picture.resize((columns, rows), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(picture))


def _overlap(have: int, want: int, draw: float) -> tuple[int, int, int]:
    """(length, start in the image, start in the crop) along one axis, ``draw`` in [0, 1)."""
    slack = int(draw * (abs(have - want) + 1))
    return min(have, want), slack if have > want else 0, slack if have < want else 0
