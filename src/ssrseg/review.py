"""What to look at first: a score of each mask, reasons to doubt it, and labels to check.

The score is the mean over background and classes of the IoU that the mask would have if its scores
were probabilities, less where the image does not look like a label, times the share of the image's
outline that no class covers. No weight in it was fitted to true masks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ssrseg.data.csv_lines import csv_line
from ssrseg.data.files import write_text, writing
from ssrseg.errors import counted
from ssrseg.method.evidence import cam_disagreement, expected_iou, outline_share
from ssrseg.safe_json import JsonError, parse_json

SHOWN = 5
"""Masks that are named at the end of a run."""

DOUBTS = "labels_to_check.csv"

# Quantiles of 200 demo scenes with right labels, made for this choice (docs/review.md).
DOUBTFUL = 0.07
"""Evidence of a label below it is doubtful: 2 % of right labels."""
SEEN = 0.2
"""Evidence of a class that the image is not labelled with: 1 in 1,000 absent classes."""
EVERYTHING, NOTHING = 0.72, 0.023
"""Share of the image that the classes cover: 2 % of masks cover more, 2 % less."""
OUTLINE = 0.5
"""Share of the image's outline that the classes cover: 10 % of masks."""
UNSURE = 0.4
"""Mean expected IoU: 2 % of masks."""
DISAGREEING = 0.2
"""Share of patches where the CAM and the refined CAM choose different classes: 2 % of masks."""


@dataclass(frozen=True)
class Doubt:
    """A label, given or missing, that may be wrong.

    Attributes:
        label: Name of the class.
        given: Whether the image is labelled with it.
        evidence: How much the image looks like it to CLIP, in [0, 1].
    """

    label: str
    given: bool
    evidence: float


@dataclass(frozen=True)
class Review:
    """Whether a mask should be looked at.

    Attributes:
        score: Expected quality of the mask, in [0, 1].
        reasons: Why it may be wrong, as short phrases.
        doubts: Labels to check.
    """

    score: float
    reasons: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()

    def to_text(self) -> str:
        """One line of ASCII."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Review | None:
        """What ``to_text`` wrote; None if it is anything else."""
        try:
            found = parse_json(text)
            doubts = tuple(
                Doubt(str(each["label"]), bool(each["given"]), float(each["evidence"]))
                for each in found["doubts"]
            )
            return cls(float(found["score"]), tuple(map(str, found["reasons"])), doubts)
        except (JsonError, KeyError, TypeError, ValueError):
            return None


def review_mask(
    scores: Float[Tensor, "channels height width"],
    ids: UInt8[Tensor, "height width"],
    cams: tuple[Float[Tensor, "slots grid_h grid_w"], Float[Tensor, "slots grid_h grid_w"]],
    labels: Sequence[int],
    evidence: Mapping[str, float],
    classes: Sequence[str],
    shown: Collection[int] | None = None,
) -> Review:
    """The review of a mask that was made from labels.

    Args:
        scores: Background first, then the labels.
        ids: The mask, of the same size.
        cams: CAM and refined CAM, in [0, 1].
        labels: Class indices of the image.
        evidence: By name of the class; of all labels, and of the other classes that are known.
        classes: All names.
        shown: Ids that the whole mask shows, if ``ids`` are some of its pixels.
    """
    channel_ids = torch.tensor([0, *(index + 1 for index in labels)], device=ids.device)
    iou = expected_iou(scores[: len(channel_ids)], ids, channel_ids).cpu()
    names = [classes[index] for index in labels]
    support = torch.tensor([1.0, *(min(1.0, evidence[name] / DOUBTFUL) for name in names)])
    doubts = [
        Doubt(name, name in names, round(evidence[name], 4))
        for name in classes
        if name in evidence
        and (evidence[name] < DOUBTFUL if name in names else evidence[name] >= SEEN)
    ]
    shown = ids.unique().tolist() if shown is None else shown
    reasons = [f"nothing of {classes[index]} found" for index in labels if index + 1 not in shown]
    reasons += [f"hardly looks like {each.label}" for each in doubts if each.given]
    reasons += [f"looks like {each.label} too" for each in doubts if not each.given]
    if labels:
        reasons += _about_mask(ids, float(iou.mean()))
    if cam_disagreement(*cams) > DISAGREEING:
        reasons.append("CAM and refined CAM disagree")
    score = float((iou * support).mean()) * (1 - outline_share(ids))
    return Review(round(score, 3), tuple(reasons), tuple(doubts))


def review_prediction(
    probabilities: Float[Tensor, "channels height width"], ids: UInt8[Tensor, "height width"]
) -> Review:
    """The review of a mask that a trained decoder has made, of the classes that it shows.

    Args:
        probabilities: Of all classes, background first.
        ids: The mask, of the same size.
    """
    shown = ids.unique().long()
    channels = torch.cat([shown.new_zeros(1), shown[(shown > 0) & (shown < len(probabilities))]])
    others = 1 - probabilities[channels].sum(0, keepdim=True)
    scores = torch.cat([probabilities[channels], others.clamp(min=0)])
    channel_ids = torch.cat([channels, channels.new_full((1,), -1)])
    iou = expected_iou(scores, ids, channel_ids)[:-1]
    score = float(iou.mean()) * (1 - outline_share(ids))
    return Review(round(score, 3), tuple(_about_mask(ids, float(iou.mean()))))


def review_order(reviews: Mapping[str, Review]) -> dict[str, Review]:
    """The lowest score first; equal ones by name."""
    return dict(sorted(reviews.items(), key=lambda each: (each[1].score, each[0])))


def describe_reviews(folder: Path, reviews: Mapping[str, Review]) -> list[str]:
    """What to tell at the end of a run: the first masks to look at, and how many labels to check.

    Args:
        reviews: In review order.
    """
    if not reviews:
        return []
    lines = ["Look first at (lowest score first; all in manifest.csv, columns score and reasons):"]
    for name, review in islice(reviews.items(), SHOWN):
        reasons = f"  {'; '.join(review.reasons)}" if review.reasons else ""
        lines.append(f"  {review.score:.3f}  {name}{reasons}")
    doubted = [name for name, review in reviews.items() if review.doubts]
    if doubted:
        labels = sum(len(reviews[name].doubts) for name in doubted)
        lines.append(
            f"Labels to check: {labels:,} in {counted(len(doubted), 'image', 'images')}, the most"
            f" doubtful first ({folder / DOUBTS})."
        )
    return lines


def write_doubts(folder: Path, reviews: Mapping[str, Review]) -> None:
    """Write ``labels_to_check.csv`` into a folder, or remove it if no label is in doubt.

    Labels that were given come first, those with the least evidence before the others, then classes
    that images seem to lack a label of, the most evident first.

    Raises:
        OutputError: If it cannot be written.
    """
    path = folder / DOUBTS
    doubts = [(not doubt.given, doubt.evidence if doubt.given else -doubt.evidence, name, doubt)
              for name, review in reviews.items() for doubt in review.doubts]  # fmt: skip
    if not doubts:
        with writing(path):
            path.unlink(missing_ok=True)
        return
    rows: list[tuple[object, ...]] = [("name", "label", "given", "evidence")]
    for *_, name, doubt in sorted(doubts, key=lambda each: each[:3]):
        given = "yes" if doubt.given else "no"
        rows.append((name, doubt.label, given, f"{doubt.evidence:.4f}"))
    write_text(path, "".join(map(csv_line, rows)))


def _about_mask(ids: UInt8[Tensor, "height width"], iou: float) -> list[str]:
    """Reasons that need no label; ``iou`` is the mean expected IoU."""
    covered = float(((ids > 0) & (ids != 255)).float().mean())
    found = {
        "mask covers almost everything": covered > EVERYTHING,
        "mask covers almost nothing": covered < NOTHING,
        "mask runs along the edge of the image": outline_share(ids) > OUTLINE,
        "low confidence": iou < UNSURE,
    }
    return [reason for reason, holds in found.items() if holds]
