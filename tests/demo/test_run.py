"""The demo end to end, with a handful of scenes and iterations."""

from __future__ import annotations

import csv
import html
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from ssrseg.config import Config
from ssrseg.data.open import open_labelled
from ssrseg.demo import run
from ssrseg.demo.photographs import read_credits
from ssrseg.demo.rows import GROUPS, SHORT


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, run.DemoResult]]:
    """A short run; its settings stay in force, because others would be measured anew."""
    out = tmp_path_factory.mktemp("demo")
    whole = run.demo_config

    def short(seed: int, *overrides: str) -> Config:
        small = ("optim.cmpa_iterations=3", "optim.batch=2", "pseudo.par_iterations=1")
        few = () if "optim.iterations=0" in overrides else ("optim.iterations=2",)
        return whole(seed, *small, *few, *overrides)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "demo_config", short)
        patch.setattr(run, "TRAIN_SCENES", 10)
        patch.setattr(run, "QUICK_SCENES", 4)
        patch.setattr(run, "VAL_SCENES", 6)
        yield out, run.run_demo(str(out))


def test_every_row_of_every_table_has_a_figure(result: tuple[Path, run.DemoResult]) -> None:
    out, found = result
    rows = {name for group in GROUPS.values() for name in group}
    assert set(found.figures) == rows
    assert all(0 <= value <= 100 for values in found.figures.values() for value in values)
    with (out / "figures.csv").open(newline="", encoding="utf-8") as file:
        written = {each["row"]: each for each in csv.DictReader(file)}
    assert {row: float(each["0"]) for row, each in written.items()} == pytest.approx(
        {row: values[0] for row, values in found.figures.items()}, abs=5e-4
    )
    assert all(each["miou_mean"] == each["0"] and not each["miou_sd"] for each in written.values())


def test_it_says_first_what_it_will_do(
    result: tuple[Path, run.DemoResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, found = result
    monkeypatch.setattr(run, "photograph_sections", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.run_demo(tmp_path)
    said = capsys.readouterr().err
    assert said.startswith("Note: the demo makes masks of a few photographs, draws 16 scenes, tr")
    assert f"scores {len(found.figures)} rows" in said


def test_the_terminal_shows_a_few_rows_and_where_the_others_are(
    result: tuple[Path, run.DemoResult],
) -> None:
    out, found = result
    lines = found.table.splitlines()
    assert len(lines) == 11
    for name, line in zip(SHORT, lines[3:], strict=False):
        assert line.split() == [*name.split(), f"{found.figures[name][0]:.1f}"]
    assert lines[-1] == f"All {len(found.figures)} rows: {out / 'figures.csv'}"


def test_the_report_shows_every_step(result: tuple[Path, run.DemoResult]) -> None:
    _, found = result
    text = found.page.read_text(encoding="utf-8")
    scenes, photographs = 6, 14
    assert text.count("data:image/webp;base64,") == 8 * scenes + 4 * photographs
    assert 'src="http' not in text
    assert text.count("<svg ") == 2  # the steps, the loss
    assert text.index("<img") < text.index("<svg ") < text.index("<table>")
    folded = html.unescape(text[text.index("Controls: what") :])
    assert all(name in folded for name in GROUPS["controls"])


def test_the_report_shows_photographs_and_whose_they_are(
    result: tuple[Path, run.DemoResult],
) -> None:
    out, found = result
    text = html.unescape(found.page.read_text(encoding="utf-8"))
    assert len(list((out / "photographs" / "masks").glob("*.png"))) == 14
    for owner in read_credits().values():
        credit = f"{owner['title']}, {owner['author']}, {owner['licence']}"
        assert f"<figcaption>{credit}</figcaption>" in text
        assert f'<a href="{owner["source"]}"' in text
    shown, folded = text.split("<summary>More photographs, and whose they are</summary>")
    assert "<figcaption>CLIP's CAM: bee</figcaption>" in shown
    assert "<figcaption>CLIP's CAM: palace</figcaption>" in folded


def test_scenes_are_fresh_and_apart(result: tuple[Path, run.DemoResult]) -> None:
    out, _ = result
    scenes = out / "seed-0" / "scenes"
    train = {sample.name for sample in open_labelled(scenes, split="train").samples}
    unseen = {sample.name for sample in open_labelled(scenes, split="val").samples}
    assert (len(train), len(unseen), len(train & unseen)) == (10, 6, 0)


def test_cmpa_comes_first_then_the_decoder(result: tuple[Path, run.DemoResult]) -> None:
    out, _ = result
    with (out / "seed-0" / "ssr" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["seg"]) > 0 for row in rows] == [False] * 3 + [True] * 2
    assert [float(row["proto"]) > 0 for row in rows] == [True] * 3 + [False] * 2


def test_the_untrained_projector_is_clip_at_another_temperature(
    result: tuple[Path, run.DemoResult],
) -> None:
    _, found = result
    untrained = found.figures["untrained projector, gradcam"][0]
    assert untrained == pytest.approx(found.figures["CLIP CAM"][0], abs=3)


def test_a_finished_seed_is_not_run_again(
    result: tuple[Path, run.DemoResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, found = result

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("ssrseg.paper.run_experiments._run", refuse)
    before = (out / "seed-0" / "ssr" / "log.csv").stat().st_mtime_ns
    again = run.run_demo(str(out))
    assert again.figures == found.figures
    assert (out / "seed-0" / "ssr" / "log.csv").stat().st_mtime_ns == before
