"""``KEY=V1,V2``: one experiment for every combination of values, and their table."""

from __future__ import annotations

from collections.abc import Sequence

from ssrseg.errors import ConfigError
from ssrseg.paper.experiments import Experiment
from ssrseg.paper.results import (
    CONFUSION_NOTE,
    Results,
    TableReport,
    measured_with,
    missing_note,
)
from ssrseg.paper.workspace import Result, Task, Workspace, tasks
from ssrseg.report.page import ReportTable, TableRow

_TITLES = {
    "seeds": "Ablation: CAM seeds, no pixel refinement, at the exponent that scores best",
    "masks": "Ablation: pseudo masks as the decoder would learn from them",
    "segmentation": "Ablation: the decoder on images whose labels it does not know",
}
_COLUMNS = {
    "mIoU": "miou",
    "P": "precision",
    "R": "recall",
    "confusion": "confusion",
    "to first row": "difference",
    "α": "alpha",
    "seeds": "seeds",
}


def distinct_tasks(rows: Sequence[Experiment], workspace: Workspace, seeds: int) -> list[Task]:
    """The tasks of every row and seed.

    Raises:
        ConfigError: If two rows come to the same: a value has no influence on what is measured.
    """
    found = tasks(rows, workspace, seeds)
    first: dict[str, Task] = {}
    for task in found:
        other = first.setdefault(task.key, task)
        if other.experiment.name != task.experiment.name:
            raise ConfigError(
                f'"{other.experiment.name}" and "{task.experiment.name}" measure the same thing:'
                " the difference has no influence here. Vary something else, or measure with"
                " another --measure (seeds, masks, segmentation)."
            )
    return found


def ablation_table(
    rows: Sequence[Experiment], results: Sequence[Result], again: str
) -> TableReport:
    """One line for every row; ``again`` is the command that measures what is missing."""
    found, names = Results(tuple(results)), [row.name for row in rows]
    columns = _COLUMNS | ({"undecided": "undecided"} if rows[0].measure == "masks" else {})
    title = _TITLES[rows[0].measure]

    def cell(name: str, what: str) -> str:
        if what == "difference":
            return found.difference(names[0], name)
        return found.text(name, what)

    lines = (TableRow(name, tuple(cell(name, what) for what in columns.values())) for name in names)
    table = ReportTable(title, ("settings", *columns), tuple(lines))
    details = (
        found.by_class("IoU by class, %", names),
        found.origins("What made each row", names),
    )
    records = (
        found.record(
            row.name,
            trained_with=row.training.settings if row.training else None,
            scored_with=row.settings,
        )
        for row in rows
    )
    return TableReport(
        title,
        (table,),
        (
            *missing_note([table], again),
            "Mean ± standard deviation over seeds, in %. To first row: difference of mIoU, paired"
            " by seed where both were trained.",
            CONFUSION_NOTE,
        ),
        measured_with(results),
        details if results else (),
        tuple(records),
    )
