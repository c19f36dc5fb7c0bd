"""Regions of a mask as polygons, whose holes are joined to the outline by a bridge.

Programs that fill polygons (OpenCV, Pillow) draw the pixels on the outline too, so the outline
passes through the pixels at the border of a region and not along their edges. Then a region comes
back to the pixel.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

PLACE = 0.4
"""Where in its pixel a point lies, in pixels from the left and the top: almost in the middle, and
found by programs that cut off decimals and by those that round."""

SPECK = 10
"""Pixels: smaller regions and holes are left out, but for the largest region of a class."""

Points = Int[np.ndarray, "_ 2"]


@dataclass
class _Ring:
    """The border of a region, outside or around a hole.

    Attributes:
        edges: Numbers of the pixel edges that it consists of, in order, the region on the right.
        extent: Pixels that it encloses; negative for a hole.
        size: Of an outer ring, pixels of the part that it encloses, without its holes.
        holes: By position in ``edges``, closed outlines that a bridge leads to from there.
    """

    edges: Int[np.ndarray, " edges"]
    extent: int
    size: int
    holes: dict[int, list[Points]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class _Edges:
    """Edges between the pixels of a region and others, ascending by pixel.

    Attributes:
        side: Which side of its pixel an edge is: 0 top, 1 right, 2 bottom, 3 left; clockwise.
        pixel: The pixel inside the region, counted along the rows of a frame.
        width: Of the frame.
        ring: Number of the ring that it is in.
        place: Its position in that ring.
    """

    side: Int[np.ndarray, " edges"]
    pixel: Int[np.ndarray, " edges"]
    width: int
    ring: Int[np.ndarray, " edges"]
    place: Int[np.ndarray, " edges"]


def outlines(
    region: Bool[np.ndarray, "height width"],
    corner: tuple[int, int] = (0, 0),
    *,
    tolerance: float = 0.0,
    speck: int = SPECK,
) -> list[Float[np.ndarray, "_ 2"]]:
    """A polygon for each part of a region, largest first; parts touch at corners, too.

    Args:
        corner: x and y of the array's upper left pixel.
        tolerance: How far in pixels a polygon may be from the border; 0 = it is exact.
        speck: Parts and holes of fewer pixels are left out; the largest part always stays.

    Returns:
        x, y in pixels, at least three points each.
    """
    edges, rings = _rings(np.pad(region, 1))
    for hole, gate, ring, at in _bridges(edges, rings, speck):
        closed = _closed(hole, edges, int(edges.place[gate]), tolerance)
        ring.holes[int(edges.place[at])].append(closed)
    parts = sorted((each for each in rings if each.extent > 0), key=lambda each: -each.size)
    kept = [each for place, each in enumerate(parts) if place == 0 or each.size >= speck]
    found = []
    for part in kept:
        polygon = _closed(part, edges, 0, tolerance)[:-1]
        if len(polygon) < 3:  # of one or two pixels, or a tolerance beyond its size
            polygon = _three(_closed(part, edges, 0, 0.0)[:-1])
        found.append(polygon + np.array(corner) + PLACE)
    return found


def _rings(framed: Bool[np.ndarray, "height width"]) -> tuple[_Edges, list[_Ring]]:
    """Follow the edges between a region and the rest; the frame of one pixel is outside."""
    width, flat = framed.shape[1], framed.ravel()
    inside = np.flatnonzero(flat)
    ahead = np.array([1, width, -1, -width])  # along each side, clockwise
    outward = np.array([-width, 1, width, -1])
    numbers = [4 * inside[~flat[inside + outward[side]]] + side for side in range(4)]
    edges = np.sort(np.concatenate(numbers))
    side, pixel = edges % 4, edges // 4
    straight = pixel + ahead[side]
    left = straight + outward[side]
    after = np.where(flat[straight], 4 * straight + side, 4 * pixel + (side + 1) % 4)
    after = np.where(flat[left], 4 * left + (side + 3) % 4, after)
    following = np.searchsorted(edges, after).tolist()
    # the area of a ring: how far down its lower edges lie, less its upper ones
    row = pixel // width
    area = (side == 2) * (row + 1) - (side == 0) * row
    rings: list[_Ring] = []
    numbered, placed = np.full(len(edges), -1), np.zeros(len(edges), int)
    seen = bytearray(len(edges))
    for start in range(len(edges)):
        if seen[start]:
            continue
        chain, at = [], start
        while not seen[at]:
            seen[at] = 1
            chain.append(at)
            at = following[at]
        members = np.array(chain)
        numbered[members], placed[members] = len(rings), np.arange(len(members))
        extent = int(area[members].sum())
        rings.append(_Ring(members, extent, extent))
    return _Edges(side, pixel, width, numbered, placed), rings


def _bridges(edges: _Edges, rings: list[_Ring], speck: int) -> list[tuple[_Ring, int, _Ring, int]]:
    """Each hole, the edge where it is entered, and the ring and the edge that a bridge starts from.

    Holes below the speck are no holes, and bridges lead over them.

    To the left of a hole's leftmost pixel is the region, up to the border of another hole, which
    begins further to the left, or to the outline. So bridges make no circle, and a hole stands
    before the one that its bridge starts from. The pixels of holes are taken off ``size``.
    """
    columns = edges.pixel % edges.width
    rights = np.flatnonzero(edges.side == 1)
    # of the edges on the right of a pixel, the leftmost of each ring, the uppermost of these
    order = rights[np.lexsort((edges.pixel[rights], columns[rights], edges.ring[rights]))]
    _, first = np.unique(edges.ring[order], return_index=True)
    gates = order[first]  # every ring has one
    gates = gates[[rings[number].extent < 0 for number in edges.ring[gates].tolist()]]
    gates = gates[np.argsort(columns[gates], kind="stable")]
    lefts = np.flatnonzero(edges.side == 3)
    starts = np.searchsorted(edges.pixel[lefts], edges.pixel[gates], side="right") - 1
    outer: dict[int, int] = {}
    found = []
    for gate, place in zip(gates.tolist(), starts.tolist(), strict=True):
        # the stretch of region before, where it is a speck that this one begins behind
        while -speck < rings[int(edges.ring[lefts[place]])].extent < 0:
            place -= 1
        at = int(lefts[place])
        hole, ring = int(edges.ring[gate]), int(edges.ring[at])
        outer[hole] = outer.get(ring, ring)
        rings[outer[hole]].size += rings[hole].extent
        if -rings[hole].extent >= speck:
            found.append((rings[hole], gate, rings[ring], at))
    return found[::-1]


def _closed(ring: _Ring, edges: _Edges, start: int, tolerance: float) -> Points:
    """The outline from the place of an edge back to it, with its bridges and holes."""
    pixels = edges.pixel[np.roll(ring.edges, -start)]
    pixels = np.append(pixels, pixels[:1])
    points = np.stack([pixels % edges.width, pixels // edges.width], 1) - 1
    places = {(place - start) % len(ring.edges): holes for place, holes in ring.holes.items()}
    stops = sorted({0, *places, len(ring.edges)})
    kept = _corners(points, stops, tolerance)
    pieces = [points[:1]]
    for begin, end in pairwise(stops):
        for hole in places.get(begin, ()):
            pieces += [hole, points[begin : begin + 1]]
        pieces.append(points[begin + 1 : end + 1][kept[begin + 1 : end + 1]])
    return np.concatenate(pieces)


def _corners(points: Points, stops: list[int], tolerance: float) -> Bool[np.ndarray, " _"]:
    """Which points a line needs: all stops, and where it turns; with a tolerance, fewer of these.

    Those are chosen as D. Douglas and T. Peucker do (1973), for all parts of the line at once: the
    point of a part that is farthest from its chord, until none is beyond the tolerance.
    """
    steps = np.diff(points, axis=0)
    kept = np.zeros(len(points), bool)
    if not tolerance:
        moves = np.flatnonzero(steps.any(1))
        turns = (steps[moves[1:]] != steps[moves[:-1]]).any(1)
        kept[moves[1:][turns]] = True
    kept[stops] = True
    while tolerance:
        ends = np.flatnonzero(kept)
        part = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        start = points[ends[part]]
        chord, way = points[ends[part + 1]] - start, points[:-1] - start
        length = np.maximum((chord**2).sum(1), 1)  # 1 where it ends where it begins
        along = ((way * chord).sum(1) / length).clip(0, 1)
        distance = np.hypot(*(way - along[:, None] * chord).T)
        farthest = np.maximum.reduceat(distance, ends[:-1])
        there = np.flatnonzero((distance == farthest[part]) & (distance > tolerance))
        if not len(there):
            break
        _, first = np.unique(part[there], return_index=True)
        kept[there[first]] = True
    return kept


def _three(points: Points) -> Points:
    """At least three points, as formats want them."""
    missing = max(0, 3 - len(points))
    return np.append(points, np.repeat(points[-1:], missing, axis=0), axis=0)
