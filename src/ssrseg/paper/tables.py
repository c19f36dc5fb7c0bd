"""The paper's tables with our own figures beside the printed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ssrseg.paper.experiments import Result
from ssrseg.paper.page import ReportTable, TableRow
from ssrseg.paper.published import PAPER, PaperTable, Published
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
from ssrseg.paper.rows import (
    AS_SET,
    ATTENTIONS,
    CENTRE_PRIOR,
    CLIP_CAM,
    CLIP_ES_DECODER,
    CLIP_READ,
    CONTROLS,
    DECODER,
    LOSS_TRAININGS,
    MASKS,
    READOUTS,
    TABLES,
)

_OTHER_DATA = (
    "The paper's figures: VOC 2012 or COCO 2014, CLIP ViT-B/16 and DINO ViT-S/16, both pretrained."
    " Ours can be held against them only if they were made with the same images and encoders."
)

Layout = tuple[tuple[ReportTable, ...], list[str]]


def paper_table(
    number: int, results: Sequence[Result], coco: Sequence[Result] | None, again: str
) -> Printed:
    """A table of the paper beside ours.

    Args:
        number: 1 .. 6.
        results: What was measured, on VOC or whatever stands in its place.
        coco: The same rows on COCO; None = no such data.
        again: The command that measures what is missing.
    """
    paper, found = PAPER[number], Figures(tuple(results))
    on_coco = None if coco is None else Figures(tuple(coco))
    others = {2: _table_2, 3: _table_3, 4: _table_4, 5: _table_5, 6: _table_6}
    tables, more = _table_1(paper, found, on_coco) if number == 1 else others[number](paper, found)
    notes = [_OTHER_DATA, *more, *paper.notes]
    cells = [cell for table in tables for row in table.rows for cell in row.cells]
    if NOT_MEASURED in cells:
        notes.insert(0, f"{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}: `{again}` would.")
    every = [*results, *(coco or [])]
    main = [each.ours for each in paper.rows if each.ours]
    sets = [("IoU by class, %", found), ("IoU by class on COCO, %", on_coco)]
    details = [by_class(title, each, main) for title, each in sets if each and each.results]
    rows = [row.name for row in TABLES[number]]
    origins = [("What made each row", found), ("What made each row on COCO", on_coco)]
    details += [made_by(title, each, rows) for title, each in origins if each and each.results]
    return Printed(
        paper.title,
        tables,
        tuple(notes),
        facts(every),
        tuple(details),
        tuple(_records(number, paper, found, on_coco)),
    )


def _records(
    number: int, paper: PaperTable, found: Figures, coco: Figures | None
) -> Iterator[dict[str, Any]]:
    """Published rows, then ours, for JSON."""
    for each in paper.rows:
        cells = dict(zip(paper.columns, each.cells, strict=True))
        yield {"row": each.name, "group": each.group, "published": cells, "ours": each.ours or None}
    for row in TABLES[number]:
        settings = (*(row.training.settings if row.training else ()), *row.settings)
        yield row_record(row.name, found, settings=settings, heads=row.heads)
        if coco is not None:
            yield row_record(row.name, coco, data="COCO", settings=settings, heads=row.heads)


def _number(cell: float | str | None) -> str:
    return "-" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else cell


def _row(each: Published, cells: Sequence[str]) -> TableRow:
    return TableRow(each.name, tuple(cells))


def _table_1(paper: PaperTable, found: Figures, coco: Figures | None) -> Layout:
    rows = []
    for each in paper.rows:
        printed = [_number(cell) for cell in each.cells]
        ours = found.cell(each.ours) if each.ours else ""
        there = coco.cell(each.ours) if coco and each.ours else ""
        there = NOT_MEASURED if each.ours and coco is None else there
        server = "server" if each.ours else ""
        count = found.count(each.ours)
        rows.append(_row(each, (printed[0], ours, printed[1], server, printed[2], there, count)))
    own = CLIP_ES_DECODER.name
    there = coco.cell(own) if coco else NOT_MEASURED
    cells = ("", found.cell(own), "", "", "", there, found.count(own))
    rows.append(TableRow(own, cells, kind="control"))
    columns = ("method", "VOC val", "ours", "VOC test", "ours", "COCO val", "ours", "seeds")
    trained = [each.record["training"] for each in found.of(DECODER.name)]
    runs = [each["run"] for each in trained if each]
    run = f"OUT/{runs[0] if runs else 'runs/ssr/seed-0'}"
    notes = [
        "VOC test has no public masks; for its server: `ssrseg predict --data VOC --split test"
        f" --model {run} --out test`, then `ssrseg archive --masks test --data VOC --out"
        " results.tgz`.",
        "Gate G3: a decoder on CLIP-ES's masks (docs/baselines.md) should reach 73 or more on VOC"
        " val with CRF before gains of CMPA and SGC are judged. The row on CLIP-ES's CAMs refines"
        " them as the preset does.",
    ]
    if coco is None:
        notes.insert(0, "COCO val is not measured without --coco FOLDER.")
    return (ReportTable(paper.title, columns, tuple(rows)),), notes


def _table_2(paper: PaperTable, found: Figures) -> Layout:
    rows = []
    for each in paper.rows:
        network = (str(each.cells[0]), str(each.cells[1]), _number(each.cells[2]))
        ours = ("", "", "")
        if each.ours:
            ours = (found.cell(each.ours), found.alpha(each.ours), found.count(each.ours))
        rows.append(_row(each, (*network, *ours)))
    for name in (AS_SET.name, "+ PAR", "+ CRF"):
        ours = (found.cell(name), found.alpha(name), found.count(name))
        rows.append(TableRow(f"SSR: {name}", ("", "", "", *ours)))
    columns = ("method", "labels", "network", "paper", "ours", "α", "seeds")
    notes = [
        "α: exponent of the background score that won. + PAR and + CRF refine the preset's CAM,"
        " which the paper's seeds are without: PAR at the exponent that won before it, the DenseCRF"
        " at pseudo.alpha, as CLIP-ES does."
    ]
    return (ReportTable(paper.title, columns, tuple(rows)),), notes


def _table_3(paper: PaperTable, found: Figures) -> Layout:
    def ours(name: str) -> tuple[str, ...]:
        shares = (found.cell(name, figure) for figure in ("precision", "recall", "miou"))
        return (*shares, found.alpha(name), found.count(name))

    rows = [_row(each, (*map(_number, each.cells), *ours(each.ours))) for each in paper.rows]
    none = ("", "", "")
    rows.append(TableRow(AS_SET.name, (*none, *ours(AS_SET.name))))
    rows += [TableRow(row.name, (*none, *ours(row.name)), kind="control") for row in CONTROLS]
    columns = ("variant", "P", "R", "mIoU", "our P", "our R", "our mIoU", "α", "seeds")
    grid = ReportTable(
        "Who propagates, and from where: mIoU in %",
        ("attention", "no mask", "box", "SGC", "box and SGC"),
        tuple(
            TableRow(name, tuple(found.cell(f"{name}, {mask}") for mask in MASKS))
            for name in ATTENTIONS
        ),
        "CMPA CAM under the paper's weights and CLIP-ES's square.",
    )
    notes = [
        "Rows before SGC have CLIP-ES's boxes where attention propagates; SGC replaces them.",
        "Gates: CLIP CAM 58.6 ± 1.5 (G2) and CLIP CAM, CLIP attention, box 70.8 ± 1.0 (G1) on VOC"
        " train with pretrained CLIP.",
        "CMPA's CAM is read as the preset's cam.readout says; the paper reads it by GradCAM.",
    ]
    return (ReportTable(paper.title, columns, tuple(rows)), grid), notes


def _table_4(paper: PaperTable, found: Figures) -> Layout:
    printed = {each.name: _number(each.cells[0]) for each in paper.rows}
    clip = tuple(found.cell(name) for name in (CLIP_CAM.name, *(row.name for row in CLIP_READ)))
    rows = [TableRow("CLIP (no training)", (printed["CLIP"], *clip, found.count(CLIP_CAM.name)))]
    controls = ("untrained projector", "CLIP at CMPA's temperature")
    for name in (*LOSS_TRAININGS, *controls):
        cells = tuple(found.cell(f"{name}, {readout}") for readout in READOUTS)
        rows.append(
            TableRow(
                name,
                (printed.get(name, ""), *cells, found.count(f"{name}, gradcam")),
                kind="control" if name in controls else "method",
            )
        )
    centre = (found.cell(CENTRE_PRIOR.name), "", "", found.count(CENTRE_PRIOR.name))
    rows.append(TableRow(CENTRE_PRIOR.name, ("", *centre), kind="control"))
    columns = ("loss", "paper", "GradCAM (paper)", "patch", "combined", "seeds")
    notes = ["Read-outs: GradCAM; the patches' own probabilities; their mean with CLIP's GradCAM."]
    return (ReportTable(paper.title, columns, tuple(rows)),), notes


def _table_5(paper: PaperTable, found: Figures) -> Layout:
    def ours(name: str) -> tuple[str, ...]:
        shares = (found.cell(name, key) for key in ("miou", "precision", "recall"))
        return (*shares, found.confusion(name), found.count(name))

    none = ("",) * 5
    rows = [
        _row(
            each,
            (
                *map(_number, each.cells[:3]),
                f"{each.cells[3]:.3f}",
                *(ours(each.ours) if each.ours else none),
            ),
        )
        for each in paper.rows
    ]
    rows.append(TableRow("SSR without CRF", ("",) * 4 + ours("decoder")))
    columns = (
        *("method", "mIoU", "P", "R", "confusion"),
        *("our mIoU", "our P", "our R", "our confusion", "seeds"),
    )
    return (ReportTable(paper.title, columns, tuple(rows)),), [CONFUSION_NOTE]


def _table_6(paper: PaperTable, found: Figures) -> Layout:
    rows = [
        _row(
            each, (*map(_number, each.cells), *(_ratio(found, " + CRF") if each.ours else [""] * 3))
        )
        for each in paper.rows
    ]
    rows.append(TableRow("SSR without CRF", ("", "", *_ratio(found, ""))))
    for suffix, name in ((" + CRF", "full supervision"), ("", "full supervision without CRF")):
        full = f"decoder, full supervision{suffix}"
        cells = ("", "", found.cell(full), "", found.count(full))
        rows.append(TableRow(f"our decoder, {name}", cells, kind="control"))
    columns = ("method", "mIoU", "% of full", "our mIoU", "our % of full", "seeds")
    return (ReportTable(paper.title, columns, tuple(rows)),), []


def _ratio(found: Figures, suffix: str) -> list[str]:
    """MIoU, its share of full supervision by seed, number of seeds."""
    whole = {
        each.seed: each.figures["miou"] for each in found.of(f"decoder, full supervision{suffix}")
    }
    shares = []
    for each in found.of(f"decoder{suffix}"):
        miou, full = each.figures["miou"], whole.get(each.seed)
        if miou is not None and full:
            shares.append(100 * miou / full)
    share = spread(shares) if shares else NOT_MEASURED
    return [found.cell(f"decoder{suffix}"), share, found.count(f"decoder{suffix}")]
