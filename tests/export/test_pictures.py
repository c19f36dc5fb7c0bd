from __future__ import annotations

from pathlib import Path

import numpy as np
from make_masks import PHOTOS, write_masks
from PIL import Image, ImageFont

from ssrseg.export.pictures import CELL, LARGEST, _fitting, _font
from ssrseg.export.run import export_masks
from ssrseg.overlay import mask_palette


def near(picture: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    return np.abs(picture.astype(int) - colour).max(-1) < 24


def test_overlays_are_the_photograph_with_a_legend(tmp_path: Path) -> None:
    write_masks(tmp_path)
    export_masks(tmp_path / "masks", out=tmp_path / "out", overlays=True)
    for file, (height, width) in PHOTOS.items():
        name = file.rpartition(".")[0]
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.jpg") as image:
            assert image.width == width and image.height >= height
            picture = np.asarray(image)
        if file == "empty.JPG":
            assert image.height - height < 10  # nothing to explain
            assert (np.ptp(picture[:height].astype(int), axis=-1) < 20).all()  # grey
        if file == "one class.jpeg":
            assert near(picture[height:], tuple(mask_palette()[2])).sum() > 100


def test_large_photographs_have_smaller_overlays(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (2600, 1300), "white").save(tmp_path / "photos" / "a.png")
    (tmp_path / "masks").mkdir()
    ids = np.zeros((1300, 2600), np.uint8)
    ids[:, 1300:] = 1
    Image.fromarray(ids).save(tmp_path / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("sea\n")
    out = tmp_path / "out"
    export_masks(tmp_path, out=out, images=tmp_path / "photos", overlays=True, sheet=True)
    with Image.open(out / "overlays" / "a.jpg") as image:
        assert image.width == LARGEST and 1000 <= image.height <= 1050
        picture = np.asarray(image)
    assert (picture[500, 100] > 240).all() and np.ptp(picture[500, 1500].astype(int)) > 100


def test_sheets_begin_with_the_lowest_score(tmp_path: Path) -> None:
    write_masks(tmp_path)
    photos = tmp_path / "photos" / "images"
    extra = 23  # two sheets
    for number in range(extra):
        Image.new("RGB", (64, 48), "white").save(photos / f"z{number:02}.png")
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(
            tmp_path / "masks" / "masks" / f"z{number:02}.png"
        )
    export_masks(tmp_path / "masks", out=tmp_path / "out", images=photos, sheet=True)
    sheets = sorted((tmp_path / "out").glob("*.jpg"))
    assert [each.name for each in sheets] == ["sheet-01.jpg", "sheet-02.jpg"]
    with Image.open(sheets[0]) as first, Image.open(sheets[1]) as second:
        assert first.width > 5 * CELL[0] and first.height > 5 * CELL[1]
        assert CELL[1] < second.height < 2 * CELL[1]
        picture = np.asarray(first)
    # the lowest score is that of undecided.png, the fifth lowest that of größe.png
    assert len(PHOTOS) + extra == 30
    assert (picture[-CELL[1] : -60, -CELL[0] + 20 : -20] > 240).all()  # one without a score
    assert not (picture[40 : 40 + CELL[1], 12 : 12 + CELL[0]] > 240).all()


def test_long_names_lose_their_middle() -> None:
    font = _font(13)
    assert isinstance(font, ImageFont.FreeTypeFont)
    text = "folder/" + "a" * 100 + "/end.png"
    short = _fitting(text, 200, font)
    assert font.getlength(short) <= 200 and "…" in short
    assert short.startswith("folder/") and short.endswith("end.png")
    assert _fitting("name", 200, font) == "name"
