"""The page of a reproduction: ours beside the paper's, claim by claim and table by table."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from ssrseg.data.files import write_text
from ssrseg.markdown import markdown_text
from ssrseg.paper.claims import CLAIMS, RULE, Claim, Verdict, verdict
from ssrseg.paper.gates import GATES, measure_gate
from ssrseg.paper.results import Results, markdown_table, measured_with, spread
from ssrseg.paper.studies import Opened
from ssrseg.paper.tables import paper_table
from ssrseg.report.page import ReportTable, TableRow

PAGE = "results.md"


def write_page(opened: Opened) -> Path:
    """Write the tables, and the page that holds them together."""
    job = opened.job
    found = [(study, study.results(job.seeds)) for study in opened.studies]
    on = {
        study.data.lower(): each
        for study, each in reversed(found)
        if study.preset == job.preset.name
    }
    voc, coco = on["voc"], on.get("coco")
    parts = [f"# Reproduction of SSR: preset {job.preset.name}"]
    everything = [each for _, results in found for each in results.results]
    facts = [
        ("machine", _machine(job.device)),
        *measured_with(everything),
        ("command", f"`{job.command}`"),
    ]
    parts.append(
        "\n".join(
            f"- {what}: {markdown_text(value) if what != 'command' else value}"
            for what, value in facts
        )
    )
    parts += ["## Gates", markdown_table(_gates(opened))]
    parts += ["## Claims of the paper", RULE, markdown_table(_claims(voc, coco))]
    for number in range(1, 7):
        table = paper_table(number, voc.results, coco.results if coco else None, job.command)
        file = table.write(job.out, f"table-{number}")
        parts += [
            f"## {table.title}",
            markdown_table(table.tables[0]),
            f"[{file.name}]({file.name}) has notes, classes and what made each row.",
        ]
    path = job.out / PAGE
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _machine(device: str) -> str:
    where = f"CPU, {torch.get_num_threads()} threads"
    if device != "cpu":
        where = torch.cuda.get_device_name(device)
    return f"{where}, {platform.platform()}, torch {torch.__version__}"


def _gates(opened: Opened) -> ReportTable:
    rows = []
    for gate in GATES:
        found = measure_gate(gate, opened.gates, collect=True)
        ours = "not measured" if found is None else f"{found.miou:.1f}"
        word = "" if found is None else "passed" if found.passed else "failed"
        gap = "" if found is None else f"{found.miou - gate.published.printed:+.1f}"
        rows.append(
            TableRow(
                f"{gate.name}: {gate.what}",
                (f"{gate.published.printed:.1f}", gate.expected, ours, gap, word),
            )
        )
    return ReportTable(
        "Gates", ("gate", "published", "expected", "ours", "difference", "verdict"), tuple(rows)
    )


def _claims(voc: Results, coco: Results | None) -> ReportTable:
    rows = []
    for claim in CLAIMS:
        results = voc if claim.data == "voc" else coco
        found = verdict(claim, results) if results else Verdict((), "not measured")
        rows.append(TableRow(claim.text, _cells(claim, found)))
    return ReportTable(
        "Claims", ("claim", "table", "paper", "ours", "difference", "verdict"), tuple(rows)
    )


def _cells(claim: Claim, found: Verdict) -> tuple[str, ...]:
    digits = 3 if claim.lower_is_better else 1
    sign = "+" if claim.over else ""
    ours = spread(found.values, digits) if found.values else ""
    gap = ""
    if found.values:
        gap = f"{sum(found.values) / len(found.values) - claim.printed:+.{digits}f}"
    return (str(claim.of.table), f"{claim.printed:{sign}.{digits}f}", ours, gap, found.word)
