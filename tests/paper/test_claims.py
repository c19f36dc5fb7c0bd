"""Verdicts by their rule, in closed form, and the paper's claims by its own figures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ssrseg.paper.claims import (
    CLAIMS,
    CONTROLS,
    LEVEL,
    Claim,
    by_seed,
    gain,
    judge,
    paired,
    verdict,
)
from ssrseg.paper.published import PAPER, Cell
from ssrseg.paper.results import Results
from ssrseg.paper.rows import TABLES
from ssrseg.paper.tables import FULL
from ssrseg.paper.workspace import Result

RUN = {"run": "runs/ssr/seed-0"}
HIT = {"training": RUN, "classes": {"cat": {"images": 2, "confusion_ratio": 0.1}}}
T2, T1 = 4.302652729911275, 12.706204736432095
"""97.5 % of Student's t with two degrees of freedom, and with one."""


def results(figures: dict[str, list[float]], trained: bool = True) -> Results:
    """Results of rows, in percent of mIoU, by seed."""
    return Results(
        tuple(
            Result(row, seed, {"miou": value / 100}, {"training": RUN if trained else None})
            for row, values in figures.items()
            for seed, value in enumerate(values)
        )
    )


def test_the_interval_is_students() -> None:
    found = judge((1.0, 2.0, 3.0), 0.0, trained=True)
    half = T2 / math.sqrt(3)  # of a deviation of 1
    assert found.interval == pytest.approx((2 - half, 2 + half))
    assert found.word == "within noise"  # 2 - 2.484
    assert judge((1.0, 2.0, 3.0), 2 - half - 1e-9, trained=True).word == "holds"
    assert judge((1.0, 2.0, 3.0), 2 + half + 1e-9, trained=True).word == "does not hold"
    two = judge((1.0, 3.0), 0.0, trained=True).interval
    assert two == pytest.approx((2 - T1, 2 + T1))


@pytest.mark.parametrize(
    ("values", "trained", "word"),
    [
        ((), True, "not measured"),
        ((9.0,), True, "one seed"),
        ((0.1,), False, "holds"),
        ((0.0,), False, "does not hold"),
        ((-0.1,), False, "does not hold"),
        ((0.5, 0.5, 0.5), True, "holds"),
        ((0.0, 0.0), True, "does not hold"),
        ((-3.0, -3.1, -2.9), True, "does not hold"),
        ((-0.1, 0.1, 0.0), True, "within noise"),
        ((4.0, 4.2, 4.1), True, "holds"),
    ],
)
def test_verdicts(values: tuple[float, ...], trained: bool, word: str) -> None:
    assert judge(values, 0.0, trained=trained).word == word


def test_a_gain_is_paired_by_seed() -> None:
    """Both rows spread by 10 points, their difference by none."""
    claim = Claim("", Cell(3, "CMPA, CLIP attention"), Cell(3, "CMPA"))
    found = verdict(claim, results({"+ CLIP attention": [31, 41, 51], "CMPA CAM": [30, 40, 50]}))
    assert found.values == pytest.approx((1.0, 1.0, 1.0))
    assert found.word == "holds"
    missing = results({"+ CLIP attention": [31, 41], "CMPA CAM": [30]})
    assert verdict(claim, missing).word == "one seed"
    assert verdict(claim, results({"CMPA CAM": [30, 40]})).word == "not measured"


def test_what_needs_no_training_stands_beside_every_seed() -> None:
    claim = Claim("", Cell(3, "CMPA"), Cell(4, "CLIP"))
    trained = results({"CMPA CAM": [60, 61, 62]}).results
    free = results({"CLIP CAM": [58]}, trained=False).results
    found = verdict(claim, Results((*trained, *free)))
    assert found.values == pytest.approx((2.0, 3.0, 4.0))
    assert found.word == "holds"  # 3 ± 2.48
    assert verdict(claim, Results(free)).word == "not measured"
    assert paired({None: 3.0}, {None: 1.0}, lambda of, over: of - over) == {None: 2.0}


def test_a_level_may_lie_below_the_printed_one() -> None:
    claim = Claim("", Cell(1, "SSR", "VOC val"))
    assert claim.bound == pytest.approx(79.5 - LEVEL)
    assert verdict(claim, results({"decoder + CRF": [77.6, 77.6, 77.6]})).word == "holds"
    assert verdict(claim, results({"decoder + CRF": [77.4, 77.4, 77.4]})).word == "does not hold"


def test_a_printed_figure_stands_for_a_method_that_is_not_ours() -> None:
    claim = Claim("", Cell(2, "SSR"), Cell(2, "WeCLIP"))
    assert claim.printed == pytest.approx(78.7 - 75.4)
    assert verdict(claim, results({"+ SGC": [76.4, 76.4]})).values == pytest.approx((1.0, 1.0))


def test_fewer_confusions_are_better() -> None:
    claim = Claim("", *(Cell(5, row, "confusion ratio") for row in ("SSR", "WeCLIP")))
    assert claim.printed == pytest.approx(0.039)
    found = [
        Result("decoder + CRF", seed, {"confusion_ratio": 0.2 + seed / 100}, HIT)
        for seed in range(3)
    ]
    assert verdict(claim, Results(tuple(found))).values == pytest.approx((0.037, 0.027, 0.017))
    for classes in (
        {"cat": {"images": 2, "confusion_ratio": None}},  # the mean of the others flatters
        {"cat": {"images": 2, "confusion_ratio": 9.0}},
        {"cat": {"images": 0, "confusion_ratio": None}},
    ):
        other = replace(found[0], record={**HIT, "classes": classes})
        counted = verdict(claim, Results((other, *found[1:]))).values
        hit = classes["cat"]["confusion_ratio"] or not classes["cat"]["images"]
        assert counted == pytest.approx((0.037, 0.027, 0.017) if hit else (0.027, 0.017))


def test_share_of_full_supervision_by_seed() -> None:
    claim = Claim("", Cell(6, "SSR, ViT-B*", "% of full supervision"))
    row = "decoder + CRF"
    found = results({row: [40, 30, 20], FULL[row]: [50, 40, 0]})
    assert verdict(claim, found).values == pytest.approx((80.0, 75.0))  # no share of nothing


def test_every_claim_rests_on_figures_that_are_printed_and_measured() -> None:
    experiments = {row.name for rows in TABLES.values() for row in rows}
    for claim in CLAIMS:
        assert claim.of.ours in experiments, claim.text
        assert claim.printed > 0, claim.text  # the paper's claims hold in the paper
        if claim.over is not None:
            assert claim.over.ours in {*experiments, None}
    assert len({claim.text for claim in CLAIMS}) == len(CLAIMS) >= 20
    gradcam = CLAIMS[0]
    assert (gradcam.of.ours, gradcam.over and gradcam.over.ours) == (
        "L_crossmodal, gradcam",
        "CLIP CAM",
    )
    assert gradcam.printed == pytest.approx(4.7)


def test_controls_are_held_against_rows_that_are_measured() -> None:
    experiments = {row.name for rows in TABLES.values() for row in rows}
    assert all({each.of, each.over} <= experiments for each in CONTROLS)
    of, over = CONTROLS[0].of, CONTROLS[0].over
    found = results({of: [50, 51, 52], over: [49, 50, 51]})
    assert gain(of, found, over, found).word == "holds"
    assert gain(over, found, of, found).values == pytest.approx((-1.0, -1.0, -1.0))
    assert gain(of, found, of, results({of: [50, 51, 53]})).values == pytest.approx((0, 0, -1))


def test_cells_are_the_papers() -> None:
    assert Cell(1, "SSR", "COCO val").printed == 50.6
    assert by_seed(Cell(2, "SeCo"), Results(())) == {None: 74.8}
    assert all(PAPER[claim.of.table] for claim in CLAIMS)
