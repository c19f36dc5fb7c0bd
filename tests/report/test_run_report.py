"""Pages of runs: training, and masks and predictions as their commands leave them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_tiny import tiny_voc
from pages import Page, pictures
from tiny_encoders import tiny_config

from ssrseg.config import Config
from ssrseg.data.open import open_labelled
from ssrseg.prediction import predict
from ssrseg.pseudo_masks import make_masks
from ssrseg.report.run import training_charts
from ssrseg.training import train
from ssrseg.training_log import FIELDS

SHORT = (
    "optim.cmpa_iterations=4", "optim.iterations=3", "optim.save_every=2", "optim.features=online",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(clip_dir: Path, dino_dir: Path) -> Config:
    return tiny_config(clip_dir, dino_dir, *SHORT)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_voc(tmp_path_factory.mktemp("data") / "voc", n=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, voc: Path, tiny: Config) -> Path:
    """A finished run whose monitor is three images."""
    data = open_labelled(voc)
    out = tmp_path_factory.mktemp("runs") / "my run"
    train(data, out, tiny, monitor=replace(data, samples=data.samples[:3]))
    return out


def facts(page: Page) -> dict[str, str]:
    return dict(zip(page.text("dt"), page.text("dd"), strict=True))


def test_a_run_leaves_its_curves_and_a_few_photographs(run: Path) -> None:
    page = Page(run / "report.html")
    said = facts(page)
    assert said["images"] == "8 images"
    assert said["learned from"] == "image-level labels"
    assert said["iterations"] == "7 (CMPA 4, decoder 3)"
    assert re.fullmatch(r"7 iterations in \d+\.\d minutes", said["last call"])
    assert "optim.iterations = 3" in said["settings"]
    captions = [text for tag, text in page.texts if tag == "figcaption"]
    assert captions == [
        "Loss", "Learning rate", "How well the prototypes' clusters agree with the classes",
        "Temperature of CMPA", "Monitored pseudo masks against true masks",
    ]  # fmt: skip
    # of eight images six, first those with a class that was not seen before
    cards = [each["data-name"] for each in page.named("article")]
    assert len(cards) == 6 and set(cards[:3]) == {f"2007_{i:06d}" for i in range(3)}
    layers = [each["class"] for each in page.named("img")]
    assert layers[:5] == ["l0", "l1", "l2", "l3", "l4"]
    buttons = [each for each in page.text("button") if each]
    assert buttons[:5] == ["photograph", "CAM", "refined CAM", "pseudo mask", "prediction"]
    assert pictures(page.source)[0].shape == (61, 75, 4)  # of the first photograph
    assert "ssrseg predict --model &#39;my run&#39; --images FOLDER" in page.source
    table = dict(zip(page.text("th")[2:], page.text("td"), strict=True))
    assert {name: int(n) for name, n in table.items() if n != "0"} == {
        "bird": 3 + 2, "cat": 3, "dog": 2,
    }  # fmt: skip


def test_full_supervision_and_a_stop(tmp_path: Path, voc: Path, tiny: Config) -> None:
    out = tmp_path / "run"
    train(voc, out, tiny, supervision="full", stop_after=2)
    page = Page(out / "report.html")
    assert facts(page)["learned from"] == "true masks (the control)"
    assert not page.named("article")  # not finished: nothing to look at but the curves
    train(voc, out, tiny, supervision="full")
    page = Page(out / "report.html")
    assert facts(page)["last call"].startswith("1 iteration in ")
    assert [each["class"] for each in page.named("img")] == ["l0", "l1"] * 6


def test_masks_and_predictions_leave_a_page(
    tmp_path: Path, voc: Path, run: Path, tiny: Config
) -> None:
    data = open_labelled(voc)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 nothing")
    samples = (*data.samples, replace(data.samples[0], name="broken", image=broken))
    made = make_masks(replace(data, samples=samples), tmp_path / "masks", tiny, model=run)
    page = Page(made.out / "report.html")
    said = facts(page)
    assert said["images"] == "8, 1 more could not be used"
    assert "broken.jpg" in said["broken"]
    assert re.fullmatch(r"8 masks made in \d+ s, 0 were there already", said["last call"])
    assert {each["data-name"] for each in page.named("article")} == {
        sample.name for sample in data.samples
    }
    scores = [float(each) for each in re.findall(r"score (\d\.\d\d)", page.source)]
    assert len(scores) == 8 and scores == sorted(scores)
    layers = [each["class"] for each in page.named("img")]
    assert (layers.count("l0"), layers.count("l3")) == (8, 8)
    labels = sum(len(sample.labels) for sample in data.samples)
    assert layers.count("l1") == layers.count("l2") == labels

    found = predict(voc / "JPEGImages", tmp_path / "found", run)
    page = Page(found.out / "report.html")
    assert "test.crf = False" in facts(page)["settings"]
    assert facts(page)["model"] == said["model"] and len(said["model"]) == 16
    assert [each["class"] for each in page.named("img")] == ["l0", "l1"] * 8
    quiet = predict(voc / "JPEGImages", tmp_path / "quiet", run, report=False)
    assert not (quiet.out / "report.html").exists()


def write_log(path: Path, rows: int) -> Path:
    lines = [",".join(FIELDS)]
    for number in range(1, rows + 1):
        align = number <= rows // 2
        values = (number, 1, 2.0 * align, 4.0 * (not align), math.nan, 0.5, number / 100, math.nan)
        lines.append(",".join(f"{value:.9g}" for value in values))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_curves_show_a_loss_where_it_is_active(tmp_path: Path) -> None:
    charts = training_charts(write_log(tmp_path / "log.csv", 20))
    assert [chart.title for chart in charts] == [
        "Loss", "Learning rate", "How well the prototypes' clusters agree with the classes",
    ]  # fmt: skip
    proto, seg = charts[0].curves
    assert proto.x == tuple(map(float, range(1, 11))) and set(proto.y) == {2.0}
    assert seg.x == tuple(map(float, range(11, 21))) and set(seg.y) == {4.0}
    # of a long run, means of neighbours
    (rate,) = training_charts(write_log(tmp_path / "log.csv", 3000))[1].curves
    assert len(rate.x) == 300
    np.testing.assert_allclose(rate.x, np.arange(300) * 10 + 5.5)
    np.testing.assert_allclose(rate.y, np.array(rate.x) / 100)
    assert training_charts(tmp_path / "none.csv") == ()
