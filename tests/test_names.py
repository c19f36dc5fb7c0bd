"""Names of classes and files are data, wherever they are shown or written."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import exit_code
from PIL import Image
from test_console import plain
from tiny_encoders import tiny_config

from ssrseg import SSR
from ssrseg.results import SegmentedImage

CLASSES = ("dog[/b]", "=cmd()", "$x^$", "_a_", "<b>&")
FILES = ("im[b]age", "=a", "c[red]d", "e<i>f")
ODD = ("im\x1b[2Jage\r", "b\u202e", "d\u2028e", "f\ng")  # no list of labels takes these


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for folder in ("images", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    rows = ["image,labels"]
    noise = np.random.default_rng(0)
    for number, name in enumerate(FILES):
        Image.fromarray(noise.integers(0, 255, (48, 64, 3), np.uint8)).save(
            root / "images" / f"{name}.png"
        )
        truth = np.zeros((48, 64), np.uint8)
        truth[:20], truth[20:30] = number + 1, 5
        Image.fromarray(truth).save(root / "SegmentationClass" / f"{name}.png")
        rows.append(f'"images/{name}.png",{CLASSES[number]};{CLASSES[4]}')
    (root / "classes.txt").write_text("\n".join(CLASSES))
    (root / "labels.csv").write_text("\n".join(rows))
    return root


@pytest.mark.parametrize("in_a_terminal", [False, True])
def test_every_command_shows_names_as_what_is_in_them(
    data: Path,
    tmp_path: Path,
    clip_dir: Path,
    dino_dir: Path,
    in_a_terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if in_a_terminal:
        for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "250"), ("TERM", "xterm")):
            monkeypatch.setenv(name, value)
    config = tiny_config(clip_dir, dino_dir, "optim.cmpa_iterations=2", "optim.iterations=2")
    (tmp_path / "tiny.yaml").write_text(config.to_yaml(), encoding="utf-8")
    setup = ("--config", tmp_path / "tiny.yaml", "--device", "cpu")
    found, run = tmp_path / "found", tmp_path / "run"
    assert exit_code("masks", "--data", data, "--out", found, *setup) == 0
    assert exit_code("evaluate", "--masks", found, "--data", data) == 0
    shown = capfd.readouterr()
    for name in CLASSES:
        assert name in plain(shown.out)
    assert exit_code("train", "--data", data, "--out", run, *setup) == 0
    photos, predict = tmp_path / "photos", ("predict", "--model", run, "--device", "cpu")
    photos.mkdir()
    for name in ODD:
        shutil.copy(data / "images" / f"{FILES[0]}.png", photos / f"{name}.png")
    (photos / f"{ODD[0]} broken.jpg").write_bytes(b"nothing")
    assert exit_code(*predict, "--images", photos, "--out", tmp_path / "predicted") == 3
    assert len([*(tmp_path / "predicted" / "masks").iterdir()]) == len(ODD)
    assert exit_code("evaluate", "--masks", found, "--data", data / ODD[0]) == 2
    later = capfd.readouterr()
    text = shown.out + shown.err + later.out + later.err
    assert not set(plain(text)) & set("\x1b\u2028\u202e")
    assert "\x1b[2J" not in text
    assert "age\r" not in text.replace("\r\x1b[2K", "\n")  # a bar that is drawn again
    assert r"im\x1b[2Jage" in text
    rows = csv.reader(io.StringIO((found / "manifest.csv").read_text(encoding="utf-8")))
    for row in rows:
        for cell in row:
            assert not cell.startswith("=")
    SSR.from_pretrained(run).save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert r"| 5 | \<b\>\&" in card and r"| 4 | \_a\_" in card
    assert '1 = "dog[/b]", ...' in card


def test_a_notebook_shows_them_so() -> None:
    name = "<b>\x1b[2J\u202e"
    mask = np.ones((8, 8), np.uint8)
    found = SegmentedImage(
        np.zeros((8, 8, 3), np.uint8), (name,), mask, np.ones((8, 8), np.float32)
    )
    assert r"&lt;b&gt;\x1b[2J\u202e 100 %" in found._repr_html_()
    assert repr(found) == r"SegmentedImage(8 x 8, <b>\x1b[2J\u202e 100 %)"
