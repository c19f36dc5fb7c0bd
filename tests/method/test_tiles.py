from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ssrseg.method.tiles import (
    blend_weights,
    blended_blocks,
    joined_maps,
    map_window,
    tile_spans,
)

lengths = st.integers(1, 400)
tiles = st.integers(4, 90)


@given(lengths, tiles, st.integers(0, 2))
def test_tiles_cover_the_length_and_share_what_they_should(length, tile, quarters):
    overlap = tile * quarters // 4
    spans = tile_spans(length, tile, overlap)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert all(end - start == min(tile, length) for start, end in spans)
    for (start, end), (after, _) in pairwise(spans):
        assert start < after and end - after >= overlap


@given(lengths, tiles, st.integers(0, 2), st.integers(1, 400))
def test_weights_sum_to_one_everywhere(length, tile, quarters, cells):
    spans = tile_spans(length, tile, tile * quarters // 4)
    for count in (length, cells):
        total = torch.zeros(count)
        for (start, end), (inside, weights) in zip(spans, blend_weights(spans, count), strict=True):
            assert (weights > 0).all() and len(weights) == inside.stop - inside.start
            centres = (torch.arange(count)[inside] + 0.5) * length / count
            assert ((centres >= start) & (centres <= end)).all()
            total[inside] += weights
        torch.testing.assert_close(total, torch.ones(count))


def test_weights_fall_in_a_straight_line_over_the_overlap():
    (_, first), (part, second) = blend_weights([(0, 8), (4, 12)])
    assert first.tolist() == [1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125]
    assert part == slice(4, 12) and second.tolist() == first.tolist()[::-1]


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(4, 40), st.integers(0, 2))
def test_what_no_tile_sees_otherwise_is_blended_to_itself(height, width, tile, quarters):
    overlap = tile * quarters // 4
    whole = torch.rand(3, height, width)
    rows, columns = tile_spans(height, tile, overlap), tile_spans(width, tile, overlap)
    found, times = torch.full_like(whole, torch.nan), torch.zeros(height, width)
    for top, left, block in blended_blocks(
        rows, columns, lambda ys, xs: whole[:, slice(*ys), slice(*xs)]
    ):
        found[:, top : top + block.shape[1], left : left + block.shape[2]] = block
        times[top : top + block.shape[1], left : left + block.shape[2]] += 1
    assert (times == 1).all()
    torch.testing.assert_close(found, whole)


@pytest.mark.parametrize("size", [(37, 53), (64, 64)])
def test_seams_are_the_weighted_mean_of_tiles(size):
    rows, columns = tile_spans(size[0], 20, 8), tile_spans(size[1], 20, 8)
    values = torch.rand(len(rows), len(columns))
    at_y, at_x = blend_weights(rows), blend_weights(columns)
    expected = torch.zeros(1, *size)
    for i, (ys, y) in enumerate(at_y):
        for j, (xs, x) in enumerate(at_x):
            expected[0, ys, xs] += values[i, j] * y[:, None] * x
    found = torch.zeros_like(expected)
    tile_of = {(ys, xs): values[i, j] for i, ys in enumerate(rows) for j, xs in enumerate(columns)}
    for top, left, block in blended_blocks(
        rows, columns, lambda ys, xs: tile_of[ys, xs].expand(1, ys[1] - ys[0], xs[1] - xs[0])
    ):
        found[:, top : top + block.shape[1], left : left + block.shape[2]] = block
    torch.testing.assert_close(found, expected)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_window_of_an_enlarged_map(grid_h, grid_w, height, width, data):
    maps = torch.rand(2, grid_h, grid_w)
    whole = functional.interpolate(maps[None], (height, width), mode="bilinear")[0]
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows = top, data.draw(st.integers(top + 1, height))
    columns = left, data.draw(st.integers(left + 1, width))
    found = map_window(maps, (height, width), rows, columns)
    torch.testing.assert_close(found, whole[:, slice(*rows), slice(*columns)], atol=2e-5, rtol=0)


def test_maps_of_tiles_on_the_grid_of_the_whole_are_joined_exactly():
    whole = torch.rand(2, 10, 14)  # cells of 4 x 4 pixels
    rows, columns = [(0, 16), (12, 28), (24, 40)], [(0, 16), (8, 24), (16, 32), (24, 40), (40, 56)]
    maps = (
        (i, j, whole[:, top // 4 : bottom // 4, left // 4 : right // 4])
        for i, (top, bottom) in enumerate(rows)
        for j, (left, right) in enumerate(columns)
    )
    torch.testing.assert_close(joined_maps(maps, rows, columns, (10, 14)), whole)


def test_a_single_tile_is_the_map_itself():
    found = torch.rand(1, 7, 9)
    joined = joined_maps(iter([(0, 0, found)]), [(0, 50)], [(0, 70)], (7, 9))
    torch.testing.assert_close(joined, found)
