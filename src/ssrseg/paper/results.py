"""Results over seeds as figures, tables and files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssrseg.data.files import atomic_write
from ssrseg.paper.experiments import Result
from ssrseg.paper.page import ReportTable, TableRow, print_table

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Summary:
    """Figures of one row over seeds.

    Attributes:
        mean: Their mean.
        sd: Standard deviation (n - 1); None for a single one.
        n: How many.
        values: Each of them.
    """

    mean: float
    sd: float | None
    n: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Printed:
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


@dataclass(frozen=True)
class Figures:
    """Results by row."""

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

    def confusion(self, row: str) -> str:
        """FP / TP, and of how many classes it is the mean where some are never hit."""
        counts = [_hit(each.record) for each in self.of(row)]
        cell = self.cell(row, "confusion_ratio", 1.0, 3)
        if all(hit == present for hit, present in counts):
            return cell
        hits = [hit for hit, _ in counts]
        span = f"{min(hits)}-{max(hits)}" if len(set(hits)) > 1 else f"{hits[0]}"
        return f"{cell} ({span} of {counts[0][1]})"

    def alpha(self, row: str) -> str:
        """Exponents that won, one for all seeds or one for each."""
        won = [f"{each.record['alpha']:g}" for each in self.of(row) if "alpha" in each.record]
        return ", ".join(won if len(set(won)) > 1 else won[:1])

    def count(self, row: str) -> str:
        """Number of seeds."""
        return str(len(self.of(row)) or "")


CONFUSION_NOTE = (
    "Confusion: FP / TP, the mean over classes. A class without a hit has no such ratio: (7 of 18)"
    " says how many classes the mean is of. Those left out would make it worse."
)


def _hit(record: Mapping[str, Any]) -> tuple[int, int]:
    """Classes with a hit, and those with true pixels."""
    present = [entry for entry in record["classes"].values() if entry["images"]]
    return sum(entry["confusion_ratio"] is not None for entry in present), len(present)


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


def facts(results: Sequence[Result]) -> tuple[tuple[str, str], ...]:
    """What figures were made with: data, training images, encoders, code, dates."""
    records = [each.record for each in results]

    def kinds(values: list[str]) -> str:
        return "; ".join(dict.fromkeys(value for value in values if value)) or "-"

    def encoder(record: Mapping[str, Any], which: str) -> str:
        return "{name} ({digest})".format(**record["encoders"][which])

    def scored(record: Mapping[str, Any]) -> str:
        folder = Path(record["data"]["folder"]).name
        return f"{record['images']} images of {folder} ({record['measure']})"

    found = (
        ("scored on", kinds([scored(each) for each in records])),
        (
            "trained on",
            kinds([f"{each['training']['images']} images" for each in records if each["training"]]),
        ),
        ("CLIP", kinds([encoder(each, "clip") for each in records])),
        ("DINO", kinds([encoder(each, "dino") for each in records])),
        ("ssrseg", kinds([f"{each['version']}, commit {each['commit']}" for each in records])),
        ("dates", kinds(sorted({each["date"][:10] for each in records}))),
    )
    return found if records else ()


def by_class(title: str, found: Figures, rows: Sequence[str]) -> ReportTable:
    """IoU of each class and the number of images that show it.

    Args:
        title: Over the table.
        found: Results; those of one data set.
        rows: Which, if they were measured.
    """
    rows = [row for row in dict.fromkeys(rows) if found.of(row)]
    first = found.of(rows[0])[0].record["classes"] if rows else {}
    lines = []
    for name, entry in first.items():
        cells = []
        for row in rows:
            shares = [each.record["classes"][name]["iou"] for each in found.of(row)]
            known = [100 * share for share in shares if share is not None]
            cells.append(spread(known) if known else "-")
        lines.append(TableRow(name, (str(entry["images"]), *cells)))
    return ReportTable(title, ("class", "images", *rows), tuple(lines))


def made_by(title: str, found: Figures, rows: Sequence[str]) -> ReportTable:
    """Seeds, commit, data and command behind each row.

    Args:
        title: Over the table.
        found: Results; those of one data set.
        rows: Which, if they were measured.
    """
    lines = []
    for row in dict.fromkeys(rows):
        origins = [origin(each) for each in found.of(row)]
        if not origins:
            continue
        cells = (
            "; ".join(dict.fromkeys(str(each[key]) for each in origins))
            for key in ("commit", "date", "data", "seconds", "command")
        )
        seeds = ", ".join(str(each["seed"]) for each in origins if each["seed"] is not None)
        lines.append(TableRow(row, (seeds, *cells)))
    columns = ("row", "seeds", "commit", "date", "data", "seconds", "command")
    return ReportTable(title, columns, tuple(lines), _MADE_NOTE)


_MADE_NOTE = (
    "Seconds: of scoring all rows that share a pass over the images. Settings, encoders and the"
    " confusion matrix are in results/ (COCO: coco/results/), in the files whose keys the JSON"
    " beside this page names."
)


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


def row_record(row: str, found: Figures, **more: Any) -> dict[str, Any]:
    """Everything about a row, for JSON; shares in [0, 1]."""
    results = found.of(row)
    figures = {}
    for key in ("miou", "precision", "recall", "confusion_ratio"):
        each = found.summary(row, key, 1.0)
        figures[key] = each and {
            "mean": each.mean, "sd": each.sd, "n": each.n, "values": each.values
        }  # fmt: skip
    classes: dict[str, Any] = {}
    for name in results[0].record["classes"] if results else ():
        entries = [each.record["classes"][name] for each in results]
        classes[name] = {
            "images": entries[0]["images"],
            "iou": [entry["iou"] for entry in entries],
        }
    return {
        "row": row,
        **more,
        "measured": bool(results),
        "figures": figures if results else None,
        "undecided": [each.record["undecided"] for each in results if "undecided" in each.record],
        "alpha": [each.record["alpha"] for each in results if "alpha" in each.record],
        "seeds": [each.seed for each in results],
        "made": [origin(each) for each in results],
        "classes": classes,
    }


def print_all(printed: Printed) -> str:
    """Tables, what they were measured with, and notes, as plain text."""
    parts = []
    for table in printed.tables:
        parts.append(print_table(table) + (f"\n{table.text}" if table.text else ""))
    if printed.facts:
        parts.append("\n".join(f"{what:10}  {value}" for what, value in printed.facts))
    notes = enumerate(printed.notes, 1)
    return "\n\n".join([*parts, "\n".join(f"({index}) {note}" for index, note in notes)])


def markdown(printed: Printed) -> str:
    """The same as a page of Markdown, with facts and classes."""
    parts = [f"# {printed.title}"]
    if printed.facts:
        parts.append("\n".join(f"- {what}: {value}" for what, value in printed.facts))
    for table in (*printed.tables, *printed.details):
        if table.title != printed.title:
            parts.append(f"## {table.title}")
        rows = [
            (f"*{row.name}*" if row.kind == "control" else row.name, *row.cells)
            for row in table.rows
        ]
        lines = [table.columns, ("---",) * len(table.columns), *rows]
        parts.append("\n".join(f"| {' | '.join(_escaped(line))} |" for line in lines))
        if table.text:
            parts.append(table.text)
        if table is printed.tables[-1]:
            notes = enumerate(printed.notes, 1)
            parts.append("\n".join(f"{index}. {note}" for index, note in notes))
    return "\n\n".join(parts) + "\n"


def _escaped(cells: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in cells]


def write_printed(printed: Printed, folder: Path, stem: str) -> Path:
    """Write ``stem``.md and ``stem``.json; returns the Markdown file."""
    table = {
        "title": printed.title,
        "facts": dict(printed.facts),
        "notes": printed.notes,
        "rows": printed.rows,
    }
    text = json.dumps(table, indent=1, ensure_ascii=False) + "\n"
    for suffix, content in ((".json", text), (".md", markdown(printed))):
        with atomic_write(folder / f"{stem}{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
    return folder / f"{stem}.md"
