"""The page of a reproduction: ours beside the paper's, claim by claim and table by table."""

from __future__ import annotations

import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch

from ssrseg.data.files import write_text
from ssrseg.errors import counted
from ssrseg.markdown import markdown_text
from ssrseg.paper.claims import CLAIMS, CONTROLS, RULE, Claim, Verdict, Word, gain, verdict
from ssrseg.paper.figures import Number
from ssrseg.paper.gates import GATES, GateResult, Name
from ssrseg.paper.published import PAPER
from ssrseg.paper.reproduction_figures import figure_name
from ssrseg.paper.results import NOT_MEASURED, Results, markdown_table, measured_with, spread
from ssrseg.paper.studies import OWN, Reproduction, Standing
from ssrseg.paper.tables import paper_table
from ssrseg.report.page import ReportTable, TableRow

PAGE = "results.md"

_GATES = (
    "Baselines with everything of SSR but CMPA and SGC: only where they stand can those be judged"
    " (docs/baselines.md)."
)
_CONTROLS = (
    "A gain of the paper counts only if it is one over rows that have no part of what is credited"
    " with it. These are ours, mIoU in %; the paper has none of them. VOC, by the same rule."
)
_BESIDE = (
    "Each as the preset stands, by the same rule: a gain is the second minus the first, seed by"
    " seed."
)

_WORDS: dict[Word, str] = {
    "holds": "hold",
    "does not hold": "do not hold",
    "within noise": "are within noise",
    "one seed": "have one seed only",
    "not measured": "are not measured",
}

Standings = Sequence[Standing]


def write_page(job: Reproduction, gates: Mapping[Name, GateResult], standings: Standings) -> Path:
    """Write Tables 1 to 6, and the page that holds everything together; returns the page."""
    voc, coco = _results(standings, job.preset.name, "VOC"), None
    if job.coco is not None:
        coco = _results(standings, job.preset.name, "COCO")
    verdicts = {
        claim: verdict(claim, results) if results else Verdict((), "not measured")
        for claim in CLAIMS
        for results in [voc if claim.data == "voc" else coco]
    }
    parts = [
        f"# Reproduction of SSR, preset {job.preset.name}",
        _summary(job, gates, standings, verdicts),
        _facts(job, gates, standings),
        "## Gates",
        _GATES,
        markdown_table(_gates(gates)),
        "## Claims of the paper",
        RULE,
        markdown_table(_claims(verdicts)),
    ]
    parts += ["## Controls", _CONTROLS, markdown_table(_controls(voc))]
    if job.beside is not None:
        parts += [f"## {job.beside.name} beside {job.preset.name}", _BESIDE]
        parts.append(markdown_table(_beside(job, standings)))
    for number in PAPER:
        table = paper_table(number, voc.results, coco.results if coco else None, job.command)
        file = table.write(job.out, f"table-{number}").name
        parts += [f"## {table.title}", markdown_table(table.tables[0])]
        parts.append(f"Notes, IoU by class and what made each row: [{file}]({file}).")
    drawn = [number for number in get_args(Number) if (job.out / figure_name(number)).is_file()]
    if drawn:
        parts.append("## Figures")
        parts += [f"![Figure {number}]({figure_name(number)})" for number in drawn]
    path = job.out / PAGE
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _results(standings: Standings, preset: str, data: str) -> Results:
    (found,) = (x.results for x in standings if (x.study.preset, x.study.data) == (preset, data))
    return found


def _summary(
    job: Reproduction,
    gates: Mapping[Name, GateResult],
    standings: Standings,
    verdicts: Mapping[Claim, Verdict],
) -> str:
    """How many claims hold, and what stands against believing it."""
    counts = Counter(each.word for each in verdicts.values())
    words = (f"{counts[word]} {said}" for word, said in _WORDS.items() if counts[word])
    lines = [f"Of {len(verdicts)} claims: {', '.join(words)}."]
    failed = [name for name, each in gates.items() if not each.passed]
    if failed:
        gate = f"Gate{'s' if failed[1:] else ''} {', '.join(failed)}"
        lines.append(
            f"**{gate} failed: the figures below cannot be held against the paper's before that is"
            " mended.**"
        )
    missing = sum(len(todo) for each in standings for todo in each.missing.values())
    if missing or len(gates) < len(GATES):
        lines.append(f"Not finished: {missing} figures are missing; the same command goes on.")
    if job.coco is None:
        lines.append("COCO is not measured without `--coco FOLDER`.")
    return " ".join(lines)


def _facts(job: Reproduction, gates: Mapping[Name, GateResult], standings: Standings) -> str:
    """Machine, data, encoders, code and command."""
    results = [each.result for each in gates.values()]
    results += [result for each in standings for result in each.results.results]
    where = f"CPU, {counted(torch.get_num_threads(), 'thread', 'threads')}"
    if job.device != "cpu":
        where = torch.cuda.get_device_name(job.device)
    machine = f"{where}; {platform.platform()}; torch {torch.__version__}"
    first = job.preset.voc.optim.seed
    seeds = ", ".join(str(first + number) for number in range(job.seeds))
    facts = [("machine", machine), *measured_with(results), ("seeds", seeds)]
    lines = [f"- {what}: {markdown_text(text)}" for what, text in facts]
    return "\n".join([*lines, f"- command: `{job.command}`"])


def _gates(gates: Mapping[Name, GateResult]) -> ReportTable:
    rows = []
    for gate in GATES:
        printed = gate.published.printed
        cells = [f"{printed:.1f}", gate.expected, NOT_MEASURED, "", ""]
        if found := gates.get(gate.name):
            word = "passed" if found.passed else "failed"
            cells[2:] = [f"{found.miou:.1f}", f"{found.miou - printed:+.1f}", word]
        rows.append(TableRow(f"{gate.name}: {gate.what}", (*cells, gate.reason)))
    columns = ("gate", "published", "expected", "ours", "difference", "verdict", "why so much")
    return ReportTable("Gates", columns, tuple(rows))


def _claims(verdicts: Mapping[Claim, Verdict]) -> ReportTable:
    rows = (TableRow(claim.text, _cells(claim, found)) for claim, found in verdicts.items())
    columns = ("claim", "table", "paper", "ours", "seeds", "95 %", "ours - paper", "verdict")
    return ReportTable("Claims", columns, tuple(rows))


def _cells(claim: Claim, found: Verdict) -> tuple[str, ...]:
    digits, sign = 3 if claim.lower_is_better else 1, "+" if claim.over else ""
    printed, gap = f"{claim.printed:{sign}.{digits}f}", ""
    if found.values:
        gap = f"{statistics.fmean(found.values) - claim.printed:+.{digits}f}"
    ours, interval = _measured(found, digits)
    seeds = str(len(found.values) or "")
    return str(claim.of.table), printed, ours, seeds, interval, gap, found.word


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no -0.0


def _measured(found: Verdict, digits: int = 1) -> tuple[str, str]:
    """Mean and deviation, and the interval."""
    interval = ""
    if found.interval and len(found.values) > 1:
        low, high = found.interval
        interval = f"{_number(low, digits)} to {_number(high, digits)}"
    return spread(found.values, digits) if found.values else "", interval


def _controls(results: Results) -> ReportTable:
    rows = []
    for each in CONTROLS:
        found = gain(each.of, results, each.over, results)
        cells = (each.of, each.over, results.cell(each.of), results.cell(each.over))
        rows.append(TableRow(each.text, (*cells, *_measured(found), found.word)))
    columns = ("control", "row", "control's row", "ours", "control's", "gain", "95 %", "verdict")
    return ReportTable("Controls", columns, tuple(rows))


def _beside(job: Reproduction, standings: Standings) -> ReportTable:
    """The experimental preset's own rows beside those of the other."""
    assert job.beside is not None
    rows = []
    for data in ("VOC", *(["COCO"] if job.coco else [])):
        first, second = (_results(standings, each.name, data) for each in (job.preset, job.beside))
        for row in OWN:
            if data == "COCO" and row.measure == "seeds":
                continue
            found = gain(row.name, second, row.name, first)
            cells = (first.cell(row.name), second.cell(row.name), *_measured(found), found.word)
            rows.append(TableRow(f"{row.name}, {data}", cells))
    columns = ("row", job.preset.name, job.beside.name, "gain", "95 %", "gain holds")
    return ReportTable("Beside", columns, tuple(rows))
