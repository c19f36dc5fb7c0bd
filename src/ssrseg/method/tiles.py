"""Tiles of an image that is too large to be seen at once, and maps that are blended over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Span = tuple[int, int]
"""First pixel along an axis, and the one behind the last."""


def tile_spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Spans of ``tile`` pixels, evenly spaced, that cover ``length`` pixels.

    Neighbours share ``overlap`` pixels, or more where tiles would stand out: two tiles of a length
    that is little more than one share almost all. A length of at most one tile is one span.
    """
    if length <= tile:
        return [(0, length)]
    steps = -(-(length - tile) // (tile - overlap))
    starts = [round(step * (length - tile) / steps) for step in range(steps + 1)]
    return [(start, start + tile) for start in starts]


def blend_weights(
    spans: Sequence[Span], cells: int | None = None
) -> list[tuple[slice, Float[Tensor, " _"]]]:
    """The part of each span in a blend: falls to its ends, and sums to 1 at every place.

    Args:
        spans: From ``tile_spans``.
        cells: Into how many equal cells the whole length is divided; None = its pixels.

    Returns:
        Of each span the cells whose centres it has, and its weights there, > 0.
    """
    length = spans[-1][1]
    centres = (torch.arange(cells or length) + 0.5) * (length / (cells or length))
    heights = torch.zeros(len(spans), len(centres))
    for height, (start, end) in zip(heights, spans, strict=True):
        # a triangle, which has no slope towards the border of the image
        before = centres - start if start else torch.full_like(centres, torch.inf)
        after = end - centres if end < length else torch.full_like(centres, torch.inf)
        inside = (centres >= start) & (centres <= end)
        height += inside * torch.minimum(before, after).clamp(1e-6, 2 * length)
    weights = heights / heights.sum(0)
    found = []
    for weight in weights:
        inside = weight.nonzero().flatten()
        part = slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
        found.append((part, weight[part]))
    return found


def blended_blocks(
    rows: Sequence[Span],
    columns: Sequence[Span],
    scores: Callable[[Span, Span], Float[Tensor, "channels rows columns"]],
) -> Iterator[tuple[int, int, Float[Tensor, "channels _ _"]]]:
    """Scores of the whole image from those of its tiles, every pixel once, in blocks.

    No more is held than a tile and the rows that the tiles above share with those below.

    Args:
        rows: Spans of the tiles, from ``tile_spans``.
        columns: Likewise.
        scores: Those of the tile with these rows and columns.

    Yields:
        Topmost row, leftmost column and scores of each block, row of tiles by row of tiles.
    """
    across, down = blend_weights(columns), blend_weights(rows)
    width = columns[-1][1]
    carried: Tensor | None = None  # sums of the rows that the tiles above share with these
    for index, (top, bottom) in enumerate(rows):
        shared = rows[index + 1][0] if index + 1 < len(rows) else bottom
        below: Tensor | None = None
        beside: Tensor | None = None  # the same of columns
        for place, (left, right) in enumerate(columns):
            edge = columns[place + 1][0] if place + 1 < len(columns) else right
            part = scores((top, bottom), (left, right))
            weight = down[index][1][:, None] * across[place][1]
            part = part * weight.to(part)
            if beside is not None:
                part[..., : beside.shape[-1]] += beside
            block, beside = part[..., : edge - left], part[..., edge - left :]
            if carried is not None:
                block[:, : carried.shape[1]] += carried[..., left:edge]
            if shared < bottom:
                if below is None:
                    below = block.new_empty(len(block), bottom - shared, width)
                below[..., left:edge] = block[:, shared - top :]
            yield top, left, block[:, : shared - top]
        carried = below


def joined_maps(
    maps: Iterator[tuple[int, int, Float[Tensor, "slots grid_h grid_w"]]],
    rows: Sequence[Span],
    columns: Sequence[Span],
    grid: tuple[int, int],
) -> Float[Tensor, "slots rows columns"]:
    """Maps of tiles as one map of the whole image, of ``grid`` cells, blended where they overlap.

    Args:
        maps: Of each tile its index among the rows and among the columns, and its map.
        rows: Spans of the tiles in pixels, from ``tile_spans``.
        columns: Likewise.
    """
    down, across = blend_weights(rows, grid[0]), blend_weights(columns, grid[1])
    whole: Tensor | None = None
    for row, column, found in maps:
        if whole is None:
            whole = found.new_zeros(len(found), *grid)
        (ys, weight_y), (xs, weight_x) = down[row], across[column]
        part = _linear(found, _within(rows[row], rows[-1][1], grid[0], ys, found.shape[1]), 1)
        part = _linear(
            part, _within(columns[column], columns[-1][1], grid[1], xs, found.shape[2]), 2
        )
        whole[:, ys, xs] += part * (weight_y[:, None] * weight_x).to(part)
    assert whole is not None
    return whole


def _within(span: Span, length: int, cells: int, inside: slice, count: int) -> Float[Tensor, " _"]:
    """Where the centres of some of ``cells`` lie on the ``count`` cells of a span."""
    centres = (torch.arange(inside.start, inside.stop) + 0.5) * (length / cells)
    return (centres - span[0]) * (count / (span[1] - span[0])) - 0.5


def map_window(
    maps: Float[Tensor, "slots grid_h grid_w"], size: tuple[int, int], rows: Span, columns: Span
) -> Float[Tensor, "slots rows columns"]:
    """A window of maps that are enlarged to ``size`` (height, width), bilinear; only it is made."""
    for axis, (span, length) in enumerate(zip((rows, columns), size, strict=True), 1):
        scale = maps.shape[axis] / length
        maps = _linear(maps, (torch.arange(*span) + 0.5) * scale - 0.5, axis)
    return maps


def _linear(maps: Tensor, at: Float[Tensor, " _"], axis: int) -> Tensor:
    """Values of maps at places along an axis, in cells from the centre of the first one."""
    at = at.clamp(0, maps.shape[axis] - 1).to(maps.device)
    low: Int[Tensor, " _"] = at.long()
    high = (low + 1).clamp(max=maps.shape[axis] - 1)
    share = (at - low).to(maps).view([-1 if each == axis else 1 for each in range(maps.ndim)])
    one, other = maps.index_select(axis, low), maps.index_select(axis, high)
    return one + (other - one) * share
