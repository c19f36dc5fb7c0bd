"""Painting with textured polygons: picture, truth and backdrop grow together."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from ssrseg.demo.sprites import CLASSES, SPRITES, Part

BACKGROUNDS: tuple[str, ...] = (
    "grass", "sky", "water", "road", "wall", "floor", "tree", "building", "cloud", "rock",
)  # fmt: skip


@lru_cache(maxsize=4)
def _textures(side: int) -> dict[str, Float[np.ndarray, "double double"]]:
    """Noise fields of twice the scene's side, mean 0, standard deviation 1."""
    rng = np.random.default_rng(7)
    scale, double = side / 128, 2 * side
    rows, columns = np.mgrid[0:double, 0:double] / scale

    def noise(vertical: float, horizontal: float) -> Float[np.ndarray, "double double"]:
        raw = rng.standard_normal((double, double))
        return gaussian_filter(raw, (vertical * scale, horizontal * scale), mode="wrap")

    def planks(along: Float[np.ndarray, "double double"]) -> Float[np.ndarray, "double double"]:
        shade = rng.standard_normal(1000)[(along // 11).astype(int)]
        return shade - 2.5 * (along % 11 < 1.2) + 20 * noise(4.0, 4.0)

    bricks = (rows % 9 < 1.3) | ((columns + 9 * (rows // 9 % 2)) % 18 < 1.3)
    fields = {
        "fluff": noise(1.3, 1.3),
        "grain": noise(0.7, 0.7),
        "cloudy": noise(7.0, 7.0),
        "blades": noise(2.2, 0.8) + 0.6 * noise(6.0, 6.0),
        "ripple": noise(0.8, 3.5) + 0.4 * noise(3.0, 9.0),
        "planks": planks(columns),
        "boards": planks(rows),
        "bricks": -1.0 * bricks + 0.5 * noise(1.0, 1.0),
        "blotch": noise(4.5, 5.5),
        "stripes": np.sin((rows + columns) * 2 * np.pi / 16),
    }
    return {
        name: ((field - field.mean()) / field.std()).astype(np.float32)
        for name, field in fields.items()
    }


class Canvas:
    """The picture while it is painted, back to front; coordinates in units of its side."""

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self.side = side
        self.rng = rng
        self.image = np.zeros((side, side, 3), np.float32)
        self.backdrop = np.zeros((side, side), np.uint8)
        self.truth = np.zeros((side, side), np.uint8)

    def paint(self, part: Part, ids: UInt8[np.ndarray, "side side"], value: int) -> None:
        """Fill a polygon and write ``value`` into ``ids`` where it covers half a pixel or more."""
        low = np.floor(part.outline.min(0) * self.side).astype(int)
        high = np.ceil(part.outline.max(0) * self.side).astype(int) + 1
        x0, y0 = np.maximum(low, 0).tolist()
        x1, y1 = np.minimum(high, self.side).tolist()
        if x1 <= x0 or y1 <= y0:
            return
        # drawn at twice the size: edges are blended like a camera's
        stencil = Image.new("L", (2 * (x1 - x0), 2 * (y1 - y0)))
        corners = (part.outline * self.side - (x0, y0)) * 2
        ImageDraw.Draw(stencil).polygon(corners.ravel().tolist(), fill=255)
        alpha = np.asarray(stencil.reduce(2), dtype=np.float32)[..., None] / 255
        colour: np.ndarray = np.asarray(part.colour, np.float32)
        if part.texture:
            y, x = self.rng.integers(0, self.side, 2)  # a random part of the noise field
            field = _textures(self.side)[part.texture]
            field = field[y : y + y1 - y0, x : x + x1 - x0, None]
            if part.spots is not None:
                colour = np.where(field > 0, np.asarray(part.spots, np.float32), colour)
            colour = colour + part.strength * field
        area = self.image[y0:y1, x0:x1]
        area += alpha * (colour - area)
        ids[y0:y1, x0:x1][alpha[..., 0] >= 0.5] = value

    def scenery(self, name: str, part: Part) -> None:
        """Paint a piece of background."""
        self.paint(part, self.backdrop, BACKGROUNDS.index(name))

    def thing(self, name: str, left: float, top: float, width: float, height: float) -> None:
        """Paint one object of a class into a box, mirrored and tilted at random."""
        flip = self.rng.random() < 0.5
        tilt = self.rng.normal(0, 0.12 if SPRITES[name].flies else 0.025)
        cosine, sine = np.cos(tilt), np.sin(tilt)
        for part in SPRITES[name].draw(self.rng):
            local = (part.outline - (0.5, 1.0)) * (-1 if flip else 1, 1) * (width, height)
            turned = local @ np.array([[cosine, sine], [-sine, cosine]])
            standing = np.add(turned, (left + width / 2, top + height))
            self.paint(part._replace(outline=standing), self.truth, 1 + CLASSES.index(name))

    def finish(self) -> UInt8[np.ndarray, "side side 3"]:
        """Light from one side, a colour cast, sensor noise."""
        slope = np.linspace(-0.5, 0.5, self.side, dtype=np.float32)
        across, down = self.rng.uniform(-0.2, 0.2, 2)
        light = self.rng.uniform(0.85, 1.1) + across * slope[None, :] + down * slope[:, None]
        cast = self.rng.uniform(0.95, 1.05, 3).astype(np.float32)
        noise = self.rng.standard_normal(self.image.shape, dtype=np.float32)
        lit = self.image * light[..., None].astype(np.float32) * cast + 5 * noise
        return np.clip(lit, 0, 255).astype(np.uint8)
