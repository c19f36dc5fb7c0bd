"""The twelve things of the demo world as coloured polygons, drawn in a unit box.

Two pairs look alike on purpose: sheep and cow share their outline and cream coats, car and bus
share colours, wheels and windows. A network must look at parts, as with photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Colour = tuple[int, int, int]

BLACK: Colour = (38, 34, 36)
WHITE: Colour = (240, 238, 232)
CREAM: Colour = (226, 204, 176)
GLASS: Colour = (132, 200, 222)
SKINS: tuple[Colour, ...] = ((236, 200, 168), (196, 148, 110), (120, 82, 58))


class Part(NamedTuple):
    """One polygon of a sprite.

    Attributes:
        outline: Corners (x, y) in the unit box, y downwards.
        colour: RGB, 0 to 255.
        texture: Name of a noise field of ``ssrseg.demo.canvas``, or "" for a flat colour.
        strength: Standard deviation of the texture in grey levels.
        spots: Second colour, shown where the texture is above its mean (patches, stripes).
    """

    outline: Float[np.ndarray, "corners 2"]
    colour: Colour
    texture: str = ""
    strength: float = 0.0
    spots: Colour | None = None


class Sprite(NamedTuple):
    """How one class is drawn.

    Attributes:
        draw: Random parts, back to front.
        height: Usual height as a share of the scene's side.
        aspect: Width of the box over its height.
        flies: Whether it may be anywhere above the ground.
    """

    draw: Callable[[np.random.Generator], list[Part]]
    height: float
    aspect: float
    flies: bool = False


def box(x0: float, y0: float, x1: float, y1: float) -> Float[np.ndarray, "4 2"]:
    """Corners of a rectangle."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


_ANGLES = np.linspace(0, 2 * np.pi, 21)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)


def oval(x: float, y: float, rx: float, ry: float) -> Float[np.ndarray, "21 2"]:
    """Corners of an ellipse around (x, y)."""
    return _CIRCLE * (rx, ry) + (x, y)


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], jitter: float = 8.0) -> Colour:
    """One of the colours, each channel changed by noise of this standard deviation."""
    base = np.array(colours[rng.integers(len(colours))])
    red, green, blue = np.clip(base + rng.normal(0, jitter, 3), 0, 255).astype(int).tolist()
    return red, green, blue


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, int(value * factor)) for value in colour)
    return red, green, blue


def _points(*corners: tuple[float, float]) -> Float[np.ndarray, "corners 2"]:
    return np.array(corners)


def _legs(colour: Colour) -> list[Part]:
    return [Part(box(x, 0.6, x + 0.075, 1.0), colour) for x in (0.28, 0.42, 0.72, 0.85)]


def _sheep(rng: np.random.Generator) -> list[Part]:
    wool = pick(rng, (WHITE, CREAM))
    face = pick(rng, (BLACK, (232, 186, 176)))
    angles = np.linspace(0, 2 * np.pi, 36)
    bump = 1 + 0.06 * np.cos(angles * 9)
    fleece = np.stack([0.62 + 0.37 * bump * np.cos(angles), 0.47 + 0.27 * bump * np.sin(angles)], 1)
    return [
        *_legs(BLACK),
        Part(fleece, wool, "fluff", 15),
        Part(oval(0.2, 0.3, 0.13, 0.17), face),
        Part(oval(0.24, 0.17, 0.12, 0.1), wool, "fluff", 15),
        Part(box(0.13, 0.27, 0.17, 0.32), WHITE if sum(face) < 300 else BLACK),
    ]


def _cow(rng: np.random.Generator) -> list[Part]:
    hide, spots = ((WHITE, BLACK), (CREAM, (132, 84, 52)))[rng.integers(2)]
    hide = pick(rng, (hide,))
    return [
        *_legs(_shade(spots, 0.9)),
        Part(_points((0.94, 0.35), (0.99, 0.4), (0.98, 0.75), (0.95, 0.75)), spots),
        Part(oval(0.62, 0.47, 0.37, 0.26), hide, "blotch", 0, spots),
        Part(oval(0.72, 0.72, 0.07, 0.05), (226, 160, 160)),
        Part(_points((0.08, 0.12), (0.14, 0.0), (0.17, 0.16)), (214, 206, 178)),
        Part(_points((0.24, 0.14), (0.3, 0.0), (0.32, 0.17)), (214, 206, 178)),
        Part(oval(0.2, 0.3, 0.14, 0.18), spots if rng.random() < 0.5 else hide),
        Part(oval(0.14, 0.41, 0.1, 0.08), (226, 160, 160)),
    ]


def _wheels(places: tuple[float, ...], radius: float, aspect: float) -> list[Part]:
    wide = radius / aspect
    rims = [Part(oval(x, 1 - radius, wide, radius), BLACK) for x in places]
    hub = (170, 170, 176)
    return rims + [Part(oval(x, 1 - radius, wide / 2.4, radius / 2.4), hub) for x in places]


def _car(rng: np.random.Generator) -> list[Part]:
    paint = pick(rng, ((206, 34, 34), (48, 84, 190), (232, 180, 40)))
    bonnet, roof = ((0.0, 0.84), (0.01, 0.55), (0.2, 0.46)), ((0.32, 0.08), (0.7, 0.08))
    return [
        Part(_points(*bonnet, *roof, (0.84, 0.44), (0.99, 0.52), (1.0, 0.84)), paint),
        Part(_points((0.27, 0.44), (0.35, 0.16), (0.49, 0.16), (0.49, 0.44)), GLASS),
        Part(_points((0.53, 0.44), (0.53, 0.16), (0.68, 0.16), (0.77, 0.44)), GLASS),
        Part(box(0.0, 0.74, 1.0, 0.84), _shade(paint, 0.6)),
        Part(oval(0.035, 0.62, 0.03, 0.06), (250, 240, 180)),
        *_wheels((0.22, 0.78), 0.2, 2.1),
    ]


def _bus(rng: np.random.Generator) -> list[Part]:
    paint = pick(rng, ((232, 180, 40), (48, 84, 190)))
    return [
        Part(box(0.0, 0.02, 1.0, 0.86), paint),
        Part(box(0.0, 0.02, 1.0, 0.08), _shade(paint, 0.7)),
        *(Part(box(0.05 + 0.185 * k, 0.14, 0.2 + 0.185 * k, 0.42), GLASS) for k in range(5)),
        Part(box(0.0, 0.55, 1.0, 0.62), WHITE),
        Part(box(0.0, 0.78, 1.0, 0.86), BLACK),
        *_wheels((0.2, 0.8), 0.14, 1.75),
    ]


def _boat(rng: np.random.Generator) -> list[Part]:
    hull = pick(rng, ((140, 88, 50), (206, 50, 46)))
    sail = pick(rng, (WHITE, (222, 170, 60)))
    return [
        Part(box(0.48, 0.0, 0.515, 0.75), (96, 66, 44)),
        Part(_points((0.46, 0.03), (0.46, 0.68), (0.1, 0.68)), sail, "cloudy", 5),
        Part(_points((0.54, 0.12), (0.54, 0.68), (0.86, 0.68)), _shade(sail, 0.88), "cloudy", 5),
        Part(_points((0.0, 0.72), (1.0, 0.72), (0.85, 1.0), (0.16, 1.0)), hull, "boards", 9),
        Part(_points((0.0, 0.72), (1.0, 0.72), (0.98, 0.78), (0.03, 0.78)), _shade(hull, 0.65)),
    ]


def _bird(rng: np.random.Generator) -> list[Part]:
    coat = pick(rng, ((46, 46, 58), (128, 102, 140), (44, 84, 62)))
    up = 1.0 if rng.random() < 0.6 else -1.0
    tip = 0.5 - 0.5 * up
    return [
        Part(_points((0.5, 0.5), (0.62, tip), (0.74, 0.52)), _shade(coat, 0.75), "grain", 8),
        Part(_points((0.75, 0.45), (1.0, 0.36), (1.0, 0.58), (0.72, 0.6)), _shade(coat, 0.7)),
        Part(oval(0.5, 0.52, 0.3, 0.2), coat, "grain", 8),
        Part(oval(0.22, 0.4, 0.12, 0.17), coat),
        Part(_points((0.11, 0.36), (0.0, 0.45), (0.12, 0.48)), (232, 156, 40)),
        Part(oval(0.2, 0.36, 0.025, 0.045), WHITE),
        Part(_points((0.36, 0.52), (0.6, tip), (0.66, 0.56)), _shade(coat, 1.35), "grain", 8),
    ]


def _chair(rng: np.random.Generator) -> list[Part]:
    wood = pick(rng, ((196, 92, 36), (128, 74, 44)))
    dark = _shade(wood, 0.72)
    return [
        Part(box(0.06, 0.6, 0.17, 1.0), dark),
        Part(box(0.83, 0.6, 0.94, 1.0), dark),
        Part(box(0.25, 0.6, 0.34, 0.92), dark),
        Part(box(0.02, 0.0, 0.19, 0.62), wood, "boards", 9),
        Part(box(0.19, 0.06, 0.36, 0.16), wood),
        Part(box(0.19, 0.3, 0.32, 0.5), _shade(wood, 0.9)),
        Part(_points((0.02, 0.5), (0.9, 0.5), (1.0, 0.63), (0.02, 0.63)), _shade(wood, 1.12)),
    ]


def _table(rng: np.random.Generator) -> list[Part]:
    wood = pick(rng, ((206, 166, 112), (128, 74, 44)))
    dark = _shade(wood, 0.72)
    return [
        *(Part(box(x, 0.2, x + 0.075, 1.0), dark) for x in (0.06, 0.86)),
        *(Part(box(x, 0.2, x + 0.06, 0.84), _shade(wood, 0.6)) for x in (0.2, 0.74)),
        Part(box(0.03, 0.2, 0.97, 0.34), dark),
        Part(_points((0.07, 0.0), (0.93, 0.0), (1.0, 0.22), (0.0, 0.22)), wood, "boards", 10),
    ]


def _bottle(rng: np.random.Generator) -> list[Part]:
    glass = pick(rng, ((36, 118, 62), (150, 130, 44)))
    label = pick(rng, (WHITE,))
    neck, shoulders = ((0.34, 0.3), (0.34, 0.06), (0.66, 0.06), (0.66, 0.3)), (1.0, 0.44)
    return [
        Part(_points(*neck, shoulders, (1.0, 1.0), (0.0, 1.0), (0.0, 0.44)), glass),
        Part(box(0.3, 0.0, 0.7, 0.09), (188, 60, 46)),
        Part(box(0.0, 0.56, 1.0, 0.82), label),
        Part(box(0.14, 0.64, 0.86, 0.7), glass),
        Part(box(0.1, 0.42, 0.24, 0.56), _shade(glass, 1.6)),
    ]


def _balloon(rng: np.random.Generator) -> list[Part]:
    skin = pick(rng, ((214, 40, 60), (240, 130, 190), (90, 60, 190)))
    return [
        Part(_points((0.48, 0.66), (0.52, 0.66), (0.58, 0.84), (0.5, 1.0), (0.54, 0.84)), BLACK),
        Part(_points((0.5, 0.6), (0.62, 0.73), (0.38, 0.73)), _shade(skin, 0.75)),
        Part(oval(0.5, 0.34, 0.48, 0.34), skin),
        Part(oval(0.5, 0.34, 0.17, 0.34), _shade(skin, 1.15)),
        Part(oval(0.34, 0.2, 0.1, 0.07), WHITE),
    ]


def _person(rng: np.random.Generator) -> list[Part]:
    shirt = pick(rng, ((200, 44, 42), (112, 52, 148), (52, 122, 60)))
    trousers = pick(rng, ((56, 84, 168), (52, 48, 52)))
    skin = pick(rng, SKINS)
    hair = pick(rng, ((58, 40, 30), (206, 166, 84)))
    return [
        Part(box(0.25, 0.58, 0.47, 0.97), trousers),
        Part(box(0.53, 0.58, 0.75, 0.97), _shade(trousers, 0.88)),
        Part(box(0.2, 0.95, 0.47, 1.0), BLACK),
        Part(box(0.53, 0.95, 0.8, 1.0), BLACK),
        Part(_points((0.14, 0.28), (0.86, 0.28), (0.8, 0.62), (0.2, 0.62)), shirt, "grain", 6),
        Part(_points((0.14, 0.28), (0.22, 0.3), (0.14, 0.62), (0.0, 0.6)), _shade(shirt, 0.8)),
        Part(_points((0.86, 0.28), (0.78, 0.3), (0.86, 0.62), (1.0, 0.6)), _shade(shirt, 0.8)),
        Part(oval(0.06, 0.63, 0.08, 0.035), skin),
        Part(oval(0.94, 0.63, 0.08, 0.035), skin),
        Part(oval(0.5, 0.11, 0.27, 0.11), hair),
        Part(oval(0.5, 0.16, 0.23, 0.12), skin),
    ]


def _tv(rng: np.random.Generator) -> list[Part]:
    frame = pick(rng, ((60, 60, 66), (170, 172, 178)))
    dark, light = ((52, 78, 190), (36, 44, 120)), ((70, 150, 190), (150, 214, 226))
    screen, beam = (dark, light)[rng.integers(2)]
    return [
        Part(box(0.44, 0.8, 0.56, 0.96), _shade(frame, 0.8)),
        Part(box(0.24, 0.94, 0.76, 1.0), _shade(frame, 0.8)),
        Part(box(0.0, 0.0, 1.0, 0.84), frame),
        Part(box(0.06, 0.07, 0.94, 0.75), screen, "stripes", 0, beam),
        Part(oval(0.9, 0.795, 0.015, 0.02), (220, 60, 50)),
    ]


SPRITES: dict[str, Sprite] = {
    "sheep": Sprite(_sheep, 0.34, 1.3),
    "cow": Sprite(_cow, 0.38, 1.4),
    "car": Sprite(_car, 0.25, 2.1),
    "bus": Sprite(_bus, 0.34, 1.75),
    "boat": Sprite(_boat, 0.48, 1.05),
    "bird": Sprite(_bird, 0.24, 1.7, flies=True),
    "chair": Sprite(_chair, 0.42, 0.6),
    "table": Sprite(_table, 0.32, 1.75),
    "bottle": Sprite(_bottle, 0.36, 0.36),
    "balloon": Sprite(_balloon, 0.42, 0.68, flies=True),
    "person": Sprite(_person, 0.6, 0.4),
    "tv": Sprite(_tv, 0.36, 1.2),
}

CLASSES: tuple[str, ...] = tuple(SPRITES)
