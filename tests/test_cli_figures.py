"""`ssrseg figure` as a user types it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command import exit_code
from make_tiny import tiny_coco, tiny_folder, tiny_voc
from tiny_encoders import tiny_config

import ssrseg
import ssrseg.paper.figures
from ssrseg.cli import app
from ssrseg.config import known_keys
from ssrseg.prepare.coco import prepare_coco

assert ssrseg.paper.figures  # imported once, so that a test may hide what it needs


@pytest.fixture(scope="module")
def options(clip_dir: Path, dino_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Data and settings that make every figure small."""
    folder = tmp_path_factory.mktemp("figure")
    config = tiny_config(clip_dir, dino_dir)
    (folder / "tiny.yaml").write_text(config.to_yaml(), encoding="utf-8")
    data = tiny_voc(folder / "voc", n=3, classes=("cat", "dog", "red car"))
    return ["--data", str(data), "--config", str(folder / "tiny.yaml"), "--device", "cpu"]


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capfd.readouterr()
    code = exit_code("figure", *arguments)
    out, err = capfd.readouterr()
    return code, out, " ".join(err.split())


def test_a_picture_its_numbers_and_the_command_that_made_them(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "with blank" / "f5.png"
    given = [5, *options, "--out", out, "--images", "2007_000002:red car,2007_000000"]
    code, said, err = run(capfd, *given, "--set", "sgc.high=0.6", "--set", "affinity.mask=box")
    assert code == 0, err
    saved = json.loads(out.with_suffix(".json").read_text())
    assert [row["class"] for row in saved["rows"]] == ["red car", "cat"]
    assert saved["made"][0]["config"]["sgc"]["high"] == 0.6
    assert "2007_000002, red car, SSR: own class 0." in said
    assert said.rstrip().endswith(f"Its numbers: {out.with_suffix('.json')}")
    command = shlex.split(saved["made"][0]["command"])
    assert command[:3] == ["ssrseg", "figure", "5"]
    first = out.read_bytes(), out.with_suffix(".json").read_bytes()
    code, _, err = run(capfd, *command[2:])  # the command makes the same again
    assert code == 0, err
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == first


def test_the_help_knows_which_figure_needs_what(capfd: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capfd, "--help")
    assert code == 0
    text = " ".join(said.replace("│", " ").split())
    assert "Figures 3, 4 and 6 need one" in text
    assert "Figure 3 ─" in text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["4", "--out", "f.png"], "Figure 4 holds CMPA's CAM beside CLIP's: give --model RUN"),
        (["5", "--out", "f.gif"], "--out f.gif: a figure is written as one of .png"),
        (["5", "--out", "f.png", "--row", "a=b"], "--row belongs to Figure 3"),
        (["6", "--out", "f.png", "--data2", "x"], "--data2 belongs to Figure 3"),
        (["3", "--out", "f.png", "--split2", "val"], "--data2, which is missing"),
        (["5", "--out", "f.png", "--images", "x:dog:"], 'no image "x:dog" among the 3'),
        (["5", "--out", "f.png", "--split", "test"], 'split "test" is unknown'),
    ],
)
def test_what_is_refused(
    options: list[str],
    given: list[str],
    said: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capfd, *given, *options)
    assert (code, out) == (2, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_figure_2_is_a_drawing(options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, 2, *options, "--out", "f.png")
    assert code == 2
    assert "Choose from: 1, 3, 4, 5, 6" in err


def test_without_matplotlib(
    options: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in ("figures", "drawing"):
        monkeypatch.delitem(sys.modules, f"ssrseg.paper.{module}", raising=False)
    code, _, err = run(capfd, 5, *options, "--out", "f.png")
    assert code == 2
    assert 'pip install "ssrseg[figures]"' in err


def test_the_run_brings_its_settings(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train = ["train", *options, "--out", str(tmp_path / "run")]
    train += ["--set", "optim.cmpa_iterations=2", "--set", "optim.iterations=1"]
    assert exit_code(*train, "--set", "sgc.high=0.55") == 0
    data, own = options[:2], tmp_path / "f.png"
    code, said, err = run(
        capfd, 6, *data, "--model", tmp_path / "run", "--out", own, "--device", "cpu"
    )
    assert code == 0, err
    assert "untrained projector: silhouette" in said
    saved = json.loads(own.with_suffix(".json").read_text())
    assert saved["made"][0]["config"]["sgc"]["high"] == 0.55


def test_figure_3_of_voc_and_coco(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    coco, settings = tmp_path / "coco", options[2:]
    prepare_coco(tiny_coco(coco))
    short = ("--set", "optim.cmpa_iterations=1", "--set", "optim.iterations=1")
    sets = {"voc": options[:2], "coco": ["--data", str(coco)]}
    for name, data in sets.items():
        given = ["--split", "train", "--out", str(tmp_path / f"run-{name}"), *settings]
        assert exit_code("train", *data, *given, *short, "--prompts", name) == 0
    # its row holds the true masks of COCO, and nothing of VOC's
    code, _, err = run(
        *(capfd, 3, *sets["voc"], "--split", "val", "--model", tmp_path / "run-voc"),
        *("--data2", coco, "--split2", "val", "--model2", tmp_path / "run-coco"),
        *("--row", f"truth={coco / 'SegmentationClass'}", "--out", tmp_path / "f.png"),
        *settings[-2:],
    )
    assert code == 0, err
    columns = json.loads((tmp_path / "f.json").read_text())["columns"]
    on_coco = [each for each in columns if each["image"].startswith("val2014/COCO_val2014_")]
    assert len(on_coco) == 2 and len(columns) > 2
    assert all(each["miou"]["truth"] == 1.0 for each in on_coco)
    assert all("truth" not in each["miou"] for each in columns if each not in on_coco)


def test_data_with_labels_csv(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tiny_folder(tmp_path / "own", n=4)
    code, _, err = run(capfd, 5, "--data", own, *options[2:], "--out", tmp_path / "f.png")
    assert code == 0, err
    code, _, err = run(capfd, 1, "--data", own, *options[2:], "--out", tmp_path / "g.png")
    assert code == 2 and "has a true mask" in err


PAGE = Path(__file__).resolve().parents[1] / "docs" / "figures.md"
COMMANDS = re.findall(r"^ssrseg figure .*$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page_parse(command: str) -> None:
    function, bound, *_ = app.parse_args(
        shlex.split(command)[1:], exit_on_error=False, print_error=False
    )
    assert function.__name__ == "figure"
    assert bound.arguments["out"].name == f"figure-{bound.args[0]}.png"


def test_the_page_has_every_figure_and_its_links_lead_somewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert {command.split()[2] for command in COMMANDS} == set("13456")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert {f"figures/figure-{n}.jpg" for n in "13456"} | {"figures/method.svg"} <= set(links)
    for link in links:
        assert (PAGE.parent / link).is_file(), link


def test_the_drawing_names_functions_that_exist() -> None:
    drawing = ElementTree.parse(PAGE.parent / "figures" / "method.svg").getroot()
    written = ["".join(each.itertext()) for each in drawing.iter() if each.get("class") == "code"]
    names = set(re.findall(r"[A-Za-z_]+(?:\.[A-Za-z_]+)?", " ".join(written))) - {"Eq"}
    sources = {
        path.stem: path.read_text(encoding="utf-8")
        for folder in ("method", "networks", ".")
        for path in (Path(ssrseg.__file__).parent / folder).glob("*.py")
    }
    text = "".join(sources.values())
    assert len(names) >= 18
    for name in names - set(known_keys()):
        owner, _, member = name.rpartition(".")
        assert re.search(rf"\b{member}\b", sources.get(owner, text)), name


def test_the_python_of_the_page_runs(
    clip_dir: Path, dino_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    data = ssrseg.open_labelled(tiny_voc(tmp_path / "VOC2012"), split="train")
    short = ("optim.cmpa_iterations=2", "optim.iterations=1", "optim.warmup=1")
    ssrseg.train(data, tmp_path / "run", tiny_config(clip_dir, dino_dir, *short))
    names: dict[str, object] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    assert names["numbers"]["spaces"].keys() == {"CLIP", "CMPA", "untrained projector"}  # type: ignore[index]
    assert (tmp_path / "figure-6.png").is_file()
