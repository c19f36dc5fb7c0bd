"""docs/datasets.md: its commands parse, and its numbers are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ssrseg.cli import app
from ssrseg.config import load_config
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.data.coco import IMAGE_FOLDERS
from ssrseg.data.open import open_labelled
from ssrseg.prepare import coco as prepare_coco
from ssrseg.prepare import voc as prepare_voc
from ssrseg.prepare.archives import COCO_ANNOTATIONS, COCO_IMAGES, SBD, VOC_TRAINVAL
from ssrseg.prepare.sbd import SBD_FOLDERS
from ssrseg.prepare.voc_server import INSIDE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "datasets.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ssrseg .+$", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    function, bound, *_ = app.parse_args(
        shlex.split(command)[1:], exit_on_error=False, print_error=False
    )
    assert function.__name__ == command.split()[1]
    setup = bound.arguments.get("setup")
    load_config(overrides=setup.method.overrides if setup else ())


def test_every_verb_of_a_data_set_is_shown() -> None:
    assert {command.split()[1] for command in COMMANDS} == {
        *("prepare", "train", "predict", "evaluate", "archive"),
    }


def test_numbers_are_those_of_the_code() -> None:
    for name, count in prepare_voc.PUBLISHED.items():
        assert f"| `{name}` | {count:,} |" in TEXT
    for name, (shown, listed) in prepare_coco.PUBLISHED.items():
        assert f"| `{name}` | {shown:,} | {listed:,} |" in TEXT
    assert f"| VOC 2012 | {VOC_TRAINVAL.size / 1e9:.1f} GB |" in TEXT
    assert f"| SBD | {SBD.size / 1e9:.1f} GB |" in TEXT
    coco = [COCO_ANNOTATIONS, *COCO_IMAGES.values()]
    assert f"| COCO 2014 | {sum(archive.size for archive in coco) / 1e9:.1f} GB |" in TEXT
    voc = (VOC_TRAINVAL.size + SBD.size) / 1e9
    options = {
        each.name: each
        for each in app["prepare"].assemble_argument_collection(parse_docstring=True)
    }
    assert f"VOC {voc:.1f} GB" in str(options["--download"].parameter.help)


def test_label_files_on_the_page_are_read(tmp_path: Path) -> None:
    """Each example by itself, under the name before it."""
    examples = re.findall(r"^`([\w.-]+)`\n\n```\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) == 8
    for name, text in examples:
        root = tmp_path / name.replace(".", "-")
        (root / "images").mkdir(parents=True)
        (root / "labels").mkdir()
        for image in ("a", "b"):
            (root / f"images/{image}.jpg").touch()
        (root / "labels/a.txt").write_text("0 .5 .5 .1 .1\n1 .5 .5 .2 .2\n")
        (root / "labels/b.txt").touch()
        (root / name).write_text(text)
        data = open_labelled(root)
        shown = {sample.name: sample.labels for sample in data.samples}
        assert data.classes == ("cat", "dog")
        assert shown in ({"a": (0, 1), "b": ()}, {"a": (0, 1)}), name


def test_vocs_classes_are_printed_in_their_order() -> None:
    assert "\n```\n" + "\n".join(VOC_CLASSES) + "\n```\n" in TEXT


def test_places_are_those_of_the_code() -> None:
    for folder in IMAGE_FOLDERS:
        assert f"`{folder.format('train')}`" in TEXT
    for home in SBD_FOLDERS[:2]:
        assert f"`{home}`" in TEXT
    assert f"`{INSIDE}/<id>.png`" in TEXT


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#\s]+)\)", TEXT):
        assert (PAGE.parent / link).is_file(), link
