"""The page: read back with an HTML parser, as a browser would."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssrseg.paper.page import (
    BOTTOM,
    LEFT,
    PLOT_HEIGHT,
    PLOT_WIDTH,
    RIGHT,
    TOP,
    Chart,
    Curve,
    Picture,
    PictureRow,
    Report,
    ReportTable,
    Section,
    TableRow,
    draw,
    print_table,
    write_page,
)

NAN = float("nan")
LOWEST, RIGHTMOST = PLOT_HEIGHT - BOTTOM, PLOT_WIDTH - RIGHT
VOID = {"meta", "link", "img", "br"}
TABLE = ReportTable(
    "Steps",
    ("step", "mIoU %"),
    (
        TableRow("CLIP CAM", ("48.6 ± 0.4",)),
        TableRow("untrained", ("9.0",), kind="control", note="no training"),
    ),
    "Of three seeds.",
)


class Page(HTMLParser):
    """Elements in order as (tag, attributes, path of open tags), and the text of each path."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag]


def picture(seed: int, side: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)


def chart(*curves: Curve) -> Chart:
    return Chart("Loss", "iteration", "loss", curves)


def report(*sections: Section, title: str = "Demo") -> Report:
    return Report(title, "What it shows.", (("seeds", "3"), ("scenes", "100")), sections)


def full_report() -> Report:
    rows = (
        PictureRow(
            "cow, dog", (Picture("image", picture(0)), Picture("CAM, cow", picture(1, 128)))
        ),
    )
    curves = (Curve("a", (0.0, 10.0), (0.0, 1.0)), Curve("b", (0.0, 5.0), (1.0, NAN)))
    return report(
        Section("Figures", "One.\n\nTwo, see https://arxiv.org/abs/2512.01701.", (TABLE,)),
        Section("Curves", "", charts=(chart(*curves),)),
        Section("Scenes", "", rows=rows, legend=(("cow", (64, 128, 0)),)),
    )


def test_embedded_pictures_are_the_pictures(tmp_path: Path) -> None:
    write_page(full_report(), tmp_path / "new" / "page.html")
    images = Page(tmp_path / "new" / "page.html").named("img")
    assert [image["alt"] for image in images] == ["cow, dog: image", "cow, dog: CAM, cow"]
    assert [image.get("class") for image in images] == ["tiny", None]
    for attributes, original in zip(images, (picture(0), picture(1, 128)), strict=True):
        kind, _, data = str(attributes["src"]).partition(",")
        assert kind == "data:image/png;base64"
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
        assert (decoded == original).all()
        assert (attributes["height"], attributes["width"]) == tuple(map(str, original.shape[:2]))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_facts_paragraphs_tables_and_legends_are_there(tmp_path: Path) -> None:
    write_page(full_report(), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert not page.open
    assert page.text("h1") == ["Demo"] and page.text("h2") == ["Figures", "Curves", "Scenes"]
    assert list(zip(page.text("dt"), page.text("dd"), strict=True)) == [
        ("seeds", "3"),
        ("scenes", "100"),
    ]
    assert page.text("p")[1:3] == ["One.", "Two, see https://arxiv.org/abs/2512.01701."]
    assert page.text("p")[3] == "Of three seeds."
    assert page.text("th") == ["step", "mIoU %", "CLIP CAM", "untrained"]
    assert page.text("td") == ["48.6 ± 0.4", "9.0"]
    assert page.text("span") == ["control"] and page.text("small") == ["no training"]
    assert [row.get("class") for row in page.named("tr")] == [None, "method", "control"]
    assert page.text("li") == ["a", "b", "cow"]
    assert page.named("i")[-1]["style"] == "background: rgb(64, 128, 0)"


def test_nothing_is_loaded_from_outside(tmp_path: Path) -> None:
    write_page(full_report(), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "a", "base", "use", "source"}
    for _, attributes in page.elements:
        for name in {"src", "href", "srcset", "xlink:href", "data", "action"} & set(attributes):
            assert str(attributes[name]).startswith("data:")
    style = "".join(page.text("style"))
    assert "url(" not in style and "@import" not in style
    assert re.findall(r"https?://[^\s<.]+\S*?(?=[.<\s]*<)", page.source) == [
        "https://arxiv.org/abs/2512.01701"
    ]


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    evil = '<class> "&'
    section = Section(
        evil, evil,
        (ReportTable(evil, (evil, evil), (TableRow(evil, (evil,), note=evil),), evil),),
        (Chart(evil, evil, evil, (Curve(evil, (0.0, 1.0), (0.0, 1.0)),)),),
        (PictureRow(evil, (Picture(evil, picture(0)),)),),
        ((evil, (1, 2, 3)),),
    )  # fmt: skip
    write_page(Report(evil, evil, ((evil, evil),), (section,)), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "<class>" not in page.source
    assert not page.named("class")
    assert page.text("h1") == page.text("h2") == page.text("dt") == page.text("td") == [evil]
    assert page.text("th") == [evil, evil, evil] and page.text("small") == [evil]
    assert page.named("img")[0]["alt"] == f"{evil}: {evil}"


def test_a_line_goes_from_corner_to_corner(tmp_path: Path) -> None:
    line = Curve("line", (0.0, 5.0, 10.0), (0.0, 0.5, 1.0))
    write_page(report(Section("Curves", "", charts=(chart(line),))), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    (polyline,) = page.named("polyline")
    middle = ((LEFT + RIGHTMOST) / 2, (TOP + LOWEST) / 2)
    corners = [(LEFT, LOWEST), middle, (RIGHTMOST, TOP)]
    points = [tuple(map(float, xy.split(","))) for xy in str(polyline["points"]).split()]
    assert points == [(round(x, 1), round(y, 1)) for x, y in corners]
    assert page.text("text") == [
        "0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "0", "2", "4", "6", "8", "10",
        "loss", "iteration",
    ]  # fmt: skip
    grid = [attributes for attributes in page.named("line") if attributes["class"] == "grid"]
    assert len(grid) == 6 and all(attributes["y1"] == attributes["y2"] for attributes in grid)


def test_points_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    broken = Curve(
        "b", tuple(map(float, range(8))), (NAN, 1.0, 2.0, NAN, 3.0, float("inf"), 2.0, 1.0)
    )
    (pieces,) = draw(chart(broken)).pieces
    assert [len(piece) for piece in pieces] == [2, 1, 2]
    write_page(report(Section("Curves", "", charts=(chart(broken),))), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert len(page.named("polyline")) == 2 and len(page.named("circle")) == 1
    assert not re.search(r"\b(nan|inf)\b", "".join(map(str, page.elements)))


def test_the_range_is_of_the_finite_points_of_all_curves() -> None:
    drawing = draw(
        chart(Curve("a", (0.0, 100.0), (3.0, NAN)), Curve("b", (20.0, 40.0), (-2.0, 1900.0)))
    )
    assert [label for _, label in drawing.y_ticks] == [
        "-500",
        "0",
        "500",
        "1,000",
        "1,500",
        "2,000",
    ]
    assert [label for _, label in drawing.x_ticks] == ["0", "10", "20", "30", "40"]
    assert drawing.y_ticks[0][0] == LOWEST and drawing.y_ticks[-1][0] == TOP
    assert drawing.x_ticks[-1][0] == RIGHTMOST


@pytest.mark.parametrize("values", [(), (NAN,), (0.0,), (2.5, 2.5), (1e-7, 3e-7), (-4e6, 3e6)])
def test_every_range_has_axes(values: tuple[float, ...]) -> None:
    drawing = draw(chart(Curve("a", tuple(map(float, range(len(values)))), values)))
    for ticks, low, high in (
        (drawing.x_ticks, LEFT, RIGHTMOST),
        (drawing.y_ticks, TOP, LOWEST),
    ):
        assert 2 <= len(ticks) <= 8
        assert len({label for _, label in ticks}) == len(ticks)
        assert all(low <= position <= high for position, _ in ticks)
    assert all(TOP <= y <= LOWEST for piece in drawing.pieces[0] for _, y in piece)


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        write_page(full_report(), tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_failed_page_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    page.write_text("old", encoding="utf-8")

    def full_disk(*args: object, **kwargs: object) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_page(full_report(), page)
    assert page.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_eight_scenes_of_seven_pictures_stay_small(tmp_path: Path) -> None:
    # Pure noise would not compress at all and no photograph is that: a ramp with grain of 2 levels.
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 128)[:, None, None] + np.array([0, 20, 40])
    noisy = [
        (ramp + rng.normal(0, 2, (128, 128, 3))).clip(0, 255).astype(np.uint8) for _ in range(56)
    ]
    rows = tuple(
        PictureRow("scene", tuple(Picture("step", image) for image in noisy[start : start + 7]))
        for start in range(0, 56, 7)
    )
    write_page(report(Section("Scenes", "", rows=rows)), tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


def test_printed_tables_are_aligned() -> None:
    assert print_table(TABLE).split("\n") == [
        "Steps",
        "-------------------------------",
        "step                     mIoU %",
        "-------------------------------",
        "CLIP CAM             48.6 ± 0.4",
        "untrained (control)         9.0  no training",
        "-------------------------------",
    ]


def test_rows_fit_the_columns_and_curves_have_as_many_x_as_y() -> None:
    with pytest.raises(ValueError, match='"row" has 2 cells under 1 columns'):
        ReportTable("t", ("name", "value"), (TableRow("row", ("1", "2")),))
    with pytest.raises(ValueError, match="2 x for 1 y"):
        Curve("c", (0.0, 1.0), (0.0,))
