"""``ssrseg check`` as a person sees it: text, exit code, what is written and what is not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import exit_code
from make_tiny import tiny_folder
from tiny_encoders import tiny_config

from ssrseg.data.open import open_labelled
from ssrseg.networks import frozen


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "photos")


@pytest.fixture
def settings(tmp_path: Path, clip_dir: Path, dino_dir: Path) -> tuple[str, ...]:
    file = tmp_path / "settings.yaml"
    file.write_text(tiny_config(clip_dir, dino_dir).to_yaml(), encoding="utf-8")
    return ("--config", str(file))


def test_sound_data(photos: Path, settings: tuple[str, ...]) -> None:
    there = sorted(photos.rglob("*"))
    # a process of its own: memory is that of the process, and other tests leave some in this one
    command = [sys.executable, "-m", "ssrseg", "check", str(photos), *settings]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert sorted(photos.rglob("*")) == there  # nothing is written
    data = open_labelled(photos)
    first = f"{photos}: labels.csv; {len(data)} images, {len(data.classes)} classes"
    assert out.splitlines()[0] == first
    for name in data.classes:
        assert re.search(rf"^{name} +\d+ +\d+ %", out, flags=re.MULTILINE)
    assert "Background words: " in out
    assert re.search(r"^ssrseg masks +\d+ s +[\d.]+ [MG]B +[\d.]+ [kM]B", out, flags=re.MULTILINE)
    assert re.search(r"^ssrseg train +\d+ s +[\d.]+ [MG]B +", out, flags=re.MULTILINE)
    assert "12 iterations of 2 crops" in out
    assert len(out.splitlines()) < 45


def test_a_problem_is_the_exit_code(
    photos: Path, settings: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = open_labelled(photos).samples[0].image
    broken.write_bytes(broken.read_bytes()[:60])
    assert exit_code("check", photos, *settings) == 1
    out = capsys.readouterr().out
    assert re.search(r"^problem +images", out, flags=re.MULTILINE)
    assert broken.name in out
    assert "ssrseg train" in out  # of the others


def test_without_encoders_all_else_is_reported(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("check must not ask the hub")

    monkeypatch.setattr(frozen, "model_info", no_network)
    encoders = ("--clip", "somebody/no-such-clip", "--dino", "somebody/no-such-dino")
    assert exit_code("check", photos, *encoders) == 0
    out = capsys.readouterr().out
    assert "somebody/no-such-clip and somebody/no-such-dino not on this disk" in out
    assert "can be used" in out and "What it will take" not in out


def test_the_clean_form_reads_as_the_same(
    photos: Path, settings: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_labelled(photos)
    (photos / "labels.csv").rename(photos / "tags.csv")
    written = photos / "labels.csv"
    command = ("check", photos / "tags.csv", *settings, "--write", written)
    assert exit_code(*command) == 0
    assert f"Written: {written}, and {photos / 'classes.yaml'}" in capsys.readouterr().out
    again = open_labelled(photos)
    assert again.classes == data.classes
    assert [(each.name, each.labels) for each in again.samples] == [
        (each.name, each.labels) for each in data.samples
    ]
    assert "ground" in again.background and again.prompts.keys() == set(data.classes)
    # a second time nothing is replaced
    listed = photos / "classes.yaml"
    listed.write_text(listed.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    before = [file.read_bytes() for file in (written, listed)]
    assert exit_code(*command) == 2
    assert "is there already, and --write replaces nothing" in capsys.readouterr().err
    assert [file.read_bytes() for file in (written, listed)] == before


def test_no_second_list_of_classes(
    photos: Path, settings: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    classes = open_labelled(photos).classes
    (photos / "labels.csv").rename(photos / "tags.csv")
    (photos / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    command = ("check", photos / "tags.csv", *settings, "--write", photos / "labels.csv")
    assert exit_code(*command) == 2
    assert "would be a second list" in " ".join(capsys.readouterr().err.split())
    assert not (photos / "labels.csv").exists()
