"""Make the photographs of docs/tutorial.md, and the picture of its contact sheet.

    python docs/figures/tutorial.py photos                       # 60 photographs and tags.csv
    python docs/figures/tutorial.py labelstudio/sheet-01.jpg     # docs/figures/tutorial-sheet.jpg

The photographs are scenes of the demo, which its small encoders know, so that everything can be
repeated offline in minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from ssrseg.demo.scenes import render_scene

FIRST, COUNT = 3_000_000_000, 60
SLIPS = {4: ("Bird", "Brid"), 38: ("Boat", "Sheep")}
"""What was typed wrong, by number of the photograph: the class, and the word in its place."""


def make_photos(folder: Path) -> None:
    """Photographs in a folder, and the table of their tags as a spreadsheet saves it."""
    folder.mkdir(parents=True)
    lines = ["Filename;Tags"]
    number = seed = 0
    while number < COUNT:
        scene = render_scene(FIRST + seed, size=128)
        seed += 1
        if not scene.classes:
            continue
        name = f"IMG_{number:04d}.jpg"
        Image.fromarray(scene.image).save(folder / name, quality=95)
        tags = ", ".join(word.capitalize() for word in scene.classes)
        lines.append(f"{name};{tags.replace(*SLIPS.get(number, ('', '')))}")
        number += 1
    (folder / "tags.csv").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")


def shrink(sheet: Path) -> None:
    """The upper part of a contact sheet, as wide as a page."""
    with Image.open(sheet) as page:
        part = page.crop((0, 0, page.width, round(0.6 * page.height)))
    part.thumbnail((1200, 1200))
    part.save(Path(__file__).with_name("tutorial-sheet.jpg"), quality=80)


if __name__ == "__main__":
    given = Path(sys.argv[1])
    (shrink if given.suffix == ".jpg" else make_photos)(given)
