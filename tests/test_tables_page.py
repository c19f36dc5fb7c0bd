"""docs/tables.md: its commands parse, and its figures are those of the paper."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ssrseg.cli import app
from ssrseg.config import load_config
from ssrseg.paper.gates import GATES
from ssrseg.paper.published import PAPER
from ssrseg.paper.variations import combinations

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tables.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [
    *re.findall(r"^ssrseg .+$", TEXT, flags=re.MULTILINE),
    *re.findall(r"`(ssrseg \w+ [^`\n]*--[^`\n]+)`", TEXT),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    function, bound, *_ = app.parse_args(
        shlex.split(command)[1:], exit_on_error=False, print_error=False
    )
    assert function.__name__ == command.split()[1]
    setup = bound.arguments.get("setup")
    load_config(overrides=setup.method.overrides if setup else ())
    for overrides in combinations(bound.arguments.get("variations", ())):
        load_config(overrides=overrides)


def test_every_table_has_its_command() -> None:
    numbers = [int(number) for number in re.findall(r"`ssrseg table (\d) --data VOC", TEXT)]
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert {command.split()[1] for command in COMMANDS} >= {"table", "ablate", "archive", "demo"}


def test_expected_figures_are_those_of_the_paper() -> None:
    rows = {
        line.split("|")[1].strip(): line.split("|")[2].strip()
        for line in TEXT.split("## Expected")[1].splitlines()
        if line.startswith("| ")
    }
    for each in PAPER[3].rows:
        name = "CMPA CAM" if each.name == "CMPA" else each.name
        assert rows[name] == str(each.cells[-1])
    losses = [str(each.cells[0]) for each in PAPER[4].rows]
    assert rows["G2: CLIP CAM"] == losses[0]
    gates = {
        line.split("|")[1].split(":")[0].strip(): line.split("|")[3].strip()
        for line in TEXT.split("## Expected")[1].splitlines()
        if line.startswith("| G")
    }
    for gate in GATES:
        assert gate.expected.endswith(gates[gate.name].removesuffix(" or more")), gate.name
    assert rows["L_feature / L_in_modal / L_crossmodal by GradCAM"] == " / ".join(losses[1:])
    clip_es = next(each for each in PAPER[2].rows if each.name == "CLIP-ES")
    assert rows["G1: CLIP CAM, CLIP attention, box (CLIP-ES)"] == str(clip_es.cells[-1])
    plain, crf = PAPER[1].rows[-2:]
    assert rows["SSR, VOC val without / with CRF"] == f"{plain.cells[0]} / {crf.cells[0]}"
    assert rows["SSR, COCO val without / with CRF"] == f"{plain.cells[2]} / {crf.cells[2]}"
    assert rows["share of full supervision"] == f"{PAPER[6].rows[-1].cells[1]} %"
