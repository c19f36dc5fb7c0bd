"""docs/baselines.md: its settings are those of the presets, and its commands run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from command import exit_code
from make_tiny import tiny_voc

from ssrseg.cli import app
from ssrseg.config import load_config

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
LINES = [line for language, body in FENCES if not language for line in body.splitlines()]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.split("## Settings")[1].split("### COCO")[0].splitlines()
    if re.match(r"\| .*`\w+\.\w+`", line)
]
TINY = (
    "data.crop=64", "data.scale=[0.75, 1.5]", "optim.iterations=2", "decoder.layers=1",
    "affinity.clip_layers=-3", "pseudo.par_iterations=1", "test.long_side=64",
)  # fmt: skip


def value(preset: str, key: str) -> object:
    section, name = key.split(".")
    return load_config(preset).to_dict()[section][name]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_the_presets_have_these_settings(row: list[str]) -> None:
    key = row[1].strip("`")
    for preset, cell in (("clip-es", row[2]), ("weclip", row[3])):
        if cell != "-":
            assert value(preset, key) == yaml.safe_load(cell), preset


def test_every_setting_of_the_presets_is_on_the_page() -> None:
    shown = {row[1].strip("`") for row in ROWS}
    for preset in ("clip-es", "weclip"):
        text = (ROOT / "src" / "ssrseg" / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
        keys = {
            f"{section}.{key}" for section, table in yaml.safe_load(text).items() for key in table
        }
        # of one row with another setting, or the only value that there is
        others = {"data.flip", "affinity.kind", "sgc.axis", "decoder.dropout"}
        others |= {"test.flip", "test.crf", "test.crf_iterations"}
        assert keys - others <= shown, preset


def test_the_lines_for_coco() -> None:
    lines = dict(line.split(":", 1) for line in LINES if "coco" in line)
    found = {}
    for preset, options in lines.items():
        words = shlex.split(options)
        assert words[:2] == ["--prompts", "coco-clip-es"]
        found[preset] = load_config(preset, overrides=words[3::2])
    assert found["clip-es"].sgc.high == found["weclip"].sgc.high == 0.7
    affinity = found["weclip"].affinity
    assert (affinity.rfm_after, affinity.rfm_layers) == (40000, -10)
    assert found["weclip"].optim.iterations == 80000


@pytest.fixture
def voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tiny_voc(tmp_path / "VOC2012", n=4)
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train_aug.txt").write_text((lists / "train.txt").read_text())
    monkeypatch.chdir(tmp_path)
    return root


def test_the_commands_run_one_after_the_other(
    voc: Path, clip_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran, printed = [], []
    for line in LINES:
        if "coco" in line:
            continue
        if not line.startswith("ssrseg"):
            subprocess.run(["bash", "-c", line], check=True)
            continue
        words = shlex.split(line)[1:]
        app.parse_args(words, exit_on_error=False, print_error=False)
        if words[0] in ("masks", "train") or "--preset" in words:
            words += ["--clip", str(clip_dir), "--device", "cpu"]
            words += [word for setting in TINY for word in ("--set", setting)]
        assert exit_code(*words) == 0, line
        ran.append(words[0])
        printed.append(capsys.readouterr().out)
    assert ran.count("train") == 2
    assert ran.count("evaluate") == 3
    scored = [text for verb, text in zip(ran, printed, strict=True) if verb == "seeds"]
    for text, rows in zip(
        scored, (("initial CAM", "refined CAM", "CRF"), ("refined CAM",)), strict=True
    ):
        assert all(row in text for row in rows)
    assert scored[0] != scored[1]
    assert (Path("G3-val") / "masks").is_dir()
    seen = {(path / "model.safetensors").read_bytes() for path in (Path("G3"), Path("weclip"))}
    assert len(seen) == 2
