"""`ssrseg reproduce` whole, on miniature VOC and COCO trees with random encoders."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import exit_code
from make_tiny import tiny_coco, tiny_voc_sbd
from tiny_encoders import tiny_config

from ssrseg import training
from ssrseg.cli import reproduce as cli_reproduce
from ssrseg.paper import reproduce as paper_reproduce
from ssrseg.paper import run_experiments
from ssrseg.paper.claims import CLAIMS
from ssrseg.paper.studies import OWN
from ssrseg.paper.workspace import Task, Workspace

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``reproduce`` in this process; exit code, standard output, standard error."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = exit_code("reproduce", *arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return command


@pytest.fixture(scope="module")
def world(clip_dir: Path, dino_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC with SBD and COCO, none of them prepared, and settings that make everything small."""
    root = tmp_path_factory.mktemp("world")
    tiny_voc_sbd(root / "voc", root / "voc" / "SBD")
    tiny_coco(root / "coco")
    config = tiny_config(
        clip_dir, dino_dir, "optim.cmpa_iterations=2", "optim.iterations=1", "optim.warmup=1"
    )
    (root / "tiny.yaml").write_text(config.to_yaml(), encoding="utf-8")
    return root


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """No processes for a dozen masks, and no reports of the runs, which nothing here reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_reproduce, "processors", lambda: 1)
        patch.setattr(training, "write_run_report", lambda *_, **__: None)
        yield


def options(world: Path, out: Path) -> tuple[object, ...]:
    small = ("optim.iterations=1", "optim.batch=2", "data.crop=64", "optim.warmup=1")
    return (
        *("--voc", world / "voc", "--coco", world / "coco", "--out", out, "--device", "cpu"),
        *("--config", world / "tiny.yaml", "--coco-set", "optim.iterations=1"),
        *(word for each in small for word in ("--gate-set", each)),
    )


def contents(out: Path) -> dict[str, int]:
    """Every result, run and figure by its path, with the time it was written."""
    kept = [*out.rglob("results/*.json"), *out.rglob("model.safetensors"), *out.glob("figure-*")]
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in kept}


def table(page: str, title: str) -> dict[str, list[str]]:
    """Rows of a table of the page by their first cell, without Markdown's backslashes."""
    part = page.split(f"\n## {title}")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    rows = [
        [cell.strip() for cell in line.replace("\\", "").strip("| ").split("|")] for line in lines
    ]
    return {first.strip("*"): rest for first, *rest in rows[2:]}  # controls are in italics


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished reproduction with one seed, made in two calls: a gate stops the first."""
    out = tmp_path_factory.mktemp("whole") / "repro"
    words = options(world, out)
    assert exit_code("reproduce", *words, "--seeds", 1) == 1
    assert not (out / "runs").exists() and not (out / "results").exists()
    page = (out / "results.md").read_text(encoding="utf-8")
    gates = table(page, "Gates")
    assert [cells[4] for cells in gates.values()] == ["failed", "", ""]
    assert [cells[2] for cells in gates.values()][1:] == ["not measured"] * 2
    assert {cells[-1] for cells in table(page, "Claims").values()} == {"not measured"}
    assert exit_code("reproduce", *words, "--seeds", 1, "--past-gates") == 0
    return out


def test_settings_for_the_gates_win_over_what_they_share(clip_dir: Path, dino_dir: Path) -> None:
    ours = tiny_config(clip_dir, dino_dir, "data.workers=1", "affinity.power=3")
    given = cli_reproduce.Measuring(gate_set=("backbones.clip=other", "data.workers=2"))
    plain, changed = (each.gate("clip-es", ours) for each in (cli_reproduce.Measuring(), given))
    assert (plain.backbones.clip, plain.data.workers) == (str(clip_dir), 1)
    assert (changed.backbones.clip, changed.data.workers) == ("other", 2)
    assert {plain.backbones.dino, changed.backbones.dino} == {str(dino_dir)}
    assert plain.affinity.power == changed.affinity.power == 2  # CLIP-ES's own


def test_a_gate_that_fails_says_why(world: Path, run: Run, tmp_path: Path) -> None:
    code, shown, err = run(*options(world, tmp_path / "out"))
    assert code == 1, err
    lines = shown.splitlines()
    assert re.search(r"^1 +machine and encoders", shown, re.M)
    assert re.search(r"^ *ok +CLIP ", shown, re.M)
    (gate,) = (line for line in lines if line.startswith("Gate G2: ") and "FAILED" in line)
    assert re.fullmatch(r"Gate G2: \d+\.\d, expected 58\.6 ± 1\.5: FAILED\.", gate)
    after = lines[lines.index(gate) + 1 :]
    assert after[0] == "What is likely wrong, the likeliest first:"
    assert "of width 64: CLIP, 4 blocks" in after[1]
    assert "--past-gates" in after[-1]
    assert "Gate G1: 1" not in shown and not (tmp_path / "out" / "runs").exists()
    assert len(list((tmp_path / "out" / "gates" / "results").iterdir())) == 1  # kept


def test_the_page_holds_everything_against_the_paper(whole: Path) -> None:
    page = (whole / "results.md").read_text(encoding="utf-8")
    claims = table(page, "Claims of the paper")
    assert list(claims) == [claim.text for claim in CLAIMS]
    assert claims["CMPA lifts the initial CAM, read by GradCAM"][:2] == ["4", "+4.7"]
    words = {cells[-1] for text, cells in claims.items() if "confusions" not in text}
    assert words == {"one seed"}  # nothing of one seed is a verdict, and COCO is measured too

    def miou(row: str) -> float:
        (file,) = whole.glob(f"results/{row}-seed-*.json")
        return 100 * json.loads(file.read_text())["figures"]["miou"]

    gain = miou("l-crossmodal-gradcam") - miou("clip-cam")
    ours = claims["CMPA lifts the initial CAM, read by GradCAM"]
    assert ours[2] == f"{gain + 0.0:.1f}".replace("-0.0", "0.0")
    assert ours[3:6] == ["1", "", f"{gain - 4.7:+.1f}"]
    for number in range(1, 7):
        assert f"[table-{number}.md](table-{number}.md)" in page
        assert (whole / f"table-{number}.md").is_file()
    for number in (1, 3, 4, 5, 6):
        assert f"![Figure {number}](figure-{number}.png)" in page
        assert (whole / f"figure-{number}.png").is_file()
    assert "not measured" not in page.split("## Table 1")[1].lower()
    assert "**Gates G2, G1, G3 failed" in page
    assert "- command: `ssrseg reproduce --voc" in page
    assert "- seeds: 0" in page


def test_everything_is_prepared_and_measured_once(whole: Path, world: Path, run: Run) -> None:
    assert len(list((world / "voc" / "SegmentationClassAug").iterdir())) == 9
    before, page = contents(whole), (whole / "results.md").read_bytes()
    assert len(before) > 60
    code, shown, err = run(*options(world, whole), "--seeds", 1, "--past-gates")
    assert code == 0, err
    assert "Plan" not in shown and "to measure" not in shown
    assert contents(whole) == before
    again = (whole / "results.md").read_bytes()
    assert again == page


def test_a_figure_that_is_missing_at_the_end_is_no_success(
    whole: Path, world: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "repro"
    shutil.copytree(whole, out)
    next((out / "results").glob("*l-crossmodal-gradcam*.json")).unlink()
    monkeypatch.setattr(paper_reproduce, "_measure", lambda *_: None)
    code, shown, _ = run(*options(world, out), "--seeds", 1, "--past-gates")
    assert code == 1
    assert "1 figures are missing still. Give the same command again." in shown


def test_more_seeds_go_on_from_fewer(
    whole: Path, world: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "repro"))
    trained: list[str] = []
    train = run_experiments._train

    def counted(workspace: Workspace, task: Task) -> None:
        assert task.run is not None
        trained.append(task.run.relative_to(out).as_posix())
        if len(trained) == 3:
            raise KeyboardInterrupt
        train(workspace, task)

    monkeypatch.setattr(run_experiments, "_train", counted)
    words = (*options(world, out), "--seeds", 2, "--past-gates")
    before = contents(out)
    code, shown, err = run(*words)  # stopped in the middle of the second seed
    assert code == 130 and "The same command goes on" in err
    assert re.search(r"ssr on VOC, seed 1 +there", shown)
    assert re.search(r"ssr on VOC, seed 2 +\d+ figures to measure +about ", shown)
    assert "ssr on VOC, seed 2 of 2; left: about " in shown
    assert {path.rsplit("/", 1)[1] for path in trained} == {"seed-1"}
    done = trained[:2]
    code, shown, err = run(*words)
    assert code == 0, err
    assert not set(done) & set(trained[3:]) and trained[2] in trained[3:]
    assert len(set(trained)) == len(trained) - 1
    kept = contents(out)
    assert {path: kept[path] for path in before} == before
    claims = table((out / "results.md").read_text(encoding="utf-8"), "Claims of the paper")
    # a decoder of one iteration may find nothing, of which there is no share and no ratio
    for text in (
        "share of full supervision, %",
        "fewer confusions than WeCLIP, as printed (FP / TP)",
    ):
        del claims[text]
    assert all(cells[-1] in ("holds", "does not hold", "within noise") for cells in claims.values())
    assert re.fullmatch(r"-?\d+\.\d to -?\d+\.\d", claims["SGC lifts it further"][4])


def test_an_experimental_preset_stands_beside_the_other(
    whole: Path, world: Path, run: Run, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "repro"))
    before, words = contents(out), (*options(world, out), "--seeds", 1, "--past-gates")
    code, shown, err = run(*words, "--preset", "ssr-plus", "--plus-set", "affinity.mask=none")
    assert code == 0, err
    assert re.search(r"ssr on VOC, seed 1 +there", shown)
    assert re.search(r"ssr-plus on VOC, seed 1 +4 figures to measure", shown)  # one is there
    assert {path: contents(out)[path] for path in before} == before
    page = (out / "results.md").read_text(encoding="utf-8")
    rows = table(page, "ssr-plus beside ssr")
    assert list(rows) == [
        *(f"{row.name}, VOC" for row in OWN),
        *("decoder, COCO", "decoder + CRF, COCO"),
    ]
    unmasked = table(page, "Table 3")["the preset without a mask"]
    own = rows["the preset's own affinity and mask, VOC"]
    assert own[:2] == [table(page, "Table 3")["the preset's own affinity and mask"][5], unmasked[5]]
    assert float(own[2]) == pytest.approx(float(own[1]) - float(own[0]), abs=0.11)
    assert own[-1] == "one seed"
    claims = (whole / "results.md").read_text(encoding="utf-8")
    assert table(page, "Claims") == table(claims, "Claims")


def test_without_coco_its_claims_stay_open(whole: Path, world: Path, run: Run) -> None:
    words = list(options(world, whole))
    at = words.index("--coco")
    del words[at : at + 2]
    code, _, err = run(*words)
    assert code == 2 and "--coco-set is for COCO, which is not measured" in err
    at = words.index("--coco-set")
    del words[at : at + 2]
    code, _, err = run(*words, "--plus-set", "sgc.high=0.4")
    assert code == 2 and "--plus-set is for ssr-plus" in err
    code, _, err = run(*words, "--preset", "ssr-plus")  # the file has every setting
    assert code == 2 and "preset ssr-plus is ssr again" in err and "--plus-set" in err
    code, _, err = run(*words, "--seeds", 1, "--past-gates")
    assert code == 0, err
    page = (whole / "results.md").read_text(encoding="utf-8")
    claims = table(page, "Claims of the paper")
    open_ = [text for text, cells in claims.items() if cells[-1] == "not measured"]
    of_coco = {claim.text for claim in CLAIMS if claim.data == "coco"}
    assert of_coco <= set(open_) <= of_coco | {text for text in claims if "confusions" in text}
    assert "COCO is not measured without `--coco FOLDER`" in page


def test_data_that_lack_something_are_named_before_anything_is_computed(
    world: Path, run: Run, tmp_path: Path
) -> None:
    voc = Path(shutil.copytree(world / "voc", tmp_path / "voc"))
    shutil.rmtree(voc / "SBD")
    shutil.rmtree(voc / "SegmentationClassAug", ignore_errors=True)
    (voc / "ImageSets" / "Segmentation" / "train_aug.txt").unlink(missing_ok=True)
    words = list(options(world, tmp_path / "out"))
    words[words.index("--voc") + 1] = voc
    code, shown, err = run(*words)
    assert code == 1, err
    assert "benchmark.tgz (1.4 GB) from https://" in shown
    assert f"into {voc / 'downloads'} and run the same command again" in shown
    assert not (tmp_path / "out").exists()
    code, _, err = run("--voc", tmp_path / "gone", *words[2:])
    assert code == 2
    assert f"{tmp_path / 'gone'}: there is no such folder" in " ".join(err.split())
