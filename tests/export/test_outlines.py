from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from make_masks import TOUCHING, blobs, despeckled, filled
from scipy import ndimage

from ssrseg.export.outlines import outlines

regions = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14)).filter(np.any)


@given(regions)
@settings(max_examples=400, deadline=None)
def test_polygons_are_the_region_to_the_pixel(region: np.ndarray) -> None:
    polygons = outlines(region, speck=0)
    assert (filled(polygons, region.shape) == region).all()
    assert len(polygons) == ndimage.label(region, TOUCHING)[1]
    assert all(len(each) >= 3 for each in polygons)


@given(st.integers(0, 10_000), st.floats(0.5, 3.0))
@settings(max_examples=60, deadline=None)
def test_polygons_of_smooth_regions_with_holes(seed: int, rough: float) -> None:
    region = blobs(np.random.default_rng(seed), (40, 31), rough=rough) == 1
    if region.any():
        assert (filled(outlines(region, speck=0), region.shape) == region).all()


@given(regions, st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_parts_and_holes_below_the_speck_are_left_out(region: np.ndarray, speck: int) -> None:
    expected = despeckled(region, speck)
    assert (filled(outlines(region, speck=speck), region.shape) == expected).all()


def test_a_bridge_leads_over_a_speck() -> None:
    region = np.ones((5, 9), bool)
    region[2, 1] = region[2:4, 3] = region[2, 5] = region[2:4, 7] = False
    (polygon,) = outlines(region, speck=2)
    expected = np.ones((5, 9), bool)
    expected[2:4, 3] = expected[2:4, 7] = False
    assert (filled([polygon], region.shape) == expected).all()


def test_a_ring_is_one_polygon_with_a_bridge() -> None:
    ring = np.ones((7, 9), bool)
    ring[2:5, 3:6] = False
    (polygon,) = outlines(ring, (10, 20), speck=0)
    points = [tuple(each) for each in np.floor(polygon).astype(int).tolist()]
    assert points[:2] == [(10, 20), (18, 20)]
    assert set(points) >= {(10, 26), (18, 26), (12, 22), (13, 21), (15, 21), (16, 22)}
    assert points.count((10, 22)) == 2  # where the bridge to the hole begins and ends
    assert (polygon % 1 > 0.3).all() and (polygon % 1 < 0.5).all()  # rounded and cut off alike


def test_one_pixel_is_a_polygon_of_three_points() -> None:
    region = np.zeros((3, 4), bool)
    region[1, 2] = True
    (polygon,) = outlines(region)
    assert np.floor(polygon).tolist() == [[2, 1]] * 3


def test_the_tolerance_leaves_points_out_and_keeps_to_its_distance() -> None:
    rows, columns = np.indices((120, 120))
    disc = (rows - 60) ** 2 + (columns - 60) ** 2 < 50**2
    disc &= (rows - 60) ** 2 + (columns - 70) ** 2 >= 15**2
    exact, simple = outlines(disc)[0], outlines(disc, tolerance=1.0)[0]
    assert len(simple) < 0.4 * len(exact)
    found = filled([simple], disc.shape)
    assert (found & disc).sum() / (found | disc).sum() > 0.97
    near = ndimage.binary_dilation(disc ^ ndimage.binary_erosion(disc), TOUCHING, iterations=2)
    assert not (found ^ disc)[~near].any()


def test_a_thin_line_keeps_its_end_whatever_the_tolerance() -> None:
    region = np.zeros((40, 90), bool)
    region[10:30, 10:30] = True
    region[20, 30:85] = True
    found = filled(outlines(region, tolerance=2.0), region.shape)
    assert found[20, 30:83].all() and (found ^ region).sum() < 12


def test_a_small_part_is_not_lost_to_a_large_tolerance() -> None:
    region = np.zeros((9, 9), bool)
    region[2:6, 3:7] = True
    assert (filled(outlines(region, tolerance=50.0), region.shape) == region).all()
