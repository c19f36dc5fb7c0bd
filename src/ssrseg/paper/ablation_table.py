"""Values of settings side by side, over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from ssrseg.paper.experiments import Experiment, Result
from ssrseg.paper.page import ReportTable, TableRow
from ssrseg.paper.results import (
    CONFUSION_NOTE,
    NOT_MEASURED,
    Figures,
    Printed,
    by_class,
    facts,
    made_by,
    row_record,
    spread,
)

_WHAT = {
    "seeds": "CAM seeds, no pixel refinement, at the exponent that scores best",
    "masks": "pseudo masks as the decoder would learn from them",
    "segmentation": "the decoder on images whose labels it does not know",
}


def ablation_table(rows: Sequence[Experiment], results: Sequence[Result], again: str) -> Printed:
    """One row for every combination of values.

    Args:
        rows: From :func:`ssrseg.paper.ablation.ablation_rows`.
        results: What was measured.
        again: The command that measures what is missing.
    """
    found = Figures(tuple(results))
    names = [row.name for row in rows]
    pseudo = rows[0].measure == "masks"
    lines = []
    for name in names:
        shares = [found.cell(name, key) for key in ("miou", "precision", "recall")]
        lines.append(
            TableRow(
                name,
                (
                    *shares,
                    found.confusion(name),
                    difference(found, names[0], name),
                    found.alpha(name),
                    found.count(name),
                    *((_undecided(found, name),) if pseudo else ()),
                ),
            )
        )
    columns = ("settings", "mIoU", "P", "R", "confusion", "to first row", "α", "seeds")
    columns += ("undecided",) if pseudo else ()
    title = f"Ablation: {_WHAT[rows[0].measure]}"
    notes = [
        "Mean ± standard deviation over seeds, in %. To first row: difference of mIoU, paired by"
        " seed where both were trained.",
        CONFUSION_NOTE,
    ]
    if NOT_MEASURED in [cell for line in lines for cell in line.cells]:
        notes.insert(0, f"Not measured: `{again}` would.")
    details = (
        (by_class("IoU by class, %", found, names), made_by("What made each row", found, names))
        if results
        else ()
    )
    records = tuple(
        row_record(
            row.name,
            found,
            trained_with=row.training.settings if row.training else None,
            scored_with=row.settings,
        )
        for row in rows
    )
    table = ReportTable(title, columns, tuple(lines))
    return Printed(title, (table,), tuple(notes), facts(results), details, records)


def _undecided(found: Figures, name: str) -> str:
    """Share of the pixels that a pseudo mask leaves open and no figure counts, in %."""
    shares = [100 * each.record["undecided"] for each in found.of(name)]
    return spread(shares) if shares else NOT_MEASURED


def difference(found: Figures, first: str, other: str) -> str:
    """MIoU of a row minus that of the first, over the seeds that both have.

    A training-free row has one figure, which stands for every seed.
    """
    a = {each.seed: each.figures["miou"] for each in found.of(first)}
    b = {each.seed: each.figures["miou"] for each in found.of(other)}
    if first == other or not a or not b:
        return ""
    if len(a) == 1 or len(b) == 1:
        pairs = [(x, y) for x in a.values() for y in b.values()]
    else:
        pairs = [(a[seed], b[seed]) for seed in a if seed in b]
    return spread([100 * ((y or 0.0) - (x or 0.0)) for x, y in pairs]) if pairs else ""
