"""Pictures in rows and columns."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ssrseg.errors import ConfigError, PackageError
from ssrseg.paper.drawing import (
    DPI,
    GAP,
    add_heat_bar,
    add_key,
    add_note,
    check_suffix,
    draw_grid,
    key_columns,
    save_figure,
)
from ssrseg.paper.embedding import import_tsne
from ssrseg.report.page import Picture, PictureRow


def picture(value: int, caption: str = "", shape: tuple[int, int] = (6, 8)) -> Picture:
    return Picture(caption, np.full((*shape, 3), value, np.uint8))


def grid(**options: object) -> Figure:
    rows = [
        PictureRow("first", (picture(10, "one\ntwo"), picture(20), picture(30))),
        PictureRow("second", (picture(40), picture(50), picture(60))),
    ]
    return draw_grid(("a", "b", "c\nd"), rows, (2.0, 1.0, 1.5), (1.5, 0.5), **options)  # type: ignore[arg-type]


def boxes(figure: Figure) -> dict[str, tuple[float, ...]]:
    """Left, bottom, width, height in inches."""
    wide, tall = figure.get_size_inches()
    found = {}
    for axes in figure.axes:
        left, bottom, width, height = axes.get_position(original=True).bounds
        found[str(axes.get_label())] = (left * wide, bottom * tall, width * wide, height * tall)
    return found


def test_every_picture_has_the_size_and_the_place_of_its_row_and_column() -> None:
    found = boxes(grid())
    assert set(found) == {f"{row}/{column}" for row in ("first", "second") for column in range(3)}
    for column, width in enumerate((2.0, 1.0, 1.5)):
        assert found[f"first/{column}"][2:] == pytest.approx((width, 1.5))
        assert found[f"second/{column}"][2:] == pytest.approx((width, 0.5))
        assert found[f"first/{column}"][0] == pytest.approx(found[f"second/{column}"][0])
    for row in ("first", "second"):
        lefts = [found[f"{row}/{column}"][0] for column in range(3)]
        assert lefts[1] - lefts[0] == pytest.approx(2.0 + GAP)
        assert lefts[2] - lefts[1] == pytest.approx(1.0 + GAP)
        assert len({round(found[f"{row}/{column}"][1], 6) for column in range(3)}) == 1
    assert found["first/0"][1] - (found["second/0"][1] + 0.5) > 2 * GAP  # two lines of caption


def test_pixels_are_those_of_the_pictures() -> None:
    shown = {axes.get_label(): axes.get_images()[0].get_array() for axes in grid().axes}
    for row, values in (("first", (10, 20, 30)), ("second", (40, 50, 60))):
        for column, value in enumerate(values):
            assert (np.asarray(shown[f"{row}/{column}"]) == value).all()


def test_a_part_begins_after_a_wider_gap_and_a_footer_lifts_everything() -> None:
    plain, parted, footed = boxes(grid()), boxes(grid(parted_before=2)), boxes(grid(footer=0.7))
    assert parted["first/1"][0] == pytest.approx(plain["first/1"][0])
    assert parted["first/2"][0] == pytest.approx(plain["first/2"][0] + 4 * GAP)
    assert footed["second/0"][1] == pytest.approx(plain["second/0"][1] + 0.7)


def test_nothing_leaves_the_figure() -> None:
    figure = grid(footer=0.5)
    add_key(figure, [(f"class {k}", (k, k, k)) for k in range(9)], bottom=0.2)
    add_heat_bar(figure)
    add_note(figure, "small print")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)  # places the key
    wide, tall = figure.get_size_inches() * DPI
    texts = [*figure.texts, *figure.legends[0].get_texts()]
    assert len(texts) >= 17
    for text in texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= -1 and box.x1 <= wide + 1 and box.y0 >= -1 and box.y1 <= tall + 1, text


def test_a_long_title_stays_in_its_row() -> None:
    rows = [PictureRow("a method with a very long name, w/o CRF", (picture(0),))] * 2
    figure = draw_grid(("",), rows, (1.0,), (1.0, 1.0))
    renderer = FigureCanvasAgg(figure).get_renderer()
    titles = [text for text in figure.texts if text.get_text().startswith("a method")]
    upper, lower = (title.get_window_extent(renderer) for title in titles)
    assert lower.y1 < upper.y0
    assert upper.height > 0.7 * DPI


def test_names_are_not_read_as_formulas() -> None:
    figure = draw_grid(("$x",), [PictureRow("a_$b$", (picture(0, "$\\bad{"),))], (1.0,), (1.0,))
    figure.draw_without_rendering()
    assert "$\\bad{" in [text.get_text() for text in figure.texts]


def test_a_key_has_every_name_as_it_is(tmp_path: Path) -> None:
    names = ("_hidden", "$x^$", "a\x1bb", "dog")
    figure = draw_grid(("",), [PictureRow("a\x1b", (picture(0, "b\u202e"),))], (3.0,), (1.0,))
    add_key(figure, [(name, (1, 2, 3)) for name in names])
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["_hidden", "$x^$", r"a\x1bb", "dog"]
    for suffix in (".png", ".svg", ".pdf"):
        save_figure(figure, tmp_path / f"a{suffix}")
    assert {r"a\x1b", r"b\u202e"} <= {text.get_text() for text in figure.texts}


def test_letters_that_the_font_lacks_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = draw_grid(("猫",), [PictureRow("a", (picture(0),))], (1.0,), (1.0,))
    save_figure(figure, tmp_path / "a.png")
    assert "boxes for letters" in capsys.readouterr().err


def test_a_key_uses_the_width() -> None:
    entries = [("cat", (0, 0, 0))] * 30
    assert key_columns(entries[:3], 7.0) == 3
    assert key_columns(entries, 7.0) == int(7.0 / (0.36 + 0.055 * 3))
    assert key_columns([("a" * 300, (0, 0, 0))] * 2, 7.0) == 1


def test_pictures_that_do_not_fit_the_headings() -> None:
    rows = [PictureRow("r", (picture(0), picture(1)))]
    with pytest.raises(ValueError, match='"r" has 2 pictures under 1 headings'):
        draw_grid(("a",), rows, (1.0,), (1.0,))
    with pytest.raises(ValueError, match="1 rows for 2 heights"):
        draw_grid(("a", "b"), rows, (1.0, 1.0), (1.0, 1.0))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".svg", ".pdf", ".PNG"])
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        path = tmp_path / name / f"figure{suffix}"
        check_suffix(path)
        save_figure(grid(), path)
    first, second = ((tmp_path / name / f"figure{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    if suffix == ".png":
        with Image.open(tmp_path / "a" / "figure.png") as image:
            assert image.size == (982, 551)  # 4.91 x 2.755 inches at 200 dots


def test_a_suffix_that_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"--out figure\.tif: .*\.png, \.jpg, \.svg, \.pdf"):
        check_suffix(Path("figure.tif"))


def test_a_package_that_is_missing_is_said_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawing() -> object:
        monkeypatch.delitem(sys.modules, "ssrseg.paper.drawing")
        return importlib.import_module("ssrseg.paper.drawing")

    for package, load in (("matplotlib", drawing), ("sklearn.manifold", import_tsne)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(PackageError, match=r'pip install "ssrseg\[figures\]"') as raised:
            load()
        assert package.split(".")[0] in str(raised.value)
