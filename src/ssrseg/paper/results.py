"""Results over seeds: means, cells of a table, tables behind it, and the files they go into."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssrseg.data.files import atomic_write, write_json
from ssrseg.markdown import markdown_text
from ssrseg.paper.workspace import Result
from ssrseg.report.page import ReportTable, TableRow, plain_text

NOT_MEASURED = "not measured"
MEASURES = ("miou", "precision", "recall", "confusion_ratio")
CONFUSION_NOTE = (
    "Confusion: FP / TP, the mean over classes. A class without a hit has no such ratio: (7 of 18)"
    " says how many classes the mean is of. Those left out would make it worse."
)


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1; None for a single value) and the values themselves."""

    mean: float
    sd: float | None
    n: int
    values: tuple[float, ...]


def summary(values: Sequence[float]) -> Summary | None:
    """Mean and standard deviation; None of nothing."""
    if not values:
        return None
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), sd, len(values), tuple(values))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """``48.6`` for one seed, ``48.6 ± 0.4`` (standard deviation) for several."""
    found = summary(values)
    assert found is not None
    sd = "" if found.sd is None else f" ± {found.sd:.{digits}f}"
    return f"{round(found.mean, digits) + 0.0:.{digits}f}{sd}"  # + 0.0: no -0.0


@dataclass(frozen=True)
class Results:
    """Results of one data set by row, as cells of a table."""

    results: tuple[Result, ...]

    def of(self, row: str) -> list[Result]:
        """Of one row, by seed."""
        return [each for each in self.results if each.row == row]

    def summary(self, row: str, figure: str, scale: float = 100.0) -> Summary | None:
        """Mean and spread of one figure; None if it was not measured or is not defined."""
        found = [each.figures[figure] for each in self.of(row)]
        return summary([scale * value for value in found if value is not None])

    def cell(self, row: str, figure: str = "miou", scale: float = 100.0, digits: int = 1) -> str:
        """The summary as text."""
        if not self.of(row):
            return NOT_MEASURED
        found = self.summary(row, figure, scale)
        return "-" if found is None else spread(found.values, digits)

    def text(self, row: str, what: str) -> str:
        """A cell: a figure of ``MEASURES``, or ``confusion``, ``alpha``, ``seeds``, ..."""
        special = {
            "confusion": self.confusion,
            "alpha": self.alpha,
            "seeds": self.count,
            "undecided": self.undecided,
        }
        return special[what](row) if what in special else self.cell(row, what)

    def confusion(self, row: str) -> str:
        """FP / TP, and of how many classes it is the mean where some are never hit."""
        counts = []
        for each in self.of(row):
            present = [entry for entry in each.record["classes"].values() if entry["images"]]
            hits = sum(entry["confusion_ratio"] is not None for entry in present)
            counts.append((hits, len(present)))
        cell = self.cell(row, "confusion_ratio", 1.0, 3)
        if all(hits == present for hits, present in counts):
            return cell
        low, high = min(counts)[0], max(counts)[0]
        return f"{cell} ({low if low == high else f'{low}-{high}'} of {counts[0][1]})"

    def alpha(self, row: str) -> str:
        """Exponents that won, one for all seeds or one for each."""
        won = [f"{each.record['alpha']:g}" for each in self.of(row) if "alpha" in each.record]
        return ", ".join(won if len(set(won)) > 1 else won[:1])

    def count(self, row: str) -> str:
        """Number of seeds."""
        return str(len(self.of(row)) or "")

    def undecided(self, row: str) -> str:
        """Share of the pixels that pseudo masks leave open and no figure counts, in %."""
        shares = [100 * each.record["undecided"] for each in self.of(row)]
        return spread(shares) if shares else NOT_MEASURED

    def share(self, row: str, whole: str) -> str:
        """MIoU of a row in % of another row's, by seed."""
        full = {each.seed: each.figures["miou"] for each in self.of(whole)}
        pairs = [(each.figures["miou"], full.get(each.seed)) for each in self.of(row)]
        shares = [100 * miou / other for miou, other in pairs if miou is not None and other]
        return spread(shares) if shares else NOT_MEASURED

    def difference(self, first: str, other: str) -> str:
        """MIoU of a row minus that of the first, over the seeds that both have.

        A training-free row has one figure, which stands for every seed.
        """
        a, b = ({x.seed: x.figures["miou"] or 0.0 for x in self.of(row)} for row in (first, other))
        if first == other:
            return ""
        if len(a) == 1 or len(b) == 1:
            pairs = [(x, y) for x in a.values() for y in b.values()]
        else:
            pairs = [(a[seed], b[seed]) for seed in a if seed in b]
        return spread([100 * (y - x) for x, y in pairs]) if pairs else ""

    def by_class(self, title: str, rows: Sequence[str]) -> ReportTable:
        """IoU of each class in the rows that were measured, and the number of images with it."""
        rows = [row for row in dict.fromkeys(rows) if self.of(row)]
        classes = self.of(rows[0])[0].record["classes"] if rows else {}
        lines = []
        for name, entry in classes.items():
            cells = []
            for row in rows:
                shares = [each.record["classes"][name]["iou"] for each in self.of(row)]
                known = [100 * share for share in shares if share is not None]
                cells.append(spread(known) if known else "-")
            lines.append(TableRow(name, (str(entry["images"]), *cells)))
        return ReportTable(title, ("class", "images", *rows), tuple(lines))

    def origins(self, title: str, rows: Sequence[str]) -> ReportTable:
        """Seeds, commit, data and command behind each row that was measured."""
        columns = ("commit", "date", "data", "seconds", "command")
        lines = []
        for row in dict.fromkeys(rows):
            made = [origin(each) for each in self.of(row)]
            seeds = ", ".join(str(each["seed"]) for each in made if each["seed"] is not None)
            cells = ("; ".join(dict.fromkeys(str(each[key]) for each in made)) for key in columns)
            if made:
                lines.append(TableRow(row, (seeds, *cells)))
        note = (
            "Seconds: of scoring all rows that share a pass over the images. Settings, encoders and"
            " the confusion matrix are in results/ (COCO: coco/results/), in the files whose keys"
            " the JSON beside this page names."
        )
        return ReportTable(title, ("row", "seeds", *columns), tuple(lines), note)

    def record(self, row: str, **more: Any) -> dict[str, Any]:
        """Everything about a row, for JSON; shares in [0, 1]."""
        results = self.of(row)
        records = [each.record for each in results]
        summaries = {key: self.summary(row, key, 1.0) for key in MEASURES}
        found = {key: each and vars(each) for key, each in summaries.items()}
        classes = {
            name: {
                "images": entry["images"],
                "iou": [each["classes"][name]["iou"] for each in records],
            }
            for name, entry in (records[0]["classes"] if records else {}).items()
        }
        return {
            "row": row,
            **more,
            "measured": bool(results),
            "figures": found if results else None,
            "undecided": [each["undecided"] for each in records if "undecided" in each],
            "alpha": [each["alpha"] for each in records if "alpha" in each],
            "seeds": [each.seed for each in results],
            "made": [origin(each) for each in results],
            "classes": classes,
        }


def origin(result: Result) -> dict[str, Any]:
    """What made one figure: seed (none without training), key, command, commit, date, data."""
    record = result.record
    return {
        "seed": result.seed if record["training"] else None,
        "result": record["key"],
        "command": record["command"],
        "commit": record["commit"],
        "date": record["date"][:10],
        "data": f"{record['data']['digest']}, {record['images']} images",
        "seconds": round(record["seconds"]),
    }


def measured_with(results: Sequence[Result]) -> tuple[tuple[str, str], ...]:
    """What figures were made with: data, training images, encoders, code, dates."""
    records = [each.record for each in results]

    def scored(record: Mapping[str, Any]) -> str:
        folder = Path(record["data"]["folder"]).name
        return f"{record['images']} images of {folder} ({record['measure']})"

    def encoder(which: str) -> list[str]:
        return ["{name} ({digest})".format(**each["encoders"][which]) for each in records]

    kinds = {
        "scored on": [scored(each) for each in records],
        "trained on": [f"{x['training']['images']} images" for x in records if x["training"]],
        "CLIP": encoder("clip"),
        "DINO": encoder("dino"),
        "ssrseg": [f"{each['version']}, commit {each['commit']}" for each in records],
        "dates": sorted(each["date"][:10] for each in records),
    }
    found = {what: "; ".join(dict.fromkeys(values)) or "-" for what, values in kinds.items()}
    return tuple(found.items()) if records else ()


def missing_note(tables: Sequence[ReportTable], again: str) -> tuple[str, ...]:
    """How to measure what is missing in a table, if something is."""
    cells = (cell for table in tables for row in table.rows for cell in row.cells)
    return (f"Not measured: `{again}` would.",) if NOT_MEASURED in cells else ()


@dataclass(frozen=True)
class TableReport:
    """A table ready for a terminal, a page and a file.

    Attributes:
        title: What it shows.
        tables: Main one first.
        notes: Below them.
        facts: What it was measured with, as (what, value).
        details: On the page alone: IoU by class with the number of images; what made each row.
        rows: Everything, for JSON.
    """

    title: str
    tables: tuple[ReportTable, ...]
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    details: tuple[ReportTable, ...]
    rows: tuple[dict[str, Any], ...]

    def text(self) -> str:
        """Tables, what they were measured with, and notes, as plain text."""
        parts = [
            plain_text(table) + (f"\n{table.text}" if table.text else "") for table in self.tables
        ]
        if self.facts:
            parts.append("\n".join(f"{what:10}  {value}" for what, value in self.facts))
        parts.append("\n".join(f"({index}) {note}" for index, note in enumerate(self.notes, 1)))
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """The same as a page of Markdown, with facts and classes."""
        parts = [f"# {self.title}"]
        if self.facts:
            facts = (f"- {what}: {markdown_text(value)}" for what, value in self.facts)
            parts.append("\n".join(facts))
        for table in (*self.tables, *self.details):
            if table.title != self.title:
                parts.append(f"## {table.title}")
            parts += [markdown_table(table), *([table.text] if table.text else ())]
            if table is self.tables[-1]:
                notes = enumerate(self.notes, 1)
                parts.append("\n".join(f"{index}. {note}" for index, note in notes))
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path, stem: str) -> Path:
        """Write ``stem``.md and ``stem``.json; returns the Markdown file."""
        table = {
            "title": self.title,
            "facts": dict(self.facts),
            "notes": self.notes,
            "rows": self.rows,
        }
        write_json(folder / f"{stem}.json", table)
        with atomic_write(folder / f"{stem}.md") as temporary:
            temporary.write_text(self.markdown(), encoding="utf-8")
        return folder / f"{stem}.md"


def markdown_table(table: ReportTable) -> str:
    """A table without its title, controls in italics."""
    lines = [[*map(markdown_text, table.columns)], ["---"] * len(table.columns)]
    for row in table.rows:
        name = markdown_text(row.name)
        name = f"*{name}*" if row.kind == "control" else name
        lines.append([name, *map(markdown_text, row.cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
