"""The paper's tables with our own figures beside the printed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ssrseg.paper.published import PAPER, PaperRow
from ssrseg.paper.results import (
    CONFUSION_NOTE,
    NOT_MEASURED,
    Results,
    TableReport,
    measured_with,
    missing_note,
)
from ssrseg.paper.rows import (
    ATTENTIONS,
    CONTROLS,
    DECODER,
    DECODER_CRF,
    FULL_DECODER,
    FULL_DECODER_CRF,
    MASKS,
    READOUTS,
    TABLES,
)
from ssrseg.paper.workspace import Result
from ssrseg.report.page import ReportTable, TableRow

OTHER_DATA = (
    "The paper's figures: VOC 2012 or COCO 2014, CLIP ViT-B/16 and DINO ViT-S/16, both pretrained."
    " Ours can be held against them only if they were made with the same images and encoders."
)
FULL = {DECODER.name: FULL_DECODER.name, DECODER_CRF.name: FULL_DECODER_CRF.name}
"""The row on true masks that each decoder is a share of."""

_CONTROLS = tuple(PaperRow(row.name, ours=(row.name,), kind="control") for row in CONTROLS)


def paper_table(
    number: int, results: Sequence[Result], coco: Sequence[Result] | None, again: str
) -> TableReport:
    """A table of the paper beside ours.

    Args:
        number: 1 .. 6.
        results: What was measured, on VOC or whatever stands in its place.
        coco: The same rows on COCO; None = no such data.
        again: The command that measures what is missing.
    """
    paper, found = PAPER[number], Results(tuple(results))
    on_coco = None if coco is None else Results(tuple(coco))
    sources = [source for _, source in paper.layout]
    main = ReportTable(
        paper.title,
        (paper.head, *(title for title, _ in paper.layout)),
        tuple(
            TableRow(row.name, tuple(_cells(row, sources, found, on_coco)), row.kind)
            for row in (*paper.rows, *paper.more, *(_CONTROLS if number == 3 else ()))
        ),
    )
    tables = (main, _propagation_table(found)) if number == 3 else (main,)
    more_notes = {1: _notes_of_table_1(found, on_coco), 5: (CONFUSION_NOTE,)}.get(number, ())
    measured = [row.ours[0] for row in paper.rows if row.ours]
    rows = [row.name for row in TABLES[number]]
    sets = [("", found)] + ([(" on COCO", on_coco)] if on_coco else [])
    sets = [(where, each) for where, each in sets if each.results]
    return TableReport(
        paper.title,
        tables,
        (*missing_note(tables, again), OTHER_DATA, *more_notes, *paper.notes),
        measured_with([*results, *(coco or [])]),
        (
            *(each.by_class(f"IoU by class{where}, %", measured) for where, each in sets),
            *(each.origins(f"What made each row{where}", rows) for where, each in sets),
        ),
        tuple(_records(number, found, on_coco)),
    )


def _cells(
    row: PaperRow, sources: Sequence[str], found: Results, coco: Results | None
) -> Iterator[str]:
    """A text for each column; nothing where the row has no such figure.

    Sources: ``paper``: the row's next printed figure; ``server``: ours is known to a server only;
    ``coco``: our mIoU there; ``share``: our mIoU in % of full supervision; a read-out: mIoU of the
    row's measurement by it; else what ``Results.text`` knows.
    """
    printed = iter(row.cells)
    for source in sources:
        if source == "paper":
            yield _printed(next(printed)) if row.cells else ""
        elif not row.ours:
            yield ""
        elif source == "server":
            yield "server" if row.cells else ""
        elif source == "coco":
            yield coco.text(row.ours[0], "miou") if coco else NOT_MEASURED
        elif source == "share":
            full = FULL.get(row.ours[0])
            yield found.share(row.ours[0], full) if full else ""
        elif source in READOUTS:
            index = READOUTS.index(source)
            yield found.text(row.ours[index], "miou") if index < len(row.ours) else ""
        else:
            yield found.text(row.ours[0], source)


def _printed(cell: float | str | None) -> str:
    """Percents with one digit, ratios with three."""
    if isinstance(cell, float):
        return f"{cell:.1f}" if cell >= 1 else f"{cell:.3f}"
    return cell or "-"


def _propagation_table(found: Results) -> ReportTable:
    rows = (
        TableRow(name, tuple(found.text(f"{name}, {mask}", "miou") for mask in MASKS))
        for name in ATTENTIONS
    )
    return ReportTable(
        "Who propagates, and from where: mIoU in %",
        ("attention", "no mask", "box", "SGC", "box and SGC"),
        tuple(rows),
        "CMPA CAM under the paper's weights and CLIP-ES's square.",
    )


def _notes_of_table_1(found: Results, coco: Results | None) -> Iterator[str]:
    if coco is None:
        yield "COCO val is not measured without --coco FOLDER."
    trained = [each.record["training"] for each in found.of(DECODER.name)]
    run = next((each["run"] for each in trained if each), "runs/ssr/seed-0")
    yield (
        "VOC test has no public masks; for its server: `ssrseg predict --data VOC --split test"
        f" --model OUT/{run} --out test`, then `ssrseg archive --masks test --data VOC --out"
        " results.tgz`."
    )


def _records(number: int, found: Results, coco: Results | None) -> Iterator[dict[str, Any]]:
    """Published rows, then ours, for JSON."""
    for each in PAPER[number].rows:
        cells = dict(zip(PAPER[number].columns, each.cells, strict=True))
        yield {"row": each.name, "group": each.group, "published": cells, "ours": each.ours}
    for row in TABLES[number]:
        settings = (*(row.training.settings if row.training else ()), *row.settings)
        yield found.record(row.name, settings=settings, heads=row.heads)
        if coco is not None:
            yield coco.record(row.name, data="COCO", settings=settings, heads=row.heads)
