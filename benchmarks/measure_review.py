"""Does the review order find bad masks, and wrong labels? On images whose true masks are known.

Masks are made from the true image-level labels, and again from labels of which one in ten is wrong.
By default on three sets of unseen scenes of the demo; ``--chosen`` adds the set on which thresholds
and combination were chosen. ``--data FOLDER --split NAME`` with ``--preset``, ``--clip`` and
``--dino`` measures photographs; ``--model RUN`` adds the masks that its decoder predicts.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import rankdata
from timing import RESULTS
from torch import Tensor
from torch.nn import functional

from ssrseg.config import load_config
from ssrseg.data.class_ids import read_truth
from ssrseg.data.files import write_json
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.photos import UnreadablePhoto, read_photos
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.demo.run import FIRST_SCENE
from ssrseg.demo.scenes import write_dataset
from ssrseg.method.evidence import (
    cam_disagreement,
    expected_iou,
    outline_share,
    pixel_confidence,
)
from ssrseg.model import SSR
from ssrseg.photo_masks import PhotoMask, photo_masks
from ssrseg.pixel_scores import enlarged
from ssrseg.review import review_mask

SCENES, PREDICTED, WRONG = 200, 100, 0.1
REASONS = (
    "nothing of", "hardly looks like", "looks like", "mask covers almost everything",
    "mask covers almost nothing", "mask runs along", "low confidence", "CAM and refined",
)  # fmt: skip
"""How the reasons of a review begin."""

BINS = np.linspace(0, 1, 11)


@dataclass
class Found:
    """One image: its true mIoU, its signals (higher = better), and those of its labels.

    ``labels`` has a row per label: whether it is wrong, then its signals by name.
    """

    iou: float
    wrong: bool
    signals: dict[str, float]
    labels: list[tuple[bool, dict[str, float]]]
    confident: np.ndarray
    """Pixels, and right pixels, by confidence."""
    reasons: tuple[str, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--clip")
    parser.add_argument("--dino")
    parser.add_argument("--model")
    parser.add_argument("--chosen", action="store_true")
    parser.add_argument("--name", default="review")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    keys = {"clip": chosen.clip, "dino": chosen.dino}
    overrides = tuple(f"backbones.{key}={value}" for key, value in keys.items() if value)
    config = load_config(chosen.preset, overrides=overrides)
    tables: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in _sets(chosen, Path(folder)):
            cache = SuperpixelCache.of(Path(folder) / "superpixels", config.sgc)
            model = SSR.for_data(config, data, None, device="cpu")
            right = list(_masks(model, data, [sample.labels for sample in data.samples], cache))
            noisy, wrong = planted(data)
            spoiled = list(_masks(model, noisy, [s.labels for s in data.samples], cache, wrong))
            tables[f"{name}: masks"] = _image_table(right, spoiled)
            tables[f"{name}: labels"] = _label_table(spoiled)
            tables[f"{name}: reasons"] = _reason_table(right)
            tables[f"{name}: confidence"] = _calibration(right)
            if chosen.model:
                decoder = SSR.from_pretrained(chosen.model, segment_only=True, device="cpu")
                predicted = list(_predictions(decoder, data))
                tables[f"{name}: predictions"] = _image_table(predicted, [])
                tables[f"{name}: confidence of predictions"] = _calibration(predicted)
    for title, rows in tables.items():
        print(f"\n{title}")
        for row, values in rows.items():
            print(f"  {row:34}" + "".join(f"{value:8.2f}" for value in values))
    write_json(RESULTS / f"{chosen.name}.json", tables)


def _sets(chosen: argparse.Namespace, folder: Path) -> Iterator[tuple[str, LabelledImages]]:
    if chosen.data is not None:
        data = open_labelled(chosen.data, split=chosen.split)
        yield chosen.split or "photographs", data
        return
    for number in range(0 if chosen.chosen else 1, 4):
        first, root = FIRST_SCENE + 80_000 + 1_000 * number, folder / str(number)
        write_dataset(root, train=range(first, first + SCENES), val=range(0))
        yield f"scenes {number}", open_labelled(root, split="train")


def planted(data: LabelledImages, seed: int = 0) -> tuple[LabelledImages, list[set[int]]]:
    """Labels of which one in ten has gone wrong, and which of the given ones these are.

    Half of them are replaced by another class, beside half a class is added that the image does
    not show; classes are drawn as often as they occur.
    """
    draw = random.Random(seed)
    pool = [label for sample in data.samples for label in sample.labels]
    samples, wrong = [], []
    for sample in data.samples:
        labels, bad = set(sample.labels), set()
        for label in sample.labels:
            if draw.random() < WRONG:
                other = draw.choice([c for c in pool if c not in labels | set(sample.labels)])
                if draw.random() < 0.5:
                    labels.discard(label)
                labels.add(other)
                bad.add(other)
        samples.append(replace(sample, labels=tuple(sorted(labels))))
        wrong.append(bad)
    return replace(data, samples=tuple(samples)), wrong


def _masks(
    model: SSR,
    data: LabelledImages,
    true: Sequence[tuple[int, ...]],
    superpixels: SuperpixelCache,
    wrong: Sequence[set[int]] = (),
) -> Iterator[Found]:
    """Masks as ``ssrseg masks`` makes them, with every signal that was tried."""
    n, given = len(data), data.labels
    masks: dict[int, tuple[PhotoMask, dict[str, float], Tensor, Found]] = {}
    wanted = superpixels if model.wants_superpixels else None
    for batch in read_photos(
        data.samples, model.config.data, model.patch_size, wanted, model.device
    ):
        assert not isinstance(batch, UnreadablePhoto)
        for row, found in enumerate(photo_masks(model, batch)):
            index = batch.index[row]
            sample, way = data.samples[index], found.rectification
            scores = way.scores[row, : len(found.labels) + 1]
            ids = way.pseudo_mask[row]
            photo = batch.small[row]
            size = (found.pseudo_mask.shape[0], found.pseudo_mask.shape[1])
            assert sample.truth is not None
            truth = read_truth(sample.truth, size, len(data.classes), true[index])
            evidence = dict(zip(data.classes, found.evidence.tolist(), strict=True))
            pair = found.cam, found.refined_cam
            review = review_mask(scores, ids, pair, found.labels, evidence, data.classes)
            channels = torch.tensor([0, *(label + 1 for label in found.labels)])
            bare = torch.cat([1 - found.refined_cam.amax(0, keepdim=True), found.refined_cam])
            bare = functional.interpolate(bare[None], ids.shape, mode="bilinear")[0].argmax(0)
            sure = pixel_confidence(scores)
            own = [found.evidence[label].item() for label in found.labels]
            others = [v for k, v in enumerate(found.evidence.tolist()) if k not in found.labels]
            signals = {
                "score": review.score,
                "expected IoU": float(expected_iou(scores, ids, channels).mean()),
                "outline not covered": 1 - outline_share(ids),
                "evidence, least of the labels": min(own, default=1.0),
                "no evidence for absent classes": -max(others, default=0.0),
                "labels with a pixel": -sum(not (ids == c).any() for c in channels[1:]),
                "mean confidence": float(sure.mean()),
                "CAM and refined CAM agree": -cam_disagreement(*pair),
                "mask and mask before PAR agree": float((channels[bare] == ids).float().mean()),
                "share of the image covered": -float((ids > 0).float().mean()),
                "edges of the mask on image edges": _on_edges(photo, ids),
                "foreground unlike background": _apart(way.initial.patch_features[row], found),
                "few labels": -len(found.labels),
            }
            signals["area usual for the class"] = 0.0  # known once all masks are
            iou = _iou(found.pseudo_mask, truth, {*true[index], *found.labels})
            confident = _by_confidence(enlarged(sure, size), found.pseudo_mask, truth)
            one = Found(iou, False, signals, [], confident, review.reasons)
            features = way.initial.patch_features[row]
            masks[index] = found, evidence, features.half(), one
    areas = [
        [(float((masks[i][0].pseudo_mask == c + 1).float().mean()), c) for c in masks[i][0].labels]
        for i in range(n)
    ]
    usual = {c: np.median([a for row in areas for a, k in row if k == c]) for _, c in chain(*areas)}
    embedding = torch.stack([masks[i][2].float().mean(0) for i in range(n)])
    left_out = _left_out(embedding, given)
    table = torch.stack([masks[i][0].evidence for i in range(n)])
    mean_evidence = (table * given).sum(0) / given.sum(0).clamp(min=1)
    prototypes = _prototype_margins([(masks[i][0], masks[i][2].float()) for i in range(n)], given)
    probability = model_probability(model, embedding)
    for index in range(n):
        found, _, _, one = masks[index]
        unlike = [abs(np.log((a + 1e-3) / (usual[c] + 1e-3))) for a, c in areas[index]]
        one.signals["area usual for the class"] = -max(unlike, default=0.0)
        bad = wrong[index] if wrong else set()
        one.wrong = bool(bad)
        for slot, label in enumerate(found.labels):
            signals = {
                "evidence": float(table[index, label]),
                "evidence / class's mean": float(table[index, label] / mean_evidence[label]),
                "image-level probability": float(probability[index, label]),
                "left-out linear classifier": float(left_out[index, label]),
                "prototype of the class": prototypes[index][slot],
                "area of the mask": areas[index][slot][0],
            }
            one.labels.append((label in bad, signals))
        yield one


def model_probability(model: SSR, embedding: Tensor) -> Tensor:
    """CLIP's zero-shot probability of each class by the mean patch."""
    unit = functional.normalize(embedding, dim=-1)
    cosine = unit @ functional.normalize(model.text_features, dim=-1).T
    return (float(model.clip.logit_scale) * cosine).softmax(-1)[:, : model.n_classes]


def _left_out(embedding: Tensor, labels: Tensor, penalty: float = 0.01) -> Tensor:
    """What a ridge regression on the other images says of each image's labels."""
    x = functional.normalize(embedding, dim=-1)
    x = x - x.mean(0)
    x = torch.cat([x / x.pow(2).sum(1).mean().sqrt(), torch.ones(len(x), 1)], 1)
    ridge = penalty * len(x) * torch.eye(x.shape[1])
    ridge[-1, -1] = 1e-6 * len(x)
    hat = x @ torch.linalg.solve(x.T @ x + ridge, x.T)
    leverage = hat.diagonal()[:, None]
    given = labels.float()
    return (hat @ given - leverage * given) / (1 - leverage)


def _prototype_margins(found: list[tuple[PhotoMask, Tensor]], labels: Tensor) -> list[list[float]]:
    """Cosine of pooled foreground and the mean of its class elsewhere, less the best other."""
    pooled = [
        [
            functional.normalize((cam.flatten() @ functional.normalize(v, dim=-1)), dim=0)
            for cam in mask.refined_cam**2
        ]
        for mask, v in found
    ]
    n_classes = labels.shape[1]
    total = torch.zeros(n_classes, found[0][1].shape[1])
    for (mask, _), rows in zip(found, pooled, strict=True):
        for label, row in zip(mask.labels, rows, strict=True):
            total[label] += row
    margins = []
    for (mask, _), rows in zip(found, pooled, strict=True):
        margins.append([])
        for label, row in zip(mask.labels, rows, strict=True):
            rest = total.clone()
            rest[label] -= row
            cosine = functional.normalize(rest, dim=-1) @ row
            own = float(cosine[label])
            cosine[list(mask.labels)] = -1
            margins[-1].append(own - float(cosine.max()))
    return margins


def _predictions(model: SSR, data: LabelledImages) -> Iterator[Found]:
    for sample in data.samples[:PREDICTED]:
        photo = read_image(sample.image, model.config.data.range)
        found = model.segment_photo(photo)
        assert sample.truth is not None
        size = (photo.shape[0], photo.shape[1])
        truth = read_truth(sample.truth, size, len(data.classes), sample.labels)
        outline = outline_share(found.pseudo_mask)
        signals = {
            "score": found.review.score,
            "expected IoU": found.review.score / max(1 - outline, 1e-6),
            "outline not covered": 1 - outline,
            "mean confidence": float(found.confidence.mean()),
            "few classes": -len(found.pseudo_mask.unique()),
            "scales and mirror agree": _agreement(model, photo),
        }
        confident = _by_confidence(found.confidence, found.pseudo_mask, truth)
        iou = _iou(found.pseudo_mask, truth, set(sample.labels))
        yield Found(iou, False, signals, [], confident, found.review.reasons)


def _agreement(model: SSR, photo: Tensor) -> float:
    """Share of the pixels on which all test scales agree, each with its mirror image."""
    test = model.config.test
    ids = [
        model.with_config(replace(model.config, test=replace(test, scales=(scale,))))
        .probabilities(photo)
        .argmax(0)
        for scale in test.scales
    ]
    return float(torch.stack([each == ids[0] for each in ids]).all(0).float().mean())


def _iou(ids: Tensor, truth: Tensor, classes: set[int]) -> float:
    """Mean IoU over background, the classes of an image, and those of its mask."""
    scored = truth != 255
    shown = {int(each) - 1 for each in ids[scored].unique() if each not in (0, 255)}
    values = []
    for value in (0, *(index + 1 for index in classes | shown)):
        one, other = (ids == value) & scored, (truth == value) & scored
        union = int((one | other).sum())
        values += [int((one & other).sum()) / union] if union else []
    return float(np.mean(values))


def _by_confidence(confidence: Tensor, ids: Tensor, truth: Tensor) -> np.ndarray:
    """Pixels, right pixels and summed confidence in ten steps of confidence."""
    scored = (truth != 255) & (ids != 255)
    sure, right = confidence[scored].numpy(), (ids == truth)[scored].numpy()
    step = np.clip((sure * 10).astype(int), 0, 9)
    return np.stack([np.bincount(step, w, 10) for w in (np.ones_like(sure), right, sure)])


def _on_edges(photo: Tensor, ids: Tensor) -> float:
    """Share of the mask's edge that lies on the strongest fifth of the image's gradients."""
    slope = ndimage.gaussian_gradient_magnitude(photo.mean(0).numpy(), 1.0)
    edge = ndimage.morphological_gradient(ids.numpy(), size=3) > 0
    return float((slope[edge] > np.quantile(slope, 0.8)).mean()) if edge.any() else 0.0


def _apart(features: Tensor, found: PhotoMask) -> float:
    """1 - cosine of the mean features of foreground and background."""
    unit = functional.normalize(features, dim=-1)
    inside = (found.pseudo_mask > 0).float()[None, None]
    grid = (found.cam.shape[1], found.cam.shape[2])
    weight = functional.interpolate(inside, grid, mode="area").flatten()
    one, other = weight @ unit, (1 - weight) @ unit
    return 1 - float(functional.cosine_similarity(one, other, dim=0))


def _image_table(right: list[Found], spoiled: list[Found]) -> dict[str, list[float]]:
    """Rank correlation, worst fifth found; with wrong labels: the same, and average precision."""
    rows = {"mean IoU; share of images wrong": [_mean(right)]}
    if spoiled:
        wrong = [each.wrong for each in spoiled]
        rows["mean IoU; share of images wrong"] += [_mean(spoiled), float(np.mean(wrong))]
    for name in right[0].signals:
        rows[name] = []
        for found in (right, spoiled) if spoiled else (right,):
            iou = np.array([each.iou for each in found])
            signal = np.array([each.signals[name] for each in found])
            rows[name] += [spearman(signal, iou), worst_fifth(signal, iou)]
        if spoiled:
            rows[name].append(average_precision(-signal, wrong))
    scores = [each.signals["score"] for each in right]
    off = [each.signals["score"] - each.iou for each in right]
    rows["score: mean, mean error"] = [float(np.mean(scores)), float(np.abs(off).mean())]
    return rows


def _mean(found: list[Found]) -> float:
    return float(np.mean([each.iou for each in found]))


def _label_table(found: list[Found]) -> dict[str, list[float]]:
    """Average precision over all given labels; the chance level is the share that is wrong."""
    labels = [label for each in found for label in each.labels]
    wrong = [bad for bad, _ in labels]
    rows = {"share wrong": [float(np.mean(wrong))]}
    for name in labels[0][1]:
        rows[name] = [average_precision(-np.array([s[name] for _, s in labels]), wrong)]
    return rows


def _reason_table(found: list[Found]) -> dict[str, list[float]]:
    """How often a reason is given, and the mean IoU of those images (right labels)."""
    rows = {"any": [_mean(found)]}
    for kind in REASONS:
        iou = [e.iou for e in found if any(reason.startswith(kind) for reason in e.reasons)]
        rows[kind] = [len(iou) / len(found), float(np.mean(iou)) if iou else float("nan")]
    return rows


def _calibration(found: list[Found]) -> dict[str, list[float]]:
    """Share of the pixels, mean confidence and share right, in steps of confidence."""
    pixels, right, sure = np.sum([each.confident for each in found], 0)
    rows = {}
    for step in range(10):
        if pixels[step] > 0.001 * pixels.sum():
            values = [
                pixels[step] / pixels.sum(),
                sure[step] / pixels[step],
                right[step] / pixels[step],
            ]
            rows[f"{BINS[step]:.1f} to {BINS[step + 1]:.1f}"] = [float(value) for value in values]
    error = np.abs(sure - right).sum() / pixels.sum()
    return rows | {"mean distance": [float(error)]}


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation; equal values share a rank."""
    if np.ptp(one) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def worst_fifth(signal: np.ndarray, iou: np.ndarray) -> float:
    """Share of the worst fifth that the first fifth holds; equal signals are drawn by chance."""
    count = max(1, round(len(iou) / 5))
    worst = np.zeros(len(iou))
    worst[np.argsort(iou, kind="stable")[:count]] = 1
    last = np.sort(signal)[count - 1]
    surely, maybe = signal < last, signal == last
    drawn = (count - surely.sum()) / maybe.sum()
    return float((worst[surely].sum() + drawn * worst[maybe].sum()) / count)


def average_precision(suspicion: np.ndarray, wrong: Sequence[bool]) -> float:
    """Mean precision at each wrong one, the most suspicious first; equal ones in a fixed order."""
    order = np.random.default_rng(0).permutation(len(wrong))
    order = order[np.argsort(-np.asarray(suspicion)[order], kind="stable")]
    hit = np.asarray(wrong)[order]
    return float((hit.cumsum() / np.arange(1, len(hit) + 1))[hit].mean())


if __name__ == "__main__":
    main()
