"""The whole reproduction: gates, then every table and figure over several seeds, then a page.

Every step is found again by what decides it, so that the same call goes on where one was stopped,
and a finished one only writes its page anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ssrseg.console import CheckResult, echo, note, print_table, show
from ssrseg.data.files import sweep
from ssrseg.doctor import examine
from ssrseg.errors import DataError, LabelsError, counted
from ssrseg.loading import encoders_on_disk
from ssrseg.paper.gates import GATES, GateResult, Name, measure_gate, suspects
from ssrseg.paper.provenance import one_look
from ssrseg.paper.reproduction_figures import draw_figures
from ssrseg.paper.reproduction_page import write_page
from ssrseg.paper.studies import Opened, Reproduction, Standing, open_studies
from ssrseg.paper.time_left import Time, Times
from ssrseg.prepare.coco import prepare_coco
from ssrseg.prepare.voc import prepare_voc


@dataclass
class _Course:
    """How far a reproduction is."""

    opened: Opened
    gates: dict[Name, GateResult]
    standings: list[Standing]

    @classmethod
    def look(cls, opened: Opened) -> _Course:
        """See what is there."""
        with one_look():
            found = (measure_gate(gate, opened.gates, collect=True) for gate in GATES)
            gates = {each.gate.name: each for each in found if each}
            return cls(opened, gates, _look(opened))

    @property
    def complete(self) -> bool:
        return len(self.gates) == len(GATES) and all(each.complete for each in self.standings)

    def write(self) -> None:
        write_page(self.opened.job, self.gates, self.standings)


def _look(opened: Opened) -> list[Standing]:
    """What of every study is there; they share runs, so that one changes the others."""
    with one_look():
        return [study.look(opened.job.seeds) for study in opened.studies]


def reproduce(job: Reproduction, *, past_gates: bool = False) -> int:
    """Measure whatever is missing, and write the page.

    Args:
        past_gates: Go on though a gate fails.

    Returns:
        0; 1 if the machine, the data or a gate does not allow what follows, or a figure is missing
        at the end, which is said.

    Raises:
        SSRError: Whatever is wrong with data, encoders or settings; finished results stay.
    """
    sweep(job.out)
    times, opened = Times(job.device), _open_if_ready(job)
    course = _Course.look(opened) if opened else None
    if course is None or not course.complete:
        _print_plan(job, course, times)
        fetched = bool(encoders_on_disk(job.preset.voc).missing)
        if show(_machine(job)) or _prepare(job):
            return 1
        if course is None or fetched:  # there is more to tell
            course, times = course or _Course.look(open_studies(job)), Times(job.device)
            _print_plan(job, course, times)
    if not _pass_gates(course, past_gates):
        return 1
    _measure(course, times)
    draw_figures(job, course.standings)
    page = write_page(job, course.gates, course.standings)
    missing = sum(len(todo) for each in course.standings for todo in each.missing.values())
    if missing:
        echo(f"\n{page}: {missing} figures are missing still. Give the same command again.")
        return 1
    echo(f"\n{page} holds everything against the paper.")
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


def _machine(job: Reproduction) -> list[CheckResult]:
    """What ``ssrseg doctor`` looks at, for every preset."""
    found = examine(job.preset.voc)
    if job.beside is not None:
        known = {(each.what, each.found) for each in found}
        found += [x for x in examine(job.beside.voc) if (x.what, x.found) not in known]
    if find_spec("sklearn") is None:
        note("Figures 1 and 6 need scikit-learn, and are left out without it.")
    return found


def _prepare(job: Reproduction) -> int:
    """Make the data sets ready as ``ssrseg prepare`` does; 1 if something is missing."""
    options: dict[str, Any] = {"download": job.download, "workers": job.workers}
    echo(f"\nVOC 2012, {job.voc}:")
    code = show(prepare_voc(job.voc, config=job.preset.voc, **options).checks)
    if job.coco is not None:
        echo(f"\nCOCO 2014, {job.coco}:")
        code |= show(prepare_coco(job.coco, config=job.preset.coco, **options).checks)
    return code


def _pass_gates(course: _Course, past_gates: bool) -> bool:
    """Measure the gates, the quick ones first; False where one is shut."""
    for gate in GATES:
        new = gate.name not in course.gates
        if new:
            echo(f"\nGate {gate.name}: {gate.what}; expected {gate.expected}.")
            found = measure_gate(gate, course.opened.gates)
            assert found is not None
            course.gates[gate.name] = found
            course.write()
        found = course.gates[gate.name]
        word = "passed" if found.passed else "FAILED"
        echo(f"Gate {gate.name}: {found.miou:.1f}, expected {gate.expected}: {word}.")
        if not found.passed and (new or not past_gates):
            _say_why(found, course.opened)
        if not found.passed and not past_gates:
            echo("\nNothing after it would mean much. --past-gates goes on all the same.")
            return False
    return True


def _say_why(found: GateResult, opened: Opened) -> None:
    likely, right = suspects(found.gate, opened.gates)
    echo("What is likely wrong, the likeliest first:")
    for number, each in enumerate(likely, 1):
        echo(f"  {number}. {each}")
    if right:
        echo(f"Looked at and as it should be: {'; '.join(right)}.")


def _measure(course: _Course, times: Times) -> None:
    """Tables, study by study and seed by seed, so that the page is there after the first."""
    seeds = course.opened.job.seeds
    for index, study in enumerate(course.opened.studies):
        for number in range(1, seeds + 1):
            if course.standings[index].missing[number]:
                left = _left(course, times)
                echo(f"\n{study.name}, seed {number} of {seeds}; left: {left}.")
                study.run(number)
                course.standings = _look(course.opened)
                course.write()


def _left(course: _Course, times: Times) -> Time:
    """The time of gates and tables that are not there."""
    gates = (gate for gate in GATES if gate.name not in course.gates)
    left = [times.of_gate(gate, course.opened.gates) for gate in gates]
    return sum([*left, *map(times.of, course.standings)], Time())


def _print_plan(job: Reproduction, course: _Course | None, times: Times) -> None:
    """The steps, what is there of each, and how long it will take where that can be told."""
    ready = "ready" if course else ""
    rows = [("machine and encoders", "", ""), ("VOC 2012: lists and masks", ready, "")]
    if job.coco is not None:
        rows.append(("COCO 2014: lists and masks", ready, ""))
    for gate in GATES:
        there = course.gates.get(gate.name) if course else None
        time = times.of_gate(gate, course.opened.gates) if course and not there else ""
        rows.append(
            (f"gate {gate.name}: {gate.what}", f"{there.miou:.1f}" if there else "", str(time))
        )
    for standing in course.standings if course else ():
        for number, todo in standing.missing.items():
            what = counted(len(todo), "figure to measure", "figures to measure")
            time = str(times.of(standing, number))
            rows.append((f"{standing.study.name}, seed {number}", what if todo else "there", time))
    if course is None:
        names = [each.name for each in (job.preset, job.beside) if each]
        for data in ("VOC", *(["COCO"] if job.coco else [])):
            seeds = "seed 1" if job.seeds == 1 else f"seeds 1 to {job.seeds}"
            rows += [(f"{name} on {data}, {seeds}", "", "") for name in names]
    rows.append(("figures 1 and 3 to 6, tables 1 to 6, results.md", "", ""))
    echo(f"Plan; everything goes into {job.out}, and a stopped command goes on when given again:")
    print_table(("", "step", "there", "time"), [(str(n), *row) for n, row in enumerate(rows, 1)])
    if course:
        left = _left(course, times)
        later = "" if left.whole else "; how long scoring takes is known after the first seed"
        echo(f"All of it: {left}{later}.")
    echo("")
