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
from skimage.measure import approximate_polygon

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
        holes: By position in ``edges``, closed outlines that a bridge leads to from there.
    """

    edges: Int[np.ndarray, " edges"]
    extent: int
    holes: dict[int, list[Points]] = field(default_factory=lambda: defaultdict(list))


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
    framed = np.pad(region, 1)
    rings, kind, pixel, edge_ring, edge_place = _rings(framed)
    width = framed.shape[1]

    def points(ring: _Ring) -> Points:
        flat = pixel[ring.edges]
        return np.stack([flat % width, flat // width], 1) - 1

    lefts = np.flatnonzero(kind == 3)  # edges on the left of a pixel, by row and column
    holes = [(_gate(kind, pixel, width, ring), ring) for ring in rings if ring.extent < 0]
    inside: dict[int, int] = defaultdict(int)  # pixels of the holes of each outer ring
    parent: dict[int, int] = {}
    found = []
    # What lies to the left of a hole's leftmost pixel is the region, up to the border of another
    # hole that begins further to the left, or to the outline: so these are bridges in a tree.
    for gate, ring in sorted(holes, key=lambda each: -(pixel[each[0]] % width)):
        at = lefts[np.searchsorted(pixel[lefts], pixel[gate], side="right") - 1]
        parent[int(edge_ring[gate])] = int(edge_ring[at])
        found.append((gate, at, ring))
    for number in parent:
        root = number
        while root in parent:
            root = parent[root]
        inside[root] += -rings[number].extent
    for gate, at, ring in found:
        if -ring.extent >= speck or ring.holes:
            start = int(edge_place[gate])
            closed = _closed(ring, points(ring), start, tolerance)
            rings[edge_ring[at]].holes[int(edge_place[at])].append(closed)
    parts = [
        (ring.extent - inside[number], ring) for number, ring in enumerate(rings) if ring.extent > 0
    ]
    parts.sort(key=lambda part: -part[0])
    kept = [ring for place, (size, ring) in enumerate(parts) if place == 0 or size >= speck]
    polygons = (_closed(ring, points(ring), 0, tolerance)[:-1] for ring in kept)
    return [_three(each) + np.array(corner) + PLACE for each in polygons]


def _rings(
    framed: Bool[np.ndarray, "height width"],
) -> tuple[list[_Ring], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Follow the edges between a region and the rest; the frame of one pixel is outside.

    Returns:
        Rings; and of each edge: which side of its pixel it is (0 top, 1 right, 2 bottom, 3 left;
        clockwise), its pixel inside the region, its ring, and its place there.
    """
    width = framed.shape[1]
    flat = framed.ravel()
    inside = np.flatnonzero(flat)
    ahead = np.array([1, width, -1, -width])  # along each side, clockwise
    outward = np.array([-width, 1, width, -1])
    numbers = [4 * inside[~flat[inside + outward[side]]] + side for side in range(4)]
    edges = np.sort(np.concatenate(numbers))
    kind, pixel = edges % 4, edges // 4
    straight = pixel + ahead[kind]
    left = straight + outward[kind]
    after = np.where(flat[straight], 4 * straight + kind, 4 * pixel + (kind + 1) % 4)
    after = np.where(flat[left], 4 * left + (kind + 3) % 4, after)
    following = np.searchsorted(edges, after).tolist()
    row = pixel // width
    # the sum over a ring of how far below the top its lower edges lie, less its upper ones
    area = np.where(kind == 2, row + 1, 0) - np.where(kind == 0, row, 0)
    rings: list[_Ring] = []
    edge_ring = np.full(len(edges), -1)
    edge_place = np.zeros(len(edges), int)
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
        edge_ring[members] = len(rings)
        edge_place[members] = np.arange(len(members))
        rings.append(_Ring(members, int(area[members].sum())))
    return rings, kind, pixel, edge_ring, edge_place


def _gate(kind: np.ndarray, pixel: np.ndarray, width: int, ring: _Ring) -> int:
    """The edge of a hole at its leftmost pixel, the uppermost of these."""
    rights = ring.edges[kind[ring.edges] == 1]
    place = pixel[rights] % width * (pixel.max() + 1) + pixel[rights]
    return int(rights[place.argmin()])


def _closed(ring: _Ring, points: Points, start: int, tolerance: float) -> Points:
    """The outline from the point of an edge back to it, with its bridges and holes."""
    order = np.roll(np.arange(len(points)), -start)
    points = np.append(points[order], points[order[:1]], axis=0)
    places = {(place - start) % len(order): holes for place, holes in ring.holes.items()}
    stops = sorted({0, *places, len(order)})
    pieces = [points[:1]]
    for begin, end in pairwise(stops):
        for hole in places.get(begin, ()):
            pieces += [hole, points[begin : begin + 1]]
        pieces.append(_simpler(points[begin : end + 1], tolerance)[1:])
    return np.concatenate(pieces)


def _simpler(points: Points, tolerance: float) -> Points:
    """A line of at least two points, without those on the straight way between their neighbours."""
    steps = np.diff(points, axis=0)
    moved = np.append(True, steps.any(1))
    points = points[moved]
    steps = steps[moved[1:]]
    turns = (steps[1:] != steps[:-1]).any(1)
    if not len(steps):
        return np.repeat(points, 2, axis=0)
    points = points[np.concatenate([[True], turns, [True]])]
    if tolerance and len(points) > 2:
        simple: np.ndarray = approximate_polygon(points, tolerance)  # type: ignore[no-untyped-call]
        points = simple.astype(int)
    return points


def _three(points: Points) -> Points:
    """At least three points, as formats want them, also of a region of one or two pixels."""
    missing = max(0, 3 - len(points))
    return np.append(points, np.repeat(points[-1:], missing, axis=0), axis=0)
