"""Background words for photographs that have none: a rule on the colours of their corners.

SSR's CAM lets background texts compete with the classes, and CLIP learned those texts from the
captions of the web. Image-level labels name no background. What is written here is a guess, not a
label: it looks at the four corners only (things are photographed in the middle), at their mean
colour and their roughness, and it is often wrong. It never sees a mask.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

WORDS: dict[str, tuple[str, ...]] = {
    "sky": ("sky", "sky", "sky", "cloud"),
    "cloud": ("cloud", "cloud", "sky"),
    "tree": ("tree",),
    "grass": ("grass", "grass", "grass", "grass", "land"),
    "water": ("water", "sea", "lake", "river", "ocean"),
    "mountain": ("mountain", "mountain", "valley", "rock"),
    "road": ("road", "street", "ground", "road", "street", "railway", "railroad", "bridge"),
    "ground": ("ground", "ground", "land", "rock"),
    "wall": ("wall", "wall", "building", "house"),
    "building": ("building", "house", "wall", "sign"),
}
"""Words for each kind of surroundings; one is drawn, so those written twice come more often."""


class Corner(NamedTuple):
    """A guess (key of ``WORDS``), and the centre of its corner as shares of height and width."""

    kind: str
    y: float
    x: float


class _Look(NamedTuple):
    """Mean colour, 0 .. 255, and mean step between neighbouring pixels' brightness."""

    red: float
    green: float
    blue: float
    rough: float

    @property
    def light(self) -> float:
        """Luma (BT.601), 0 .. 255."""
        return 0.299 * self.red + 0.587 * self.green + 0.114 * self.blue

    @property
    def chroma(self) -> float:
        """Largest channel less the smallest; grey = 0."""
        return max(self[:3]) - min(self[:3])

    @property
    def is_green(self) -> bool:
        """Grass and leaves, yellowish ones too."""
        more_than_blue = self.green - self.blue
        return more_than_blue > 14 and self.green > self.red - 0.22 * more_than_blue

    @property
    def is_blue(self) -> bool:
        """Sky and water."""
        return self.blue > self.red + 12 and self.blue > self.green - 4


def guess_surroundings(photo: UInt8[np.ndarray, "height width 3"]) -> tuple[Corner, ...]:
    """Say what may lie in each corner of a photograph, upper ones first; nothing if no rule fits.

    Roughness depends on the scale: the long side should have about 200 pixels.
    """
    height, width, _ = photo.shape
    tall, wide = max(2, round(0.22 * height)), max(2, round(0.33 * width))
    rows = (slice(0, tall), 0.11), (slice(height - tall, height), 0.89)
    columns = (slice(0, wide), 0.16), (slice(width - wide, width), 0.84)
    places = [(y, x, _look(photo[row, column])) for row, y in rows for column, x in columns]
    looks = [look for _, _, look in places]
    blue_sky = any(look.is_blue and look.rough < 6 and look.light > 90 for look in looks[:2])
    outdoors = blue_sky or sum(look.is_green for look in looks) > 1  # one may be a green dress
    found = []
    for y, x, look in places:
        kind = _above(look, outdoors) if y < 0.5 else _below(look, outdoors)
        if kind:
            found.append(Corner(kind, y, x))
    return tuple(found)


def _look(region: UInt8[np.ndarray, "height width 3"]) -> _Look:
    pixels = region.astype(np.float64)
    light = pixels @ (0.299, 0.587, 0.114)
    rough = np.abs(np.diff(light, axis=0)).mean() + np.abs(np.diff(light, axis=1)).mean()
    red, green, blue = pixels.mean((0, 1)).tolist()
    return _Look(red, green, blue, float(rough))


def _above(look: _Look, outdoors: bool) -> str | None:
    light, rough = look.light, look.rough
    if not outdoors:
        return "wall" if light > 50 and rough < 9 else None
    if look.is_green:
        return "tree" if rough > 9 or light < 80 else "grass"
    if look.is_blue and light > 90 and rough < 6:
        return "sky"
    if light > 185 and look.chroma < 45 and rough < 8:
        return "cloud"
    if look.blue >= look.red - 6 and 60 < light < 170 and 5 < rough < 11:
        return "mountain"
    if rough > 14:
        return "tree" if light < 110 else "building"
    return None


def _below(look: _Look, outdoors: bool) -> str | None:
    if outdoors and look.is_green:
        return "grass"
    if outdoors and look.is_blue and look.rough < 16:
        return "water"
    if outdoors and look.light > 50:
        return "road" if look.chroma < 26 else "ground"
    if look.light > 50 and look.chroma < 80 and look.rough < 13:
        return "ground"
    return None
