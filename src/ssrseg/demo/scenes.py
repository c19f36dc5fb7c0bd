"""Random pictures of the demo world with their truth, and data sets of them in VOC's layout.

A scene is a place (field, street, sea, room) with things that belong there, now and then one that
does not. Things hide each other, light and colours vary, and the camera is noisy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from ssrseg.data.files import atomic_write
from ssrseg.demo.sprites import SPRITES, Colour, Part, box, oval

CLASSES: tuple[str, ...] = tuple(SPRITES)
BACKGROUNDS: tuple[str, ...] = (
    "grass", "sky", "water", "road", "wall", "floor", "tree", "building", "cloud", "rock",
)  # fmt: skip

VISIBLE = 60 / 128**2
"""A class counts as present if this share of the picture shows it."""


@dataclass(frozen=True)
class Scene:
    """A picture and everything that is known about it.

    Attributes:
        image: RGB.
        truth: 0 = background, 1 + index into ``CLASSES``.
        backdrop: Index into ``BACKGROUNDS`` of what is at, or behind, a pixel.
        classes: Classes that show at least 60 pixels (of 128 x 128), in the order of ``CLASSES``.
    """

    image: UInt8[np.ndarray, "side side 3"]
    truth: UInt8[np.ndarray, "side side"]
    backdrop: UInt8[np.ndarray, "side side"]
    classes: tuple[str, ...]


class _Place(NamedTuple):
    """A kind of scene: its likely things, and pairs that like each other's company."""

    things: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


_PLACES = {
    "field": _Place(
        ("sheep", "sheep", "cow", "cow", "bird", "person", "balloon", "car"),
        (("sheep", "person"), ("cow", "bird"), ("sheep", "cow")),
    ),
    "street": _Place(
        ("car", "car", "bus", "bus", "person", "balloon", "bird"),
        (("bus", "person"), ("car", "person"), ("car", "bus")),
    ),
    "sea": _Place(
        ("boat", "boat", "boat", "bird", "bird", "person", "balloon"),
        (("boat", "bird"), ("boat", "person")),
    ),
    "room": _Place(
        ("chair", "chair", "table", "table", "bottle", "bottle", "tv", "tv", "person"),
        (("table", "bottle"), ("chair", "table"), ("tv", "chair"), ("tv", "table")),
    ),
}


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
        return shade - 2.5 * (along % 11 < 1.2) + 20 * noise(4, 4)

    bricks = (rows % 9 < 1.3) | ((columns + 9 * (rows // 9 % 2)) % 18 < 1.3)
    fields = {
        "fluff": noise(1.3, 1.3),
        "grain": noise(0.7, 0.7),
        "cloudy": noise(7, 7),
        "blades": noise(2.2, 0.8) + 0.6 * noise(6, 6),
        "ripple": noise(0.8, 3.5) + 0.4 * noise(3, 9),
        "planks": planks(columns),
        "boards": planks(rows),
        "bricks": -1.0 * bricks + 0.5 * noise(1, 1),
        "blotch": noise(4.5, 5.5),
        "stripes": np.sin((rows + columns) * 2 * np.pi / 16),
    }
    return {
        name: ((field - field.mean()) / field.std()).astype(np.float32)
        for name, field in fields.items()
    }


class _Canvas:
    """The picture while it is painted, back to front; coordinates in units of its side."""

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self.side = side
        self.rng = rng
        self.image = np.zeros((side, side, 3), np.float32)
        self.backdrop = np.zeros((side, side), np.uint8)
        self.truth = np.zeros((side, side), np.uint8)

    def _field(self, name: str, height: int, width: int) -> Float[np.ndarray, "height width"]:
        y, x = self.rng.integers(0, self.side, 2)
        return _textures(self.side)[name][y : y + height, x : x + width]

    def paint(self, part: Part, ids: UInt8[np.ndarray, "side side"], value: int) -> None:
        """Fill a polygon and write ``value`` into ``ids`` where it covers half a pixel or more."""
        low = np.floor(part.outline.min(0) * self.side).astype(int)
        high = np.ceil(part.outline.max(0) * self.side).astype(int) + 1
        x0, y0 = np.maximum(low, 0)
        x1, y1 = np.minimum(high, self.side)
        if x1 <= x0 or y1 <= y0:
            return
        # drawn at twice the size: edges are blended like a camera's
        stencil = Image.new("L", (2 * int(x1 - x0), 2 * int(y1 - y0)))
        corners = (part.outline * self.side - (x0, y0)) * 2
        ImageDraw.Draw(stencil).polygon(corners.ravel().tolist(), fill=255)
        alpha = np.asarray(stencil.reduce(2), dtype=np.float32)[..., None] / 255
        colour = np.asarray(part.colour, np.float32)
        if part.texture:
            field = self._field(part.texture, y1 - y0, x1 - x0)[..., None]
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
            local = part.outline - (0.5, 1.0)
            if flip:
                local = local * (-1, 1)
            local = local * (width, height)
            turned = local @ np.array([[cosine, sine], [-sine, cosine]])
            moved = part._replace(outline=turned + (left + width / 2, top + height))
            self.paint(moved, self.truth, 1 + CLASSES.index(name))

    def finish(self) -> UInt8[np.ndarray, "side side 3"]:
        """Light from one side, a colour cast, sensor noise."""
        slope = np.linspace(-0.5, 0.5, self.side, dtype=np.float32)
        across, down = self.rng.uniform(-0.2, 0.2, 2)
        light = self.rng.uniform(0.85, 1.1) + across * slope[None, :] + down * slope[:, None]
        cast = self.rng.uniform(0.95, 1.05, 3).astype(np.float32)
        noise = self.rng.standard_normal(self.image.shape, dtype=np.float32)
        lit = self.image * light[..., None].astype(np.float32) * cast + 5 * noise
        return np.clip(lit, 0, 255).astype(np.uint8)


def _tint(rng: np.random.Generator, colours: tuple[Colour, ...], jitter: float = 9) -> Colour:
    base = np.asarray(colours[rng.integers(len(colours))])
    red, green, blue = np.clip(base + rng.normal(0, jitter, 3), 0, 255).astype(int).tolist()
    return red, green, blue


_SKIES = ((150, 196, 236), (120, 150, 205), (216, 226, 236), (160, 214, 200))
_GROUNDS: dict[str, tuple[tuple[Colour, ...], str, float]] = {
    "grass": (((122, 160, 64), (92, 200, 76), (150, 168, 84)), "blades", 13),
    "water": (((44, 96, 152), (40, 128, 158), (90, 150, 190)), "ripple", 12),
    "road": (((120, 120, 122), (98, 98, 108)), "grain", 9),
    "floor": (((150, 104, 72), (104, 60, 48), (206, 196, 150)), "boards", 12),
    "wall": (((216, 200, 170), (156, 164, 182), (138, 160, 128), (206, 178, 172)), "planks", 8),
}


def _clouds(canvas: _Canvas, horizon: float) -> None:
    for _ in range(canvas.rng.integers(0, 3)):
        x, y = canvas.rng.uniform(0, 1), canvas.rng.uniform(0.03, max(0.06, horizon - 0.12))
        tone = _tint(canvas.rng, ((244, 244, 246), (246, 214, 222)), 5)
        for shift in (-0.09, 0.0, 0.08):
            outline = oval(x + shift, y + abs(shift) / 4, 0.085, 0.05 - abs(shift) / 5)
            canvas.scenery("cloud", Part(outline, tone, "cloudy", 6))


def _trees(canvas: _Canvas, horizon: float, most: int) -> None:
    for _ in range(canvas.rng.integers(0, most + 1)):
        x, tall = canvas.rng.uniform(0, 1), canvas.rng.uniform(0.22, 0.45)
        foot = horizon + canvas.rng.uniform(0.0, 0.08)
        trunk = box(x - 0.022, foot - 0.5 * tall, x + 0.022, foot)
        canvas.scenery("tree", Part(trunk, (98, 70, 46), "planks", 8))
        leaf = _tint(canvas.rng, ((46, 104, 50), (74, 128, 44)))
        for dx, dy in ((-0.06, 0.55), (0.06, 0.6), (0.0, 0.78)):
            crown = oval(x + dx, foot - dy * tall, 0.09, 0.26 * tall)
            canvas.scenery("tree", Part(crown, leaf, "fluff", 14))


def _rocks(canvas: _Canvas, horizon: float, most: int) -> None:
    for _ in range(canvas.rng.integers(0, most + 1)):
        x, y = canvas.rng.uniform(0, 1), canvas.rng.uniform(horizon + 0.08, 1.0)
        wide, tall = canvas.rng.uniform(0.1, 0.22), canvas.rng.uniform(0.1, 0.2)
        outline = np.array([[-1, 0], [-0.8, -0.5], [-0.2, -1], [0.4, -0.85], [0.9, -0.4], [1, 0]])
        tone = _tint(canvas.rng, ((128, 122, 120), (104, 98, 106)))
        canvas.scenery("rock", Part(outline * (wide, tall) + (x, y), tone, "blotch", 14))


def _buildings(canvas: _Canvas, horizon: float) -> None:
    left = canvas.rng.uniform(-0.15, 0.1)
    while left < 1.0:
        width, tall = canvas.rng.uniform(0.2, 0.36), canvas.rng.uniform(0.2, 0.42)
        top, right = horizon - tall, left + width
        if canvas.rng.random() < 0.75:
            tone = _tint(canvas.rng, ((176, 128, 112), (158, 152, 166), (206, 184, 140), (92, 74, 72)))
            canvas.scenery("building", Part(box(left, top, right, horizon), tone, "bricks", 8))
            pane = _tint(canvas.rng, ((238, 218, 104), (66, 62, 84)))
            for y in np.arange(top + 0.04, horizon - 0.05, 0.095):
                for x in np.arange(left + 0.035, right - 0.05, 0.08):
                    window = box(float(x), float(y), float(x) + 0.04, float(y) + 0.055)
                    canvas.scenery("building", Part(window, pane))
        left = right + canvas.rng.uniform(0.0, 0.08)


def _ground(canvas: _Canvas, name: str, top: float, bottom: float = 1.0) -> None:
    colours, texture, strength = _GROUNDS[name]
    tone = _tint(canvas.rng, colours)
    canvas.scenery(name, Part(box(0, top, 1.01, bottom + 0.01), tone, texture, strength))


def _surroundings(canvas: _Canvas, place: str) -> float:
    """Paint what is behind the things; returns the horizon's height."""
    rng = canvas.rng
    horizon = rng.uniform(0.32, 0.6)
    if place == "room":
        _ground(canvas, "wall", 0.0, horizon)
        _ground(canvas, "floor", horizon)
        canvas.scenery("wall", Part(box(0, horizon - 0.02, 1.01, horizon), (232, 226, 214)))
        return float(horizon)
    canvas.scenery("sky", Part(box(0, 0, 1.01, 1.01), _tint(rng, _SKIES), "cloudy", 6))
    _clouds(canvas, horizon)
    if place == "street":
        _buildings(canvas, horizon)
        _trees(canvas, horizon, 1)
        _ground(canvas, "road", horizon)
        line = horizon + rng.uniform(0.25, 0.4)
        for x in np.arange(rng.uniform(-0.1, 0.1), 1.0, 0.22):
            dash = box(float(x), line, float(x) + 0.12, line + 0.02)
            canvas.scenery("road", Part(dash, (232, 230, 222)))
    elif place == "sea":
        _ground(canvas, "water", horizon)
        _rocks(canvas, horizon, 1)
    else:
        _ground(canvas, "grass", horizon)
        if rng.random() < 0.25:
            _ground(canvas, "water", horizon, horizon + rng.uniform(0.08, 0.16))
        _trees(canvas, horizon, 2)
        _rocks(canvas, horizon, 1)
    return float(horizon)


def _choose_things(rng: np.random.Generator, place: _Place, crowded: bool) -> list[str]:
    """Names of the things in a scene; a second one often is of the same class."""
    count = 1 + int(rng.choice(4, p=(0.08, 0.32, 0.35, 0.25) if crowded else (0.5, 0.33, 0.13, 0.04)))
    same = 0.15 if crowded else 0.3
    names: list[str] = []
    if count > 1 and rng.random() < 0.35:
        names.extend(place.pairs[rng.integers(len(place.pairs))])
    while len(names) < count:
        if names and rng.random() < same:
            names.append(names[rng.integers(len(names))])
        elif rng.random() < 0.12:
            names.append(CLASSES[rng.integers(len(CLASSES))])
        else:
            names.append(place.things[rng.integers(len(place.things))])
    return names


def render_scene(
    seed: int, *, density: Literal["voc", "crowded"] = "voc", size: int = 128
) -> Scene:
    """Render one scene; the same arguments give the same bytes.

    Args:
        seed: Which scene, >= 0.
        density: ``voc`` has about 1.5 classes and a quarter of foreground, as PASCAL VOC;
            ``crowded`` has about 2.2 classes of smaller things.
        size: Side in pixels.
    """
    crowded = density == "crowded"
    rng = np.random.default_rng([seed, int(crowded)])
    canvas = _Canvas(size, rng)
    place = list(_PLACES)[rng.integers(len(_PLACES))]
    horizon = _surroundings(canvas, place)
    names = _choose_things(rng, _PLACES[place], crowded)
    zoom = 1.08 if crowded else (1.6, 1.42, 1.25, 1.15)[len(names) - 1]
    placed = []
    for name in names:
        sprite = SPRITES[name]
        foot = rng.uniform(0.25, 1.0) if sprite.flies else rng.uniform(horizon + 0.1, 1.05)
        nearness = 0.85 + 0.3 * (foot - horizon) if not sprite.flies else 1.0
        tall = sprite.height * zoom * nearness * rng.uniform(0.8, 1.2)
        tall = min(tall, 0.95, 0.95 / sprite.aspect)
        foot = max(foot, 0.88 * tall)
        wide = tall * sprite.aspect * rng.uniform(0.92, 1.08)
        placed.append((foot, name, rng.uniform(-0.12, 1.12 - wide), wide, tall))
    for foot, name, left, wide, tall in sorted(placed):
        canvas.thing(name, left, foot - tall, wide, tall)
    areas = np.bincount(canvas.truth.ravel(), minlength=1 + len(CLASSES))[1:]
    shown = tuple(CLASSES[k] for k in np.flatnonzero(areas >= VISIBLE * size * size))
    return Scene(canvas.finish(), canvas.truth, canvas.backdrop, shown)


def write_dataset(root: Path, *, train: range, val: range) -> None:
    """Write scenes as a data set in the layout of VOC 2012.

    Pixel truth goes into ``SegmentationClassAug`` alone; image-level labels into ``labels.csv``.

    Args:
        root: Folder to write to.
        train: Seeds of the training scenes.
        val: Seeds of the held-out scenes.

    Raises:
        ValueError: If a seed is in both.
    """
    from ssrseg.data.images import write_class_ids

    if set(train) & set(val):
        raise ValueError(f"train {train} and val {val} share scenes")
    rows = ["image,labels"]
    for split, seeds in (("train", train), ("val", val)):
        names = [f"scene_{seed:07d}" for seed in seeds]
        for seed, name in zip(seeds, names, strict=True):
            scene = render_scene(seed)
            with atomic_write(root / "JPEGImages" / f"{name}.jpg") as temporary:
                Image.fromarray(scene.image).save(temporary, quality=95)
            write_class_ids(root / "SegmentationClassAug" / f"{name}.png", torch.from_numpy(scene.truth))
            rows.append(f"JPEGImages/{name}.jpg,{';'.join(scene.classes)}")
        with atomic_write(root / "ImageSets" / "Segmentation" / f"{split}.txt") as temporary:
            temporary.write_text("\n".join(names) + "\n")
    with atomic_write(root / "labels.csv") as temporary:
        temporary.write_text("\n".join(rows) + "\n")
    with atomic_write(root / "classes.txt") as temporary:
        temporary.write_text("\n".join(CLASSES) + "\n")
