"""The paper's figures, and ours beside them."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from ssrseg.paper.ablation import ablation_table
from ssrseg.paper.experiments import Experiment
from ssrseg.paper.published import PAPER
from ssrseg.paper.results import NOT_MEASURED, Results, spread, summary
from ssrseg.paper.rows import SSR_TRAINING, TABLES
from ssrseg.paper.tables import paper_table
from ssrseg.paper.workspace import Result

# typed by hand from the paper
PRINTED = {
    1: {"SIPE": (68.8, 69.7, 43.6), "CLIMS": (70.4, 70.0, None), "VPL": (79.3, 79.0, 49.8),
        "WeCLIP": (76.4, 77.2, 47.1), "SSR without CRF": (78.2, 78.1, 49.2),
        "SSR": (79.5, 79.6, 50.6)},
    2: {"POLE": ("I+L", "R", 59.0), "CLIP-ES": ("I+L", "V", 70.8), "SSR": ("I+L+D", "V", 78.7)},
    3: {"CMPA": (72.8, 84.6, 63.3), "CMPA, CLIP attention": (85.2, 88.9, 74.6),
        "CMPA, CLIP and DINO attention": (84.3, 86.2, 76.3),
        "CMPA, CLIP and DINO attention, SGC": (87.9, 89.1, 78.7)},
    4: {"CLIP": (58.6,), "L_feature": (53.5,), "L_in_modal": (57.8,), "L_crossmodal": (63.3,)},
    5: {"SeCo": (74.0, 84.0, 84.9, 0.232), "MoRe": (76.4, 83.7, 84.7, 0.239),
        "SSR": (79.5, 87.9, 89.1, 0.198)},
    6: {"DeepLabV2, ViT-B, full supervision": (82.3, None), "ToCo, ViT-B": (71.1, 86.4),
        "SSR, ViT-B*": (79.5, 97.4)},
}  # fmt: skip
ROWS = {1: 16, 2: 17, 3: 4, 4: 4, 5: 4, 6: 12}


def result(row: str, seed: int, miou: float, **more: float | None) -> Result:
    figures = {"miou": miou, "precision": 0.8, "recall": 0.7, "confusion_ratio": 0.25, **more}
    record = {
        "figures": figures,
        "alpha": 1.0 + seed,
        "key": f"key-{row}-{seed}",
        "measure": "seeds",
        "images": 9,
        "data": {"folder": "somewhere/photos", "digest": "d9"},
        "command": "ssrseg table N",
        "seconds": 12.3,
        "training": {"images": 20, "run": f"runs/ssr/seed-{seed}"} if seed else None,
        "encoders": {"clip": {"name": "c", "digest": "1"}, "dino": {"name": "d", "digest": "2"}},
        "version": "0",
        "commit": "abc",
        "date": f"2026-01-0{seed + 1}T00:00:00",
        "classes": {
            "background": {"images": 9, "iou": 0.9, "confusion_ratio": 0.1},
            "cat": {"images": 4, "iou": miou, "confusion_ratio": 0.4},
            "cow": {"images": 0, "iou": None, "confusion_ratio": None},
        },
    }
    return Result(row, seed, figures, record)


def every(number: int, seeds: int = 2) -> list[Result]:
    return [
        result(row.name, seed, 0.5 + 0.1 * seed)
        for row in TABLES[number]
        for seed in range(seeds if row.training else 1)
    ]


# ---------------------------------------------------------------- the paper's figures


@pytest.mark.parametrize("number", range(1, 7))
def test_the_figures_are_those_of_the_paper(number: int) -> None:
    table = PAPER[number]
    found = {row.name: row.cells for row in table.rows}
    assert len(found) == len(table.rows) == ROWS[number]
    assert {name: found[name] for name in PRINTED[number]} == PRINTED[number]
    assert all(len(row.cells) == len(table.columns) for row in table.rows)


@pytest.mark.parametrize("number", range(1, 7))
def test_rows_of_ours_are_measured(number: int) -> None:
    table = PAPER[number]
    ours = {name for row in (*table.rows, *table.more) for name in row.ours}
    assert ours and ours <= {row.name for row in TABLES[number]}
    names = [row.name for row in TABLES[number]]
    assert len(set(names)) == len(names)


def test_the_copy_error_is_pointed_out() -> None:
    last, ssr = PAPER[3].rows[-1].cells, PAPER[5].rows[-1].cells
    assert last[:2] == ssr[1:3]  # the slip itself
    for number in (3, 5):
        assert any("slip of copying" in note for note in PAPER[number].notes)


def test_the_ratio_of_table_6_has_a_denominator() -> None:
    for row in PAPER[6].rows:
        if row.name.endswith("ViT-B*"):
            miou, share = row.cells
            assert isinstance(miou, float) and isinstance(share, float)
            assert 100 * miou / share == pytest.approx(81.6, abs=0.06)


# ---------------------------------------------------------------- maths


def test_mean_and_deviation() -> None:
    assert summary([]) is None
    one = summary([48.61])
    assert one is not None and (one.mean, one.sd, one.n) == (48.61, None, 1)
    three = summary([1.0, 2.0, 6.0])
    assert three is not None
    assert (three.mean, three.n, three.values) == (3.0, 3, (1.0, 2.0, 6.0))
    assert three.sd == pytest.approx(((4 + 1 + 9) / 2) ** 0.5)
    assert spread([48.61]) == "48.6"
    assert spread([1.0, 2.0, 6.0]) == "3.0 ± 2.6"
    assert spread([-0.04, 0.0]) == "0.0 ± 0.0"
    assert spread([0.1234, 0.2], 3) == "0.162 ± 0.054"


def test_cells() -> None:
    found = Results((result("a", 0, 0.5), result("a", 1, 0.6, confusion_ratio=None)))
    assert found.cell("a") == "55.0 ± 7.1"
    assert found.cell("b") == NOT_MEASURED
    assert found.cell("a", "confusion_ratio", 1.0, 3) == "0.250"  # of the seed that has one
    assert (found.alpha("a"), found.count("a"), found.count("b")) == ("1, 2", "2", "")
    assert Results((result("a", 0, 0.5, confusion_ratio=None),)).cell("a", "confusion_ratio") == "-"


def test_confusion_says_how_many_classes_it_is_the_mean_of() -> None:
    found = Results((result("a", 0, 0.5), result("a", 1, 0.6)))
    assert found.confusion("a") == "0.250 ± 0.000"  # a class without true pixels needs no hit
    assert found.confusion("b") == NOT_MEASURED
    found.of("a")[1].record["classes"]["cat"]["confusion_ratio"] = None
    assert found.confusion("a") == "0.250 ± 0.000 (1-2 of 2)"
    three = Results(tuple(result("a", seed, 0.5) for seed in range(3)))
    three.of("a")[1].record["classes"]["cat"]["confusion_ratio"] = None
    for each in three.of("a")[:2]:
        each.record["classes"]["background"]["confusion_ratio"] = None
    assert three.confusion("a") == "0.250 ± 0.000 (0-2 of 2)"


def test_differences_are_paired_by_seed() -> None:
    a = [result("a", seed, 0.5 + 0.1 * seed) for seed in range(3)]
    b = [result("b", seed, 0.52 + 0.1 * seed) for seed in range(3)]
    free = [result("free", 0, 0.4)]
    found = Results((*a, *b, *free))
    assert found.difference("a", "b") == "2.0 ± 0.0"
    assert found.difference("a", "a") == ""
    assert found.difference("a", "absent") == ""
    values = [100 * (x - 0.4) for x in (0.5, 0.6, 0.7)]
    expected = f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"
    assert found.difference("free", "a") == expected


def test_classes_come_with_their_images() -> None:
    found = Results((result("a", 0, 0.5), result("a", 1, 0.7)))
    table = found.by_class("classes", ["a", "absent"])
    assert table.columns == ("class", "images", "a")
    rows = {row.name: row.cells for row in table.rows}
    assert rows == {
        "background": ("9", "90.0 ± 0.0"),
        "cat": ("4", "60.0 ± 14.1"),
        "cow": ("0", "-"),
    }


# ---------------------------------------------------------------- layout


@pytest.mark.parametrize("number", range(1, 7))
def test_ours_stand_beside_the_paper(number: int) -> None:
    printed = paper_table(number, every(number), None, "again")
    (main, *_) = printed.tables
    cells = {row.name: row.cells for row in main.rows}
    assert set(PRINTED[number]) - {"CLIP"} <= set(cells)
    assert any("55.0 ± 7.1" in row for row in cells.values())
    text = printed.text()
    assert "9 images of photos (seeds)" in text
    assert "only if they were made with the same images and encoders" in text
    for note in PAPER[number].notes:
        assert note in text
    assert (NOT_MEASURED in str(cells)) == (number == 1)  # COCO


def test_the_numbers_of_table_3() -> None:
    printed = paper_table(3, every(3), None, "again")
    row = next(row for row in printed.tables[0].rows if row.name.endswith("SGC"))
    assert row.cells[:3] == ("87.9", "89.1", "78.7")
    assert row.cells[3:] == ("80.0 ± 0.0", "70.0 ± 0.0", "55.0 ± 7.1", "1, 2", "2")
    grid = printed.tables[1]
    assert [len(row.cells) for row in grid.rows] == [4] * 4
    control = next(row for row in printed.tables[0].rows if row.name.startswith("CLIP CAM, CLIP"))
    assert (control.kind, control.cells[-1]) == ("control", "1")


def test_the_share_of_full_supervision_is_taken_by_seed() -> None:
    ours = [result("decoder + CRF", seed, miou) for seed, miou in enumerate((0.5, 0.6))]
    full = [
        result("decoder, full supervision + CRF", seed, miou)
        for seed, miou in enumerate((0.8, 0.8))
    ]
    printed = paper_table(6, [*ours, *full], None, "again")
    row = next(row for row in printed.tables[0].rows if row.name == "SSR, ViT-B*")
    assert row.cells == ("79.5", "97.4", "55.0 ± 7.1", spread([62.5, 75.0]), "2")
    plain = next(row for row in printed.tables[0].rows if row.name == "SSR without CRF")
    assert plain.cells == ("", "", NOT_MEASURED, NOT_MEASURED, "")


def test_what_is_missing_comes_with_the_command() -> None:
    partly = [each for each in every(3) if "SGC" not in each.row]
    printed = paper_table(3, partly, None, "ssrseg table 3 --data VOC --out exp")
    assert printed.notes[0] == "Not measured: `ssrseg table 3 --data VOC --out exp` would."
    assert NOT_MEASURED in printed.text()
    whole = paper_table(3, every(3), None, "again")
    assert NOT_MEASURED not in whole.text()
    empty = paper_table(1, [], None, "again")
    assert "--coco" in " ".join(empty.notes)
    assert "archive" in " ".join(empty.notes)


def test_coco_is_another_column() -> None:
    coco = [result(row.name, 0, 0.25) for row in TABLES[1]]
    printed = paper_table(1, every(1), coco, "again")
    cells = {row.name: row.cells for row in printed.tables[0].rows}
    assert cells["SSR"] == ("79.5", "55.0 ± 7.1", "79.6", "server", "50.6", "25.0", "2")
    assert NOT_MEASURED not in str(cells)
    assert [row["data"] for row in printed.rows if "data" in row] == ["COCO"] * 3
    assert [table.title for table in printed.details] == [
        *("IoU by class, %", "IoU by class on COCO, %"),
        *("What made each row", "What made each row on COCO"),
    ]


# ---------------------------------------------------------------- files


def test_files(tmp_path: Path) -> None:
    printed = paper_table(4, every(4), None, "again")
    page = printed.write(tmp_path, "table-4")
    text = page.read_text(encoding="utf-8")
    assert text == printed.markdown()
    assert "# Table 4" in text
    assert re.search(r"^\| L_crossmodal \| 63\.3 \| 55\.0 ± 7\.1 ", text, flags=re.MULTILINE)
    assert "| cat | 4 | 50.0 | 55.0 ± 7.1 |" in text
    assert "- ssrseg: 0, commit abc" in text
    assert "*untrained projector*" in text
    made = "| 0, 1 | abc | 2026-01-01; 2026-01-02 | d9, 9 images | 12 | ssrseg table N |"
    assert f"| L_crossmodal, gradcam {made.replace('| 0, 1', '| 1')}" in text
    assert "| CLIP CAM |  | abc | 2026-01-01 | d9, 9 images | 12 | ssrseg table N |" in text
    table = json.loads((tmp_path / "table-4.json").read_text(encoding="utf-8"))
    rows = {row["row"]: row for row in table["rows"] if "measured" in row}
    assert set(rows) == {row.name for row in TABLES[4]}
    found = rows["L_crossmodal, gradcam"]
    assert found["figures"]["miou"]["values"] == [0.5, 0.6]
    assert found["figures"]["miou"]["sd"] == pytest.approx(0.1 / 2**0.5)
    assert found["classes"]["cat"] == {"images": 4, "iou": [0.5, 0.6]}
    assert found["settings"][1] == "cmpa.loss=crossmodal"
    assert [each["result"] for each in found["made"]] == [
        f"key-L_crossmodal, gradcam-{seed}" for seed in (0, 1)
    ]
    assert found["made"][1]["seed"] == 1 and found["made"][1]["command"] == "ssrseg table N"
    published = next(row for row in table["rows"] if row["row"] == "L_feature")
    assert published["published"] == {"mIoU": 53.5}
    table, rest = text.split("What made each row", 1)
    for part, columns in ((table, 5), (rest, 6)):  # no ragged line
        lines = [line for line in part.splitlines() if line.startswith("| ")]
        assert {line.count(" | ") for line in lines} == {columns}


def test_an_ablation() -> None:
    rows = tuple(
        Experiment(name, (), SSR_TRAINING) for name in ("sgc.high=0.3", "sgc.high=0.5", "c")
    )
    found = [
        result(row.name, seed, miou)
        for row, miou in zip(rows, (0.5, 0.52), strict=False)
        for seed in (0, 1)
    ]
    printed = ablation_table(rows, found, "ssrseg ablate x")
    cells = {row.name: row.cells for row in printed.tables[0].rows}
    assert cells["sgc.high=0.5"][0] == "52.0 ± 0.0"
    assert cells["sgc.high=0.5"][4] == "2.0 ± 0.0"
    assert cells["c"][0] == NOT_MEASURED
    assert "`ssrseg ablate x`" in printed.notes[0]


def test_an_ablation_of_masks_says_what_they_leave_open() -> None:
    rows = tuple(Experiment(name, (), SSR_TRAINING, "masks") for name in ("pseudo.alpha=1", "b"))
    found = [result(rows[0].name, seed, 0.5) for seed in (0, 1)]
    for each, undecided in zip(found, (0.125, 0.375), strict=True):
        each.record["undecided"] = undecided
    printed = ablation_table(rows, found, "ssrseg ablate x")
    cells = {row.name: row.cells for row in printed.tables[0].rows}
    assert printed.tables[0].columns[-1] == "undecided"
    assert cells["pseudo.alpha=1"][-1] == "25.0 ± 17.7"
    assert cells["b"][-1] == NOT_MEASURED
    assert printed.rows[0]["undecided"] == [0.125, 0.375]
