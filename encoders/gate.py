"""What the demo world's CLIP must reach before SSR can be judged on it.

Run ``python -m encoders.gate --clip DIR --scenes 200``. The scenes were never trained on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ssrseg.demo.scenes import BACKGROUNDS, CLASSES, render_scene
from ssrseg.method.cam import allowed_words, gradcam, word_probability
from ssrseg.method.metrics import confusion_matrix, scores
from ssrseg.networks.clip import PIXEL_MEAN, PIXEL_STD, FrozenCLIP

HELD_OUT = 2_000_000
"""First seed of the scenes used here; pretraining never comes near it."""

ALPHAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Exponents of the background score (1 - max cam)^alpha that are tried."""


class HeldOut(NamedTuple):
    """Scenes for evaluation.

    Attributes:
        pixels: Normalised by CLIP's mean and standard deviation.
        truth: Class ids, 0 = background.
        present: Which classes are in the picture.
    """

    pixels: Float[Tensor, "scenes 3 side side"]
    truth: Int[Tensor, "scenes side side"]
    present: Bool[Tensor, "scenes classes"]


@dataclass(frozen=True)
class Gate:
    """Results, each between 0 and 1.

    Attributes:
        tag_map: Mean average precision of "is class c in the picture", mean-patch feature.
        tag_map_cls: The same with the CLS feature.
        cam_miou: GradCAM with true labels against the truth, at the best exponent.
        zero_shot: Share of CAM-pooled patch features whose nearest class text is right.
        probe: The same for a linear classifier, trained on the other half of the scenes.
    """

    tag_map: float
    tag_map_cls: float
    cam_miou: float
    zero_shot: float
    probe: float


def normalise(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """CLIP's normalisation of RGB in [0, 1]."""
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    return (images - mean[:, None, None]) / std[:, None, None]


def held_out(count: int, first: int = HELD_OUT) -> HeldOut:
    """Render ``count`` VOC-like scenes."""
    scenes = [render_scene(first + k) for k in range(count)]
    images = torch.stack([torch.from_numpy(scene.image) for scene in scenes])
    truth = torch.stack([torch.from_numpy(scene.truth) for scene in scenes])
    present = torch.tensor([[name in scene.classes for name in CLASSES] for scene in scenes])
    return HeldOut(normalise(images.permute(0, 3, 1, 2) / 255), truth.long(), present)


def average_precision(ranking: Float[Tensor, " scenes"], present: Bool[Tensor, " scenes"]) -> float:
    """Mean precision at the rank of each positive; 0 without positives."""
    hits = present[ranking.argsort(descending=True)].float()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum().clamp(min=1))


def tag_map(
    similarity: Float[Tensor, "scenes classes"], present: Bool[Tensor, "scenes classes"]
) -> float:
    """Average precision, averaged over the classes that occur."""
    columns = zip(similarity.T, present.T, strict=True)
    found = [average_precision(column, here) for column, here in columns if here.any()]
    return sum(found) / len(found)


def cam_miou(
    maps: Float[Tensor, "scenes classes grid grid"], truth: Int[Tensor, "scenes side side"]
) -> float:
    """Score argmax((1 - max cam)^alpha, cams) by mIoU, background included, at the best alpha."""
    large = functional.interpolate(maps, size=(truth.shape[1], truth.shape[2]), mode="bilinear")
    strongest, kind = large.max(1)
    found = [torch.where(strongest > (1 - strongest) ** alpha, kind + 1, 0) for alpha in ALPHAS]
    classes = maps.shape[1] + 1
    return max(scores(confusion_matrix(ids, truth, classes)).miou for ids in found)


def probe_accuracy(
    features: Float[Tensor, "pairs dim"],
    kinds: Int[Tensor, " pairs"],
    fitted: Bool[Tensor, " pairs"],
) -> float:
    """Accuracy, on the rest, of a softmax regression fitted to a part of the features."""
    centre, spread = features[fitted].mean(0), features[fitted].std(0)
    scaled = functional.pad((features - centre) / spread, (0, 1), value=1.0)
    weight = torch.zeros(scaled.shape[1], int(kinds.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(scaled[fitted] @ weight, kinds[fitted])
        loss = loss + 1e-3 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(((scaled @ weight).argmax(1) == kinds)[~fitted].float().mean())


def evaluate(clip: FrozenCLIP, scenes: HeldOut) -> Gate:
    """All figures of the gate."""
    texts = clip.text_features(tuple(f"a clean origami {name}." for name in CLASSES + BACKGROUNDS))
    maps, patches, cls = [], [], []
    for pixels, here in zip(scenes.pixels.split(50), scenes.present.split(50), strict=True):
        every = torch.arange(len(CLASSES)).expand_as(here)
        slots = torch.where(here, every, -1).sort(1, descending=True).values[:, : here.sum(1).max()]
        allowed = allowed_words(slots, len(CLASSES), len(texts))
        view = clip.view(pixels)
        cams = gradcam(
            lambda normed, view=view: clip.last_block(view, normed),
            clip.normed(view),
            lambda v, allowed=allowed: word_probability(v, texts, clip.logit_scale, allowed),
            slots,
            view.grid,
        )
        full = torch.zeros(len(pixels), len(CLASSES) + 1, *view.grid)
        index = slots.masked_fill(slots < 0, len(CLASSES))[:, :, None, None].expand_as(cams)
        maps.append(full.scatter(1, index, cams)[:, :-1])
        with torch.no_grad():
            patches.append(clip.last_block(view, clip.normed(view)))
            cls.append(clip.model.get_image_features(pixels).pooler_output)
    cam, features = torch.cat(maps), torch.cat(patches)
    classes = texts[: len(CLASSES)].T
    scene, kind = scenes.present.nonzero(as_tuple=True)
    weights = cam.flatten(2)[scene, kind]
    pooled = (weights[:, None] @ features[scene])[:, 0]
    pooled = functional.normalize(pooled, dim=-1)
    return Gate(
        tag_map(functional.normalize(features.mean(1), dim=-1) @ classes, scenes.present),
        tag_map(functional.normalize(torch.cat(cls), dim=-1) @ classes, scenes.present),
        cam_miou(cam, scenes.truth),
        float(((pooled @ classes).argmax(1) == kind).float().mean()),
        probe_accuracy(pooled, kind, scene < len(scenes.truth) // 2),
    )


def main() -> None:
    """Command line: ``python -m encoders.gate --clip DIR``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, required=True, help="written by save_pretrained")
    parser.add_argument("--scenes", type=int, default=200)
    chosen = parser.parse_args()
    result = evaluate(FrozenCLIP.load(chosen.clip), held_out(chosen.scenes))
    for name, value in vars(result).items():
        print(f"{name:12s} {value:.3f}")


if __name__ == "__main__":
    main()
