"""seeds, table and ablate from the command line, on miniature data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command import exit_code
from make_tiny import tiny_coco, tiny_voc
from tiny_encoders import tiny_config

from ssrseg.prepare.coco import prepare_coco

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; exit code, standard output, standard error."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = exit_code(*arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return command


@pytest.fixture(scope="module")
def world(
    clip_dir: Path, dino_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[object, ...]]:
    """A folder with data, and the options that make every command small."""
    root = tmp_path_factory.mktemp("world")
    tiny_voc(root / "voc", n=4, classes=("cat", "red car"))
    prepare_coco(tiny_coco(root / "coco"))
    config = tiny_config(
        clip_dir, dino_dir, "optim.cmpa_iterations=2", "optim.iterations=1", "optim.warmup=1"
    )
    (root / "tiny.yaml").write_text(config.to_yaml(), encoding="utf-8")
    options = ("--config", root / "tiny.yaml", "--device", "cpu")
    splits = ("--train-split", "train", "--out", root / "exp", "--cache", root / "cache")
    return root, ("--data", root / "voc", *splits, *options)


@pytest.mark.parametrize("number", range(1, 7))
def test_every_table(number: int, world: tuple[Path, tuple[object, ...]], run: Run) -> None:
    root, options = world
    coco = ("--coco", root / "coco", "--coco-set", "optim.iterations=1") if number == 1 else ()
    command = ("table", number, *options, "--seeds", 1, *coco)
    code, shown, err = run(*command)
    assert code == 0, err
    assert f"Table {number}" in shown
    assert "not measured" not in shown.lower()
    assert re.search(r"^[1-9]\d* figures? to measure", shown, flags=re.MULTILINE) or number == 5
    table = json.loads((root / "exp" / f"table-{number}.json").read_text())
    ours = [row for row in table["rows"] if "measured" in row]
    assert ours and all(row["measured"] and row["classes"] for row in ours)
    code, again, _ = run(*command)
    assert code == 0
    assert again.startswith("0 figures to measure, 0 runs to train")
    assert again[again.index(f"Table {number}") :] == shown[shown.index(f"Table {number}") :]


def test_coco_has_its_own_settings(
    world: tuple[Path, tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    root, options = world
    out = ("--out", tmp_path)  # the last one wins
    coco = ("--coco", root / "coco", "--coco-set", "optim.iterations=1")
    rows = ("--rows", "decoder + CRF", "--seeds", 1)
    options = tuple(word for word in options if word not in ("--out", root / "exp"))
    code, shown, err = run("table", 1, *options, *out, *coco, *rows)
    assert code == 0, err
    (voc,) = tmp_path.glob("results/*.json")
    (other,) = tmp_path.glob("coco/results/*.json")
    settings = json.loads(other.read_text())["settings"]
    assert (settings["prompts"]["set"], settings["sgc"]["high"]) == ("coco", 0.7)
    assert json.loads(voc.read_text())["settings"]["prompts"]["set"] == "voc"
    assert "not measured" in shown  # the rows that were not asked for
    assert re.search(r"Not measured: `ssrseg table 1 .*` would", shown)
    assert "--rows" not in shown


def test_a_list_that_nobody_typed_is_explained(
    world: tuple[Path, tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    data = tmp_path / "photos"
    shutil.copytree(world[0] / "voc", data)
    shutil.rmtree(data / "ImageSets")
    names = sorted(path.name for path in (data / "JPEGImages").iterdir())
    rows = "".join(f"JPEGImages/{name},cat\n" for name in names)
    (data / "labels.csv").write_text("image,labels\n" + rows)
    command = ("table", 3, "--data", data, "--out", tmp_path / "out")
    code, _, err = run(*command)
    assert code == 2
    assert f"{data} has no list train_aug.txt for --train-split." in err
    assert "Give --train-split one of: all (" in err
    code, _, err = run(*command, "--train-split", "all")
    assert code == 2 and "no list train.txt for --seed-split" in err
    (data / "train.txt").write_text("nobody\n")  # a faulty list is another fault
    code, _, err = run(*command, "--train-split", "all")
    assert code == 2 and 'no image "nobody"' in err


def test_collecting_measures_nothing(
    world: tuple[Path, tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    root, options = world
    options = tuple(word for word in options if word not in ("--out", root / "exp"))
    code, shown, err = run("table", 3, *options, "--out", tmp_path, "--collect")
    assert code == 0, err
    assert shown.count("not measured") > 20
    assert "63.3" in shown and "78.7" in shown
    assert "--collect" not in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table-3.json", "table-3.md"]


def test_a_preset_without_cmpa_shows_what_cmpa_would_do(
    world: tuple[Path, tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    root, options = world
    options = tuple(word for word in options if word not in ("--out", root / "exp"))
    rows = ("--rows", "+ SGC", "--rows", "CLIP CAM", "--set", "cam.mode=clip", "--seeds", 1)
    code, _, err = run("table", 2, *options, "--out", tmp_path, *rows)
    assert code == 0, err
    settings = {
        record["row"]: record["settings"]["cam"]["mode"]
        for record in (json.loads(path.read_text()) for path in tmp_path.glob("results/*.json"))
    }
    assert settings == {"+ SGC": "cmpa", "CLIP CAM, CLIP attention, box": "clip"}


def test_an_ablation_of_sgc_trains_once(
    world: tuple[Path, tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    root, options = world
    options = tuple(word for word in options if word not in ("--out", root / "exp"))
    command = ("ablate", "sgc.high=0.2,0.6", "sgc.axis=col,both", *options, "--out", tmp_path)
    code, shown, err = run(*command, "--seeds", 2)
    assert code == 0, err
    assert shown.startswith("8 figures to measure, 2 runs to train")
    runs = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("runs/*/*"))
    assert runs == ["runs/ssr-heads/seed-0", "runs/ssr-heads/seed-1"]
    lines = [line for line in shown.splitlines() if line.startswith("sgc.high=")]
    assert [line.split("  ")[1] for line in lines] == ["sgc.axis=col", "sgc.axis=both"] * 2
    assert all(re.search(r"\d ± \d+\.\d", line) for line in lines)
    assert (tmp_path / "ablate-sgc.high-sgc.axis-seeds.md").is_file()


@pytest.mark.parametrize("measure", ["masks", "segmentation"])
def test_other_measures(
    measure: str, world: tuple[Path, tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    root, options = world
    options = tuple(word for word in options if word not in ("--out", root / "exp"))
    command = ("ablate", "pseudo.alpha=1,3", *options, "--out", tmp_path, "--seeds", 1)
    code, shown, err = run(*command, "--measure", measure)
    assert code == 0, err
    trained = {"masks": 1, "segmentation": 2}[measure]
    assert shown.startswith(f"2 figures to measure, {trained} run")
    code, shown, err = run(*command, "--measure", "seeds")
    assert code == 2
    assert "measure the same thing" in " ".join(err.split())


def test_seeds_of_a_run(world: tuple[Path, tuple[object, ...]], run: Run, tmp_path: Path) -> None:
    root, options = world
    trained = ("--rows", "the preset's own", "--seeds", 1)
    assert run("table", 3, *options, *trained)[0] == 0
    (model,) = root.glob("exp/runs/ssr*/seed-0")
    split = ("--data", root / "voc", "--split", "train", "--device", "cpu")
    extra = ("--par", "--crf", "--per-class", "--json", tmp_path / "seeds.json")
    code, shown, err = run("seeds", *split, "--model", model, *extra)
    assert code == 0, err
    assert all(name in shown for name in ("initial CAM", "refined CAM", "+ PAR", "+ CRF"))
    found = json.loads((tmp_path / "seeds.json").read_text())["seeds"]
    assert found["+ CRF"]["alpha"] == found["refined CAM"]["alpha"]
    assert set(found["initial CAM"]["by_alpha"]) > set(found["refined CAM"]["by_alpha"])
    record = next(
        json.loads(path.read_text()) for path in root.glob("exp/results/the-preset-s-own*.json")
    )
    assert found["refined CAM"]["miou"] == record["figures"]["miou"]
    assert found["refined CAM"]["classes"]["cat"]["images"] == record["classes"]["cat"]["images"]
    free = ("--config", root / "tiny.yaml", "--exponents", "wide", "--json", tmp_path / "free.json")
    code, shown, err = run("seeds", *split, *free)
    assert code == 0, err
    other = json.loads((tmp_path / "free.json").read_text())["seeds"]
    assert len(other["refined CAM"]["by_alpha"]) == 12
    assert other["initial CAM"]["miou"] != found["initial CAM"]["miou"]
    code, _, err = run("seeds", *split, "--model", model, "--set", "cam.mode=clip")
    assert code == 2
    assert "Leave the model (--model) away" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("table", 3, "--rows", "nothing like it"), "no row has this in its name"),
        (("ablate", "sgc.hihg=1,2"), 'Did you mean "sgc.high"?'),
        (("ablate", "sgc.high=7"), "less than or equal to 1"),
        (("ablate",), "Name a setting with its values"),
        (("table", 5, "--val-split", "nowhere"), "no list nowhere.txt for --val-split"),
    ],
    ids=str,
)
def test_faults(
    arguments: tuple[object, ...],
    words: str,
    world: tuple[Path, tuple[object, ...]],
    run: Run,
    tmp_path: Path,
) -> None:
    root, options = world
    options = tuple(word for word in options if word not in ("--out", root / "exp"))
    code, _, err = run(*arguments, *options, "--out", tmp_path / "exp")
    assert code == 2
    assert words in " ".join(err.split())
    assert not (tmp_path / "exp").exists()
