"""How CAMs of tiles should be joined: mIoU of masks of large drawn scenes, several ways.

Scenes of many places, a quarter of them with things of two classes and the others empty, whose
things are small in the whole; and scenes of one place, whose things fill the picture. Preset demo,
no pixel refinement. ``python benchmarks/measure_tiles.py``
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ssrseg.data.large import HeldImage, Tiling, shrunk
from ssrseg.demo.canvas import Canvas
from ssrseg.demo.scenes import CLASSES, _surroundings, render_scene
from ssrseg.method.tiles import joined_maps, map_window
from ssrseg.model import SSR
from ssrseg.tiled import Look, tiled_look

SIDE = 128
PLACES = ("field", "street", "sea", "room")

Scene = tuple[np.ndarray, np.ndarray]


def many_places(seed: int, count: int) -> Scene:
    """``count`` x ``count`` places, a quarter of them with things of two classes."""
    rng = np.random.default_rng(seed)
    image = np.zeros((count * SIDE, count * SIDE, 3), np.uint8)
    truth = np.zeros(image.shape[:2], np.uint8)
    shown = set(rng.permutation(count**2)[: max(2, count**2 // 4)].tolist())
    classes: set[str] = set()
    drawn = 1000 * seed
    for place in range(count**2):
        row, column = place // count * SIDE, place % count * SIDE
        there = slice(row, row + SIDE), slice(column, column + SIDE)
        if place not in shown:
            canvas = Canvas(SIDE, np.random.default_rng(5000 * seed + place))
            _surroundings(canvas, PLACES[(seed + place) % 4])
            image[there] = canvas.finish()
            continue
        while True:
            drawn += 1
            scene = render_scene(drawn)
            if len(scene.classes) == 1 and (len(classes) < 2 or scene.classes[0] in classes):
                break
        classes |= set(scene.classes)
        image[there], truth[there] = scene.image, scene.truth
    return image, truth


def one_place(seed: int, count: int) -> Scene:
    """One place, ``count`` tiles a side."""
    scene = render_scene(seed, size=count * SIDE)
    return scene.image, scene.truth


def ways(model: SSR, image: HeldImage, ids: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    """Refined CAMs by name of the way in which they were made."""
    tiling = Tiling.of(image.size, SIDE, 0.25)

    def looks(photos: list[Tensor]) -> list[Look]:
        return model.looks(photos, ids)

    whole = looks([shrunk(image, SIDE)])[0].refined_cam
    found = tiled_look(image, tiling, ids, SIDE, looks).refined_cam
    grid = (found.shape[1], found.shape[2])
    far = map_window(whole, grid, (0, grid[0]), (0, grid[1]))
    yield "the whole, shrunk", whole
    tiles = [
        (i, j, looks([image.window(rows, columns)])[0])
        for i, rows in enumerate(tiling.rows)
        for j, columns in enumerate(tiling.columns)
    ]
    index = list(ids)
    strongest = torch.stack([look.evidence[index] for *_, look in tiles]).amax(0)

    def joined(weight: Callable[[int, int, Look], Tensor]) -> Tensor:
        parts = (
            (i, j, look.refined_cam * weight(i, j, look)[:, None, None]) for i, j, look in tiles
        )
        return joined_maps(parts, tiling.rows, tiling.columns, grid)

    def most_of_whole(i: int, j: int, _: Look) -> Tensor:
        spans = (tiling.rows[i], tiling.columns[j])
        cells = (slice(a * g // n, -(-b * g // n)) for (a, b), g, n in
                 zip(spans, grid, image.size, strict=True))  # fmt: skip
        return far[:, *cells].amax((1, 2))

    yield "tiles, each by itself", joined(lambda *_: torch.ones(len(ids)))
    yield "tiles by the whole's CAM there", joined(most_of_whole)
    yield "tiles by evidence", joined(lambda i, j, look: look.evidence[index] / strongest)
    yield "tiles and whole by evidence [0041]", found


def figures(cam: Tensor, truth: np.ndarray, ids: tuple[int, ...]) -> tuple[float, float]:
    """MIoU over background and classes, and the share of the background that is taken for one."""
    cam = functional.interpolate(cam[None], truth.shape, mode="bilinear")[0]
    best = torch.cat([1 - cam.amax(0, keepdim=True), cam]).argmax(0).numpy()
    mask = np.array([0, *(index + 1 for index in ids)])[best]
    pairs = [(mask == number, truth == number) for number in (0, *(index + 1 for index in ids))]
    iou = [(one & other).sum() / max(1, (one | other).sum()) for one, other in pairs]
    return 100 * float(np.mean(iou)), 100 * float((mask[truth == 0] != 0).mean())


def main() -> None:
    model = SSR.from_encoders(CLASSES, preset="demo", settings=["pseudo.refine=none"])
    kinds = (
        ("4 x 4 places, 8 scenes", many_places, 4, range(1, 9)),
        ("8 x 8 places, 3 scenes", many_places, 8, range(1, 4)),
        ("one place of 3 x 3 tiles, 16 scenes", one_place, 3, range(100, 116)),
        ("one place of 6 x 6 tiles, 4 scenes", one_place, 6, range(100, 104)),
    )
    for name, make, count, seeds in kinds:
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in seeds:
            image, truth = make(seed, count)
            ids = tuple(int(number) - 1 for number in np.unique(truth) if number)
            for way, cam in ways(model, HeldImage(torch.from_numpy(image)), ids):
                found.setdefault(way, []).append(figures(cam, truth, ids))
        print(name)
        for way, pairs in found.items():
            miou, false = np.mean(pairs, 0)
            print(f"  {way:36}  mIoU {miou:5.1f}  background taken for a class {false:5.1f} %")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
