"""The paper's claims, each with the figures that it rests on, and what ours say about them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import sub
from typing import Literal

from scipy.stats import t as student

from ssrseg.paper.published import Cell
from ssrseg.paper.results import Results
from ssrseg.paper.rows import AS_SET, CLIP_CAM, CLIP_ES_DECODER, DECODER_CRF
from ssrseg.paper.tables import FULL
from ssrseg.paper.workspace import Result

Word = Literal["holds", "does not hold", "within noise", "one seed", "not measured"]

LEVEL = 2.0
"""Points below a printed level that still count as reproduced: independent reproductions of WeCLIP,
on which SSR builds, lie 1.4 to 3 below its paper (docs/tables.md)."""

CONFIDENCE = 0.95

RULE = (
    "A gain is taken seed by seed, so that what both sides share drops out. The 95 % interval of"
    " its mean is mean ± t · sd / √n (Student's t, n seeds). **Holds**: the whole interval is above"
    " the bound. **Does not hold**: the whole interval is at the bound or below. **Within noise**:"
    f" the bound lies inside. The bound of a gain is 0, that of a level {LEVEL:g} points below the"
    " printed figure (independent reproductions of WeCLIP lie 1.4 to 3 points below its paper)."
    " Where neither side is trained there is no spread, and the figure itself decides. One seed of"
    " something trained decides nothing. A seed that never hits some class has no confusion ratio."
)


@dataclass(frozen=True)
class Claim:
    """Something the paper says, as figures of its tables.

    Attributes:
        text: In words.
        of: The figure that it is about.
        over: The figure that it is said to be better than; None = the level itself is claimed.
        data: Whose results ours are.
    """

    text: str
    of: Cell
    over: Cell | None = None
    data: Literal["voc", "coco"] = "voc"

    @property
    def lower_is_better(self) -> bool:
        """True of the ratio of false to true positives."""
        return self.of.column == "confusion ratio"

    @property
    def printed(self) -> float:
        """The printed gain (better = above 0), or the printed level."""
        if self.over is None:
            return self.of.printed
        gain = self.of.printed - self.over.printed
        return -gain if self.lower_is_better else gain

    @property
    def bound(self) -> float:
        """What ours has to be above."""
        return 0.0 if self.over is not None else self.of.printed - LEVEL


@dataclass(frozen=True)
class Verdict:
    """What our figures say about a bound.

    Attributes:
        values: A figure for each seed; a single one where nothing is trained.
        interval: 95 % of their mean; None of nothing or of one seed.
    """

    values: tuple[float, ...]
    word: Word
    interval: tuple[float, float] | None = None


_CLIP = Cell(4, "CLIP")
_CMPA, _CLIP_ATTENTION = Cell(3, "CMPA"), Cell(3, "CMPA, CLIP attention")
_DINO = Cell(3, "CMPA, CLIP and DINO attention")
_SGC = Cell(3, "CMPA, CLIP and DINO attention, SGC")
_SEEDS = Cell(2, "SSR")
_VAL, _VAL_CRF = Cell(1, "SSR without CRF", "VOC val"), Cell(1, "SSR", "VOC val")
_COCO, _COCO_CRF = Cell(1, "SSR without CRF", "COCO val"), Cell(1, "SSR", "COCO val")

CLAIMS = (
    Claim("CMPA lifts the initial CAM, read by GradCAM", Cell(4, "L_crossmodal"), _CLIP),
    Claim("CMPA lifts the initial CAM, read as the preset reads it", _CMPA, _CLIP),
    Claim("L_crossmodal is better than L_in_modal", Cell(4, "L_crossmodal"), Cell(4, "L_in_modal")),
    Claim("L_in_modal is better than L_feature", Cell(4, "L_in_modal"), Cell(4, "L_feature")),
    Claim("CLIP's attention lifts CMPA's CAM", _CLIP_ATTENTION, _CMPA),
    Claim("DINO's attention lifts it further", _DINO, _CLIP_ATTENTION),
    Claim("SGC lifts it further", _SGC, _DINO),
    Claim("SSR's seeds are better than CLIP-ES's", _SEEDS, Cell(2, "CLIP-ES")),
    Claim("SSR's seeds are better than WeCLIP's, as printed", _SEEDS, Cell(2, "WeCLIP")),
    Claim("SSR's seeds, VOC train", _SEEDS),
    Claim("SSR without CRF, VOC val", _VAL),
    Claim("SSR with CRF, VOC val", _VAL_CRF),
    Claim("the DenseCRF lifts SSR, VOC val", _VAL_CRF, _VAL),
    Claim("SSR is better than WeCLIP, as printed, VOC val", _VAL_CRF, Cell(1, "WeCLIP", "VOC val")),
    Claim("SSR is better than ExCEL, as printed, VOC val", _VAL_CRF, Cell(1, "ExCEL", "VOC val")),
    Claim(
        "fewer confusions than WeCLIP, as printed (FP / TP)",
        Cell(5, "SSR", "confusion ratio"),
        Cell(5, "WeCLIP", "confusion ratio"),
    ),
    Claim("share of full supervision, %", Cell(6, "SSR, ViT-B*", "% of full supervision")),
    Claim("SSR without CRF, COCO val", _COCO, data="coco"),
    Claim("SSR with CRF, COCO val", _COCO_CRF, data="coco"),
    Claim("the DenseCRF lifts SSR, COCO val", _COCO_CRF, _COCO, data="coco"),
    Claim(
        "SSR is better than WeCLIP, as printed, COCO val",
        _COCO_CRF,
        Cell(1, "WeCLIP", "COCO val"),
        data="coco",
    ),
)


@dataclass(frozen=True)
class Control:
    """A gain of ours over a row that has no part of what is credited with it.

    Attributes:
        text: What is ruled out if it holds.
        of, over: Names of our rows.
    """

    text: str
    of: str
    over: str


CONTROLS = (
    Control("CMPA's CAM: its training, not its read-out", "CMPA CAM", "untrained CMPA CAM"),
    Control("CMPA's CAM: over CLIP read alike", "CMPA CAM", "CLIP CAM, combined"),
    Control(
        "CMPA by GradCAM, with the background pairs that the paper does not have",
        "L_crossmodal + background pairs, gradcam",
        CLIP_CAM.name,
    ),
    Control("CMPA behind everything else", AS_SET.name, "the preset without CMPA"),
    Control("SGC's mask behind everything else", AS_SET.name, "the preset without a mask"),
    Control(
        "attention, not colour and place alone",
        "the preset without a mask",
        "colour-position kernel, no mask",
    ),
    Control("SSR's CAMs for the decoder, over CLIP-ES's", DECODER_CRF.name, CLIP_ES_DECODER.name),
)

BySeed = dict[int | None, float]
"""A figure for each seed; under None one that depends on no seed: training-free, or printed."""


def judge(values: Sequence[float], bound: float, *, trained: bool) -> Verdict:
    """Hold figures against a bound, by ``RULE``.

    Args:
        values: One for each seed, in percent or as a ratio.
        bound: What their mean has to be above.
        trained: Whether they depend on a seed.
    """
    if not values:
        return Verdict((), "not measured")
    if trained and len(values) == 1:
        return Verdict(tuple(values), "one seed")
    mean, half = statistics.fmean(values), 0.0
    if trained:
        error = statistics.stdev(values) / math.sqrt(len(values))
        half = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    interval = (mean - half, mean + half)
    word: Word = "within noise"
    if interval[0] > bound:
        word = "holds"
    elif interval[1] <= bound:
        word = "does not hold"
    return Verdict(tuple(values), word, interval)


def verdict(claim: Claim, results: Results) -> Verdict:
    """What our results on the claim's data say about it."""
    found = by_seed(claim.of, results)
    if claim.over is not None:
        sign = -1.0 if claim.lower_is_better else 1.0
        found = paired(found, by_seed(claim.over, results), lambda of, over: sign * (of - over))
    return judge(tuple(found.values()), claim.bound, trained=None not in found)


def gain(of: str, results: Results, over: str, others: Results) -> Verdict:
    """Whether the mIoU of one of our rows is above that of another, perhaps of another preset."""
    found = paired(figures(of, results), figures(over, others), sub)
    return judge(tuple(found.values()), 0.0, trained=None not in found)


def by_seed(cell: Cell, results: Results) -> BySeed:
    """Our figure for each seed, or the printed one where we have no such row."""
    row = cell.ours
    if row is None:
        return {None: cell.printed}
    if cell.column == "% of full supervision":
        full = {seed: miou for seed, miou in figures(FULL[row], results).items() if miou}
        return paired(figures(row, results), full, lambda of, over: 100 * of / over)
    if cell.column == "confusion ratio":
        whole = Results(tuple(filter(_all_hit, results.of(row))))
        return figures(row, whole, "confusion_ratio", 1.0)
    return figures(row, results)


def figures(row: str, results: Results, figure: str = "miou", scale: float = 100.0) -> BySeed:
    """A figure of an experiment for each seed; what is not defined is left out."""
    values = {
        each.seed if each.record["training"] else None: each.figures[figure]
        for each in results.of(row)
    }
    return {seed: scale * value for seed, value in values.items() if value is not None}


def _all_hit(result: Result) -> bool:
    """Whether every class that is shown is hit: the mean ratio of the others would flatter."""
    classes = result.record["classes"].values()
    return all(each["confusion_ratio"] is not None for each in classes if each["images"])


def paired(of: BySeed, over: BySeed, combine: Callable[[float, float], float]) -> BySeed:
    """Two figures of each seed made one; what depends on no seed stands beside every one."""
    seeds = [*dict.fromkeys([*of, *over])]
    if len(seeds) > 1:
        seeds = [seed for seed in seeds if seed is not None]
    pairs = {seed: (of.get(seed, of.get(None)), over.get(seed, over.get(None))) for seed in seeds}
    return {
        seed: combine(first, second)
        for seed, (first, second) in pairs.items()
        if first is not None and second is not None
    }
