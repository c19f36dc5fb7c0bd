"""The page: read back with an HTML parser, as a browser would."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

import matplotlib.colors
import numpy as np
import pytest
from pages import Page
from PIL import Image

from ssrseg.errors import OutputError
from ssrseg.report.page import (
    INK,
    SERIES,
    Bar,
    BarChart,
    Chart,
    Curve,
    Picture,
    PictureRow,
    Report,
    ReportTable,
    Section,
    TableRow,
    draw,
    plain_text,
    svg,
    write_page,
)

NAN = float("nan")
TABLE = ReportTable(
    "Steps",
    ("step", "mIoU %"),
    (
        TableRow("CLIP CAM", ("48.6 ± 0.4",)),
        TableRow("untrained", ("9.0",), kind="control", note="no training"),
    ),
    "Of three seeds.",
)


def smooth(side: int) -> np.ndarray:
    """No noise, which WebP would not keep."""
    rows, columns = np.mgrid[:side, : side + 8]
    ramps = np.stack([rows, columns, side - rows], -1)
    return (ramps * 255 / ramps.max()).astype(np.uint8)


def chart(*curves: Curve) -> Chart:
    return Chart("Loss", "iteration", "loss", curves)


def report(*sections: Section, title: str = "Demo") -> Report:
    return Report(title, "What it shows.", (("seeds", "3"), ("scenes", "100")), sections)


BARS = BarChart(
    "Steps",
    "mIoU in %",
    (
        Bar("first", (50.0, 52.0), "CAM"),
        Bar("decoder", (60.0, 64.0), "decoder"),
        Bar("second", (54.0, 58.0), "CAM"),
    ),
)


def full_report() -> Report:
    rows = (
        PictureRow("cow, dog", (Picture("image", smooth(40)), Picture("CAM, cow", smooth(128)))),
    )
    curves = (Curve("a", (0.0, 10.0), (0.0, 1.0)), Curve("b", (0.0, 5.0), (1.0, NAN)))
    terms = (("CAM", "where a class is."), ("PAR", "moves borders."))
    return report(
        Section("Figures", "One.\n\nTwo, see https://arxiv.org/abs/2512.01701.", tables=(TABLE,)),
        Section("Curves", charts=(chart(*curves), BARS), terms=terms),
        Section("Scenes", rows=rows, legend=(("cow", (64, 128, 0)), ("undecided", None))),
        Section("Controls", "Three.", folded=True),
    )


def test_embedded_pictures_are_the_pictures(tmp_path: Path) -> None:
    write_page(full_report(), tmp_path / "new" / "page.html")
    page = Page(tmp_path / "new" / "page.html")
    images = page.named("img")[:-1]  # the last one enlarges the others
    assert [image["alt"] for image in images] == ["cow, dog: image", "cow, dog: CAM, cow"]
    for attributes, original in zip(images, (smooth(40), smooth(128)), strict=True):
        kind, _, data = str(attributes["src"]).partition(",")
        assert kind == "data:image/webp;base64"
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
        assert np.abs(decoded.astype(int) - original).mean() < 2
        assert (attributes["height"], attributes["width"]) == tuple(map(str, original.shape[:2]))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_every_picture_is_a_button_that_enlarges_it(tmp_path: Path) -> None:
    write_page(full_report(), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    buttons = [each for each in page.named("button") if each.get("class") == "enlarge"]
    assert len(buttons) == 2 and len(page.named("dialog")) == 1
    assert [each.get("data-step") for each in page.named("button")[2:]] == ["-1", None, "1"]
    # the policy lets this script run, and no other
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (each["content"] for each in page.named("meta") if "http-equiv" in each)
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
        f" script-src 'sha256-{digest}'"
    )


def test_facts_paragraphs_tables_and_legends_are_there(tmp_path: Path) -> None:
    write_page(full_report(), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert not page.open
    assert page.text("h1") == ["Demo"] and page.text("h2") == ["Figures", "Curves", "Scenes"]
    assert page.text("summary") == ["Controls"]
    assert list(zip(page.text("dt"), page.text("dd"), strict=True)) == [
        ("CAM", "where a class is."),
        ("PAR", "moves borders."),
        ("seeds", "3"),
        ("scenes", "100"),
    ]
    assert page.text("p") == [
        "What it shows.",
        "One.",
        "Two, see",
        ".",
        "Of three seeds.",
        "Three.",
    ]
    assert page.text("a") == ["https://arxiv.org/abs/2512.01701"]
    assert page.text("th") == ["step", "mIoU %", "CLIP CAM", "untrained"]
    assert page.text("td") == ["48.6 ± 0.4", "9.0"]
    assert page.text("span") == ["control"] and page.text("small") == ["no training"]
    assert [row.get("class") for row in page.named("tr")] == [None, "method", "control"]
    assert page.text("li") == ["a", "b", "cow", "undecided"]
    assert page.named("i")[-2]["style"] == "background: rgb(64, 128, 0)"
    assert page.named("i")[-1]["class"] == "undecided"


def test_nothing_is_loaded_from_outside(tmp_path: Path) -> None:
    write_page(full_report(), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert not {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base", "source"}
    for tag, attributes in page.elements:
        for name in {"src", "href", "srcset", "xlink:href", "data", "action"} & set(attributes):
            if tag == "a":
                assert attributes[name] == "https://arxiv.org/abs/2512.01701"
            else:
                assert str(attributes[name]).startswith(("data:", "#"))
    style = "".join(page.text("style"))
    assert "url(" not in style and "@import" not in style
    assert all(each.get("src") is None for each in page.named("script"))


def test_ids_are_unique_on_the_page(tmp_path: Path) -> None:
    write_page(full_report(), tmp_path / "page.html")
    ids = [each["id"] for _, each in Page(tmp_path / "page.html").elements if "id" in each]
    assert len(ids) == len(set(ids))


def test_controls_are_shown_as_what_they_are(tmp_path: Path) -> None:
    evil = "a\x1b[2J\u202eb\udcff"
    table = ReportTable(evil, (evil, evil), (TableRow(evil, (evil,), note=evil),), evil)
    section = Section(evil, evil, terms=((evil, evil),), tables=(table,))
    write_page(Report(evil, evil, ((evil, evil),), (section,)), tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert source.count(r"a\x1b[2J\u202eb\udcff") > 10
    assert not set(source) & set("\x1b\u202e\udcff")


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    evil = '<class> "&'
    section = Section(
        evil, evil, ((evil, (1, 2, 3)),),
        (PictureRow(evil, (Picture(evil, smooth(40)),)),),
        (
            Chart(evil, evil, evil, (Curve(evil, (0.0, 1.0), (0.0, 1.0)),)),
            BarChart(evil, evil, (Bar(evil, (1.0,), evil),)),
        ),
        ((evil, evil),),
        (ReportTable(evil, (evil, evil), (TableRow(evil, (evil,), note=evil),), evil),),
    )  # fmt: skip
    write_page(Report(evil, evil, ((evil, evil),), (section,)), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "<class>" not in page.source
    assert not page.named("class")
    assert page.text("h1") == page.text("h2") == page.text("td") == [evil]
    assert page.text("dt") == page.text("dd") == [evil, evil]
    assert page.text("th") == [evil, evil, evil] and page.text("small") == [evil]
    assert page.text("text").count(evil) == 5  # two axes, one axis, a group and a bar
    assert page.named("img")[0]["alt"] == f"{evil}: {evil}"


def test_curves_are_drawn_as_given() -> None:
    lines = (Curve("a", (0.0, 5.0, 10.0), (0.0, 0.5, 1.0)), Curve("b", (0.0, 10.0), (3.0, -2.0)))
    (axes,) = draw(chart(*lines)).axes
    for line, curve, colour in zip(axes.lines, lines, SERIES, strict=False):
        assert line.get_xydata().tolist() == [list(xy) for xy in zip(curve.x, curve.y, strict=True)]
        assert line.get_color() == colour
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iteration", "loss")


def test_points_that_are_not_finite_leave_a_gap() -> None:
    y = (NAN, 1.0, 2.0, NAN, 3.0, float("inf"), 2.0, 1.0)
    drawn = chart(Curve("b", tuple(map(float, range(8))), y))
    (axes,) = draw(drawn).axes
    assert axes.lines[0].get_markevery() == [4]  # the one point without a neighbour
    low, high = axes.get_ylim()
    assert 0 < low < 1 and 3 < high < 4
    (path,) = re.findall(rf'<path d="([^"]*)"[^>]*stroke: {re.escape("var(--c0)")}', svg(drawn))
    assert re.findall("[ML]", path) == ["M", "L", "M", "M", "L"]
    assert not re.search(r"\b(nan|inf)\b", svg(drawn))


@pytest.mark.parametrize("values", [(), (NAN,), (0.0,), (2.5, 2.5), (1e-7, 3e-7), (-4e6, 3e6)])
def test_every_range_has_axes(values: tuple[float, ...]) -> None:
    figure = draw(chart(Curve("a", tuple(map(float, range(len(values)))), values)))
    figure.draw_without_rendering()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        assert 2 <= len(labels) == len(set(labels))


def test_bars_are_as_long_as_their_means_and_stand_in_groups() -> None:
    (axes,) = draw(BARS).axes
    assert [bar.get_width() for bar in axes.patches] == [51.0, 56.0, 62.0]
    tops = [bar.get_y() for bar in axes.patches]
    assert tops == sorted(tops)
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [SERIES[0], SERIES[0], SERIES[1]]
    assert [list(line.get_xdata()) for line in axes.lines] == [[50, 52], [54, 58], [60, 64]]
    assert [text.get_text() for text in axes.texts] == [
        *("CAM", "first", "51.0", "second", "56.0"),
        *("decoder", "decoder", "62.0"),
    ]
    assert axes.get_xlim()[0] == 0
    (single,) = draw(BarChart("t", "x", (Bar("a", (3.0,), "g"),))).axes
    assert not single.lines  # one value needs no dot


def test_charts_take_the_colours_and_the_font_of_the_page(tmp_path: Path) -> None:
    drawn = svg(BARS)
    assert drawn.startswith("<svg ") and "#" not in re.sub(r'"#|url\(#', "", drawn)
    assert {"var(--ink)", "var(--quiet)", "var(--line)", "var(--c0)", "var(--c1)"} == set(
        re.findall(r"var\(--\w+\)", drawn)
    )
    write_page(full_report(), tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    for index, colour in enumerate(SERIES):
        assert f"--c{index}: {colour}" in source  # by day the page looks as drawn
    assert f"--ink: {INK}" in source


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
    with pytest.raises(OutputError, match="no space"):
        write_page(full_report(), page)
    assert page.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_eight_scenes_of_eight_pictures_stay_small(tmp_path: Path) -> None:
    # Pure noise would not compress at all and no photograph is that: a ramp with grain of 2 levels.
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 512)[:, None, None] + np.array([0, 20, 40])
    image = (ramp + rng.normal(0, 2, (512, 512, 3))).clip(0, 255).astype(np.uint8)
    rows = 8 * (PictureRow("scene", 8 * (Picture("step", image),)),)
    write_page(report(Section("Scenes", rows=rows)), tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


def test_printed_tables_are_aligned() -> None:
    assert plain_text(TABLE).split("\n") == [
        "Steps",
        "-------------------------------",
        "step                     mIoU %",
        "CLIP CAM             48.6 ± 0.4",
        "untrained (control)         9.0  no training",
    ]


def test_rows_fit_the_columns_and_curves_have_as_many_x_as_y() -> None:
    with pytest.raises(ValueError, match='"row" has 2 cells under 1 columns'):
        ReportTable("t", ("name", "value"), (TableRow("row", ("1", "2")),))
    with pytest.raises(ValueError, match="2 x for 1 y"):
        Curve("c", (0.0, 1.0), (0.0,))
