"""The whole reproduction: gates, then every table and figure over several seeds, then a page.

Every step is found again by what decides it, so that the same call goes on where one was stopped,
and a finished one only writes its page anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ssrseg.console import echo, print_table, show
from ssrseg.doctor import examine
from ssrseg.errors import DataError, LabelsError, counted
from ssrseg.paper.gates import GATES, GateResult, measure_gate, suspects
from ssrseg.paper.paper_figures import draw_figures
from ssrseg.paper.reproduction_page import write_page
from ssrseg.paper.studies import Opened, Reproduction, open_studies
from ssrseg.paper.time_left import Time, Times
from ssrseg.prepare.coco import prepare_coco
from ssrseg.prepare.voc import prepare_voc


def reproduce(job: Reproduction, *, past_gates: bool = False) -> int:
    """Measure whatever is missing, and write the page.

    Args:
        past_gates: Go on though a gate fails.

    Returns:
        0; 1 if the machine, the data or a gate does not allow what follows, which is said.

    Raises:
        SSRError: Whatever is wrong with data, encoders or settings; finished results stay.
    """
    opened, times = _open_if_ready(job), Times(job.device)
    if opened is None or _missing(opened):
        _print_plan(job, opened, times)
        if show(examine(job.preset.voc)) or _prepare(job):
            return 1
        if opened is None:
            opened = open_studies(job)
            _print_plan(job, opened, times)
    if not _pass_gates(opened, past_gates):
        return 1
    for study in opened.studies:
        for number in range(1, job.seeds + 1):
            if study.missing(job.seeds)[number]:
                left = sum(_times(opened, times), Time())
                echo(f"\n{study.name}, seed {number} of {job.seeds}; left: {left}.")
                study.run(number)
                write_page(opened)
    draw_figures(opened)
    echo(f"\n{write_page(opened)} holds everything against the paper.")
    return 0


def _open_if_ready(job: Reproduction) -> Opened | None:
    """The data, if nothing of them has to be prepared."""
    try:
        opened = open_studies(job)
    except (DataError, LabelsError):  # preparing says what is wrong
        return None
    sets = [opened.gates.seeds, opened.gates.train, opened.gates.val]
    for study in opened.studies:
        sets += [each for each in (study.workspace.train, study.workspace.val) if each]
    ready = all(sample.truth is not None for each in sets for sample in each.samples)
    return opened if ready else None


def _missing(opened: Opened) -> bool:
    if any(measure_gate(gate, opened.gates, collect=True) is None for gate in GATES):
        return True
    return any(any(study.missing(opened.job.seeds).values()) for study in opened.studies)


def _prepare(job: Reproduction) -> int:
    """Make the data sets ready as ``ssrseg prepare`` does; 1 if something is missing."""
    options: dict[str, Any] = {"download": job.download, "workers": job.workers}
    echo(f"\nVOC 2012, {job.voc}:")
    code = show(prepare_voc(job.voc, config=job.preset.voc, **options).checks)
    if job.coco is not None:
        echo(f"\nCOCO 2014, {job.coco}:")
        code |= show(prepare_coco(job.coco, config=job.preset.coco, **options).checks)
    return code


def _pass_gates(opened: Opened, past_gates: bool) -> bool:
    """Measure the gates, the quick ones first; False where one is shut."""
    for gate in GATES:
        there = measure_gate(gate, opened.gates, collect=True)
        if there is None:
            echo(f"\nGate {gate.name}: {gate.what}; expected {gate.expected}.")
        found = there or measure_gate(gate, opened.gates)
        assert found is not None
        write_page(opened)
        if found.passed:
            echo(f"Gate {gate.name}: {found.miou:.1f}, expected {gate.expected}: passed.")
        else:
            _say_why(found, opened)
            if not past_gates:
                echo("\nNothing after it would mean much. --past-gates goes on all the same.")
                return False
    return True


def _say_why(found: GateResult, opened: Opened) -> None:
    gate = found.gate
    echo(f"Gate {gate.name}: {found.miou:.1f}, expected {gate.expected}: FAILED.")
    likely, right = suspects(gate, opened.gates)
    echo("What is likely wrong, the likeliest first:")
    for number, each in enumerate(likely, 1):
        echo(f"  {number}. {each}")
    if right:
        echo(f"Looked at and as it should be: {'; '.join(right)}.")


def _times(opened: Opened, times: Times) -> Iterator[Time]:
    """Of every study and seed."""
    for study in opened.studies:
        done = [each.record for each in study.results(opened.job.seeds).results]
        for todo in study.missing(opened.job.seeds).values():
            yield times.of(study, todo, done)


def _print_plan(job: Reproduction, opened: Opened | None, times: Times) -> None:
    """The steps, what is there of each, and how long it will take where that can be told."""
    rows: list[tuple[str, str, str]] = [("machine and encoders", "", "")]
    for name, folder in (("VOC 2012", job.voc), ("COCO 2014", job.coco)):
        if folder is not None:
            rows.append((f"{name}: lists and masks", "ready" if opened else "", ""))
    for gate in GATES:
        there = measure_gate(gate, opened.gates, collect=True) if opened else None
        rows.append((f"gate {gate.name}: {gate.what}", f"{there.miou:.1f}" if there else "", ""))
    for study in opened.studies if opened else ():
        done = [each.record for each in study.results(job.seeds).results]
        for number, todo in study.missing(job.seeds).items():
            what = counted(len(todo), "figure to measure", "figures to measure")
            time = str(times.of(study, todo, done))
            rows.append((f"{study.name}, seed {number}", what if todo else "there", time))
    if opened is None:
        names = [each.name for each in (job.preset, job.beside) if each]
        for data in ("VOC", *(["COCO"] if job.coco else [])):
            rows += [(f"{name} on {data}, seeds 1 to {job.seeds}", "", "") for name in names]
    rows.append(("figures 1 and 3 to 6, tables 1 to 6, results.md", "", ""))
    echo(f"Plan; everything goes into {job.out}, and a stopped command goes on when given again:")
    print_table(("", "step", "there", "time"), [(str(n), *row) for n, row in enumerate(rows, 1)])
    echo("")
