"""Images that are seen in tiles: CAMs of the whole from looks at its parts, and masks in blocks.

The whole, shrunk, is one look and each tile another. CAMs are in [0, 1] look by look, so that a
tile without a class would show it as clearly as one that is full of it. What says otherwise is the
evidence for the class, which is the same measure in every look: each map counts by its share of the
strongest look's, and at each place the tile or the whole, whichever says more [0041].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ssrseg.config import PseudoConfig
from ssrseg.data.large import LargeImage, Tiling, shrunk
from ssrseg.data.transforms import limit_side, to_unit
from ssrseg.method.evidence import pixel_confidence
from ssrseg.method.pseudo_mask import IGNORE
from ssrseg.method.tiles import Span, blended_blocks, joined_maps, map_window
from ssrseg.pixel_scores import ids_of_scores, scores_of_cam

Block = tuple[int, int, Float[Tensor, "channels rows columns"]]
"""Topmost row, leftmost column, scores."""

Chosen = tuple[
    Float[Tensor, "channels rows columns"],
    UInt8[Tensor, "rows columns"],
    Float[Tensor, "rows columns"],
]
"""Scores, class ids, confidence."""

_SEEN = 1024  # pixels a side of what a mask is reviewed by


@dataclass(frozen=True)
class Look:
    """What is seen of a photograph at once.

    Attributes:
        labels: Class indices, in the order of the maps.
        cam: Initial CAMs in [0, 1].
        refined_cam: Corrected CAMs, min-max normalised.
        evidence: Of every class, labelled or not, in [0, 1].
    """

    labels: tuple[int, ...]
    cam: Float[Tensor, "slots grid_h grid_w"]
    refined_cam: Float[Tensor, "slots grid_h grid_w"]
    evidence: Float[Tensor, " classes"]


def tiled_look(
    image: LargeImage,
    tiling: Tiling,
    labels: tuple[int, ...],
    max_side: int,
    looks: Callable[[list[UInt8[Tensor, "_ _ 3"]]], list[Look]],
) -> Look:
    """The CAMs of an image from looks at the whole and at its tiles.

    Args:
        labels: Class indices.
        max_side: Pixels of the longer side of a look.
        looks: Looks at photographs of one size.

    Returns:
        CAMs of the whole at the tiles' resolution. The evidence of labels is the strongest of all
        looks, that of other classes the whole's.
    """
    (whole,) = looks([shrunk(image, max_side)])
    tiles = [
        (row, column, look)
        for row, rows in enumerate(tiling.rows)
        for column, look in enumerate(
            looks([limit_side(image.window(rows, columns), max_side) for columns in tiling.columns])
        )
    ]
    index = list(labels)
    found = torch.stack([each.evidence[index] for each in (whole, *(look for *_, look in tiles))])
    strongest = found.amax(0)
    shape, (top, bottom), (left, right) = tiles[0][2].cam.shape, tiling.rows[0], tiling.columns[0]
    cells = zip(tiling.size, shape[1:], (bottom - top, right - left), strict=True)
    grid_h, grid_w = (max(1, round(side * count / tile)) for side, count, tile in cells)

    def joined(maps: Callable[[Look], Tensor]) -> Float[Tensor, "slots grid_h grid_w"]:
        def counted(look: Look) -> Tensor:
            return maps(look) * (look.evidence[index] / strongest.clamp(min=1e-12))[:, None, None]

        parts = ((row, column, counted(look)) for row, column, look in tiles)
        near = joined_maps(parts, tiling.rows, tiling.columns, (grid_h, grid_w))
        far = map_window(counted(whole), (grid_h, grid_w), (0, grid_h), (0, grid_w))
        return torch.maximum(near, far).clamp(0, 1)

    evidence = whole.evidence.clone()
    evidence[index] = strongest
    return Look(
        labels, joined(lambda look: look.cam), joined(lambda look: look.refined_cam), evidence
    )


def blocks_of_cam(
    image: LargeImage,
    refined_cam: Float[Tensor, "slots grid_h grid_w"],
    labels: tuple[int, ...],
    tiling: Tiling,
    settings: PseudoConfig,
    device: torch.device,
) -> Iterator[Block]:
    """Scores of an image at its own resolution, window by window, blended where they overlap."""
    refined_cam = refined_cam.to(device)

    def scores(rows: Span, columns: Span) -> Float[Tensor, "channels rows columns"]:
        photo = to_unit(image.window(rows, columns)).to(device)
        cam = map_window(refined_cam, image.size, rows, columns)
        return scores_of_cam(cam, labels, photo, settings)

    return blended_blocks(tiling.rows, tiling.columns, scores)


def paint(
    blocks: Iterator[Block],
    size: tuple[int, int],
    choose: Callable[[Tensor], Chosen],
    take_ids: Callable[[UInt8[np.ndarray, "rows width"]], None],
    take_confidence: Callable[[Float[np.ndarray, "rows width"]], None] | None = None,
) -> tuple[Float[Tensor, "channels _ _"], UInt8[Tensor, "_ _"]]:
    """Hand out the class ids of blocks as whole rows, from top to bottom.

    Args:
        blocks: From ``blended_blocks``.
        size: Height and width of the image.
        choose: From the scores of a block those by which the mask is reviewed, class ids, and the
            confidence in these.
        take_ids: Gets rows of class ids.
        take_confidence: Gets their confidence, in [0, 1].

    Returns:
        Scores and class ids of every n-th pixel, for a review.
    """
    step = max(1, -(-max(size) // _SEEN))
    seen_ids = torch.zeros(-(-size[0] // step), -(-size[1] // step), dtype=torch.uint8)
    seen: Tensor | None = None
    rows, sure = np.empty((0, 0), np.uint8), np.empty((0, 0), np.float32)
    for top, left, block in blocks:
        scores, ids, confidence = choose(block)
        height, width = ids.shape
        if left == 0:
            rows = np.empty((height, size[1]), np.uint8)
            sure = np.empty((height, size[1] if take_confidence else 0), np.float32)
        rows[:, left : left + width] = ids.cpu().numpy()
        if take_confidence:
            sure[:, left : left + width] = confidence.cpu().numpy()
        if seen is None:
            seen = torch.zeros(len(scores), *seen_ids.shape)
        there = slice(-top % step, None, step), slice(-left % step, None, step)
        sampled = ids[there].cpu()
        at = (-(-top // step), -(-left // step))
        place = slice(at[0], at[0] + sampled.shape[0]), slice(at[1], at[1] + sampled.shape[1])
        seen[:, *place], seen_ids[place] = scores[:, *there].cpu(), sampled
        if left + width == size[1]:
            take_ids(rows)
            if take_confidence:
                take_confidence(sure)
    assert seen is not None
    return seen, seen_ids


def undecided_where_absent(
    image: LargeImage, take_ids: Callable[[UInt8[np.ndarray, "rows width"]], None]
) -> Callable[[UInt8[np.ndarray, "rows width"]], None]:
    """What takes the ids of ``paint`` for ``take_ids``, undecided where the image has no data."""
    top = 0

    def take(rows: UInt8[np.ndarray, "rows width"]) -> None:
        nonlocal top
        absent = image.absent((top, top + len(rows)))
        if absent is not None:
            rows[absent.numpy()] = IGNORE
        take_ids(rows)
        top += len(rows)

    return take


class HeldRows:
    """A map of the whole image in memory, filled from top to bottom."""

    def __init__(self, size: tuple[int, int], dtype: type) -> None:
        self.values: np.ndarray = np.empty(size, dtype)
        self._next = 0

    def add(self, rows: np.ndarray) -> None:
        """Append rows."""
        self.values[self._next : self._next + len(rows)] = rows
        self._next += len(rows)


def labelled_choice(
    labels: tuple[int, ...], settings: PseudoConfig
) -> Callable[[Float[Tensor, "channels rows columns"]], Chosen]:
    """What ``paint`` chooses from scores of labels."""

    def choose(block: Float[Tensor, "channels rows columns"]) -> Chosen:
        return block, ids_of_scores(block, labels, settings), pixel_confidence(block)

    return choose
