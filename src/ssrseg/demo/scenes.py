"""Random pictures of the demo world with their truth, and data sets of them in VOC's layout.

A scene is a place (field, street, sea, room) with things that belong there, now and then one that
does not. Things hide each other, light and colours vary, and the camera is noisy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ssrseg.data.class_ids import write_class_ids
from ssrseg.data.files import atomic_write, write_text
from ssrseg.demo.canvas import BACKGROUNDS, Canvas
from ssrseg.demo.sprites import CLASSES, SPRITES, Colour, Part, box, oval, pick

__all__ = ["BACKGROUNDS", "CLASSES", "Scene", "render_scene", "write_dataset"]

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


_PLACES: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = {
    "field": (
        ("sheep", "sheep", "cow", "cow", "bird", "person", "balloon", "car"),
        (("sheep", "person"), ("cow", "bird"), ("sheep", "cow")),
    ),
    "street": (
        ("car", "car", "bus", "bus", "person", "balloon", "bird"),
        (("bus", "person"), ("car", "person"), ("car", "bus")),
    ),
    "sea": (
        ("boat", "boat", "boat", "bird", "bird", "person", "balloon"),
        (("boat", "bird"), ("boat", "person")),
    ),
    "room": (
        ("chair", "chair", "table", "table", "bottle", "bottle", "tv", "tv", "person"),
        (("table", "bottle"), ("chair", "table"), ("tv", "chair"), ("tv", "table")),
    ),
}
"""Kinds of scenes: their likely things, and pairs that like each other's company."""


_SKIES = ((150, 196, 236), (120, 150, 205), (216, 226, 236), (160, 214, 200))
_FACADES = ((176, 128, 112), (158, 152, 166), (206, 184, 140), (92, 74, 72))
_GROUNDS: dict[str, tuple[tuple[Colour, ...], str, float]] = {
    "grass": (((122, 160, 64), (92, 200, 76), (150, 168, 84)), "blades", 13),
    "water": (((44, 96, 152), (40, 128, 158), (90, 150, 190)), "ripple", 12),
    "road": (((120, 120, 122), (98, 98, 108)), "grain", 9),
    "floor": (((150, 104, 72), (104, 60, 48), (206, 196, 150)), "boards", 12),
    "wall": (((216, 200, 170), (156, 164, 182), (138, 160, 128), (206, 178, 172)), "planks", 8),
}


def _clouds(canvas: Canvas, horizon: float) -> None:
    for _ in range(canvas.rng.integers(0, 3)):
        x, y = canvas.rng.uniform(0, 1), canvas.rng.uniform(0.03, max(0.06, horizon - 0.12))
        tone = pick(canvas.rng, ((244, 244, 246), (246, 214, 222)), 5.0)
        for shift in (-0.09, 0.0, 0.08):
            outline = oval(x + shift, y + abs(shift) / 4, 0.085, 0.05 - abs(shift) / 5)
            canvas.scenery("cloud", Part(outline, tone, "cloudy", 6))


def _trees(canvas: Canvas, horizon: float, most: int) -> None:
    for _ in range(canvas.rng.integers(0, most + 1)):
        x, tall = canvas.rng.uniform(0, 1), canvas.rng.uniform(0.22, 0.45)
        foot = horizon + canvas.rng.uniform(0.0, 0.08)
        trunk = box(x - 0.022, foot - 0.5 * tall, x + 0.022, foot)
        canvas.scenery("tree", Part(trunk, (98, 70, 46), "planks", 8))
        leaf = pick(canvas.rng, ((46, 104, 50), (74, 128, 44)), 9.0)
        for dx, dy in ((-0.06, 0.55), (0.06, 0.6), (0.0, 0.78)):
            crown = oval(x + dx, foot - dy * tall, 0.09, 0.26 * tall)
            canvas.scenery("tree", Part(crown, leaf, "fluff", 14))


def _rocks(canvas: Canvas, horizon: float, most: int) -> None:
    for _ in range(canvas.rng.integers(0, most + 1)):
        x, y = canvas.rng.uniform(0, 1), canvas.rng.uniform(horizon + 0.08, 1.0)
        wide, tall = canvas.rng.uniform(0.1, 0.22), canvas.rng.uniform(0.1, 0.2)
        outline = np.array([[-1, 0], [-0.8, -0.5], [-0.2, -1], [0.4, -0.85], [0.9, -0.4], [1, 0]])
        tone = pick(canvas.rng, ((128, 122, 120), (104, 98, 106)), 9.0)
        canvas.scenery("rock", Part(outline * (wide, tall) + (x, y), tone, "blotch", 14))


def _buildings(canvas: Canvas, horizon: float) -> None:
    left = canvas.rng.uniform(-0.15, 0.1)
    while left < 1.0:
        width, tall = canvas.rng.uniform(0.2, 0.36), canvas.rng.uniform(0.2, 0.42)
        top, right = horizon - tall, left + width
        if canvas.rng.random() < 0.75:
            tone = pick(canvas.rng, _FACADES, 9.0)
            canvas.scenery("building", Part(box(left, top, right, horizon), tone, "bricks", 8))
            pane = pick(canvas.rng, ((238, 218, 104), (66, 62, 84)), 9.0)
            for y in np.arange(top + 0.04, horizon - 0.05, 0.095):
                for x in np.arange(left + 0.035, right - 0.05, 0.08):
                    window = box(float(x), float(y), float(x) + 0.04, float(y) + 0.055)
                    canvas.scenery("building", Part(window, pane))
        left = right + canvas.rng.uniform(0.0, 0.08)


def _ground(canvas: Canvas, name: str, top: float, bottom: float = 1.0) -> None:
    colours, texture, strength = _GROUNDS[name]
    tone = pick(canvas.rng, colours, 9.0)
    canvas.scenery(name, Part(box(0.0, top, 1.01, bottom + 0.01), tone, texture, strength))


def _surroundings(canvas: Canvas, place: str) -> float:
    """Paint what is behind the things; returns the horizon's height."""
    rng = canvas.rng
    horizon = rng.uniform(0.32, 0.6)
    if place == "room":
        _ground(canvas, "wall", 0.0, horizon)
        _ground(canvas, "floor", horizon)
        canvas.scenery("wall", Part(box(0.0, horizon - 0.02, 1.01, horizon), (232, 226, 214)))
        return float(horizon)
    canvas.scenery("sky", Part(box(0.0, 0.0, 1.01, 1.01), pick(rng, _SKIES, 9.0), "cloudy", 6))
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


def _choose_things(rng: np.random.Generator, place: str, crowded: bool) -> list[str]:
    """Names of the things in a scene; a second one often is of the same class."""
    things, pairs = _PLACES[place]
    shares = (0.08, 0.32, 0.35, 0.25) if crowded else (0.5, 0.33, 0.13, 0.04)
    count = 1 + int(rng.choice(4, p=shares))
    same = 0.15 if crowded else 0.3
    names: list[str] = []
    if count > 1 and rng.random() < 0.35:
        names.extend(pairs[rng.integers(len(pairs))])
    while len(names) < count:
        if names and rng.random() < same:
            names.append(names[rng.integers(len(names))])
        elif rng.random() < 0.12:
            names.append(CLASSES[rng.integers(len(CLASSES))])
        else:
            names.append(things[rng.integers(len(things))])
    return names


def render_scene(
    seed: int, *, density: Literal["voc", "crowded"] = "voc", size: int = 128
) -> Scene:
    """Render one scene of ``size`` x ``size`` pixels; the same arguments give the same bytes.

    Density ``voc`` has about 1.5 classes and a quarter of foreground, as PASCAL VOC; ``crowded``
    has about 2.2 classes of smaller things.
    """
    crowded = density == "crowded"
    rng = np.random.default_rng([seed, int(crowded)])
    canvas = Canvas(size, rng)
    place = list(_PLACES)[rng.integers(len(_PLACES))]
    horizon = _surroundings(canvas, place)
    names = _choose_things(rng, place, crowded)
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
    ``train`` and ``val`` are seeds of scenes.

    Raises:
        ValueError: If a seed is in both.
    """
    if set(train) & set(val):
        raise ValueError(f"train {train} and val {val} share scenes")
    rows = ["image,labels"]
    for split, seeds in (("train", train), ("val", val)):
        names = [f"scene_{seed:07d}" for seed in seeds]
        for seed, name in zip(seeds, names, strict=True):
            scene = render_scene(seed)
            with atomic_write(root / "JPEGImages" / f"{name}.jpg") as temporary:
                Image.fromarray(scene.image).save(temporary, quality=95)
            file = root / "SegmentationClassAug" / f"{name}.png"
            write_class_ids(file, torch.from_numpy(scene.truth))
            rows.append(f"JPEGImages/{name}.jpg,{';'.join(scene.classes)}")
        listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        write_text(listed, "\n".join(names) + "\n")
    write_text(root / "labels.csv", "\n".join(rows) + "\n")
    write_text(root / "classes.txt", "\n".join(CLASSES) + "\n")
