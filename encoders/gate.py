"""What the demo world's CLIP must reach before SSR can be judged on it.

Run ``python -m encoders.gate --clip DIR --scenes 200``. The scenes were never trained on. Figures,
each between 0 and 1:

* ``tag_map``: mean average precision of "is class c in the picture", mean-patch feature;
* ``tag_map_cls``: the same with the CLS feature;
* ``cam_miou``: GradCAM with true labels against the truth, at the best exponent;
* ``zero_shot``: share of CAM-pooled patch features whose nearest class text is right;
* ``probe``: the same for a linear classifier, trained on the other half of the scenes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from encoders.clip import normalise
from ssrseg.demo.scenes import BACKGROUNDS, CLASSES, render_scene
from ssrseg.method.cam import allowed_words, gradcam, word_probability
from ssrseg.method.metrics import confusion_matrix, scores
from ssrseg.networks.clip import FrozenCLIP

HELD_OUT = 2_000_000
"""First seed of the scenes used here; pretraining never comes near it."""

ALPHAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Exponents of the background score (1 - max cam)^alpha that are tried."""


class HeldOutScenes(NamedTuple):
    """Scenes for evaluation: pixels as CLIP's input, class ids (0 = background), true labels."""

    pixels: Float[Tensor, "scenes 3 side side"]
    truth: Int[Tensor, "scenes side side"]
    present: Bool[Tensor, "scenes classes"]


def held_out_scenes(count: int) -> HeldOutScenes:
    """Render ``count`` VOC-like scenes."""
    scenes = [render_scene(HELD_OUT + k) for k in range(count)]
    images = torch.stack([torch.from_numpy(scene.image) for scene in scenes])
    truth = torch.stack([torch.from_numpy(scene.truth) for scene in scenes])
    present = torch.tensor([[name in scene.classes for name in CLASSES] for scene in scenes])
    return HeldOutScenes(normalise(images.permute(0, 3, 1, 2) / 255), truth.long(), present)


@torch.no_grad()
def image_features(
    clip: FrozenCLIP, pixels: Float[Tensor, "batch 3 height width"]
) -> tuple[Float[Tensor, "batch patches dim"], Float[Tensor, "batch dim"]]:
    """Features of the patches and of CLS, not normalised."""
    patches, cls = [], []
    for part in pixels.split(50):
        features = clip.encode(part)
        patches.append(clip.last_block(features, clip.last_norm(features)))
        cls.append(clip.model.get_image_features(part).pooler_output)
    return torch.cat(patches), torch.cat(cls)


def label_cams(
    clip: FrozenCLIP,
    pixels: Float[Tensor, "batch 3 height width"],
    present: Bool[Tensor, "batch classes"],
    texts: Float[Tensor, "words dim"],
) -> Float[Tensor, "batch classes rows columns"]:
    """GradCAM of the classes in the picture, against them and the background; 0 of the others."""
    maps = []
    for part, here in zip(pixels.split(50), present.split(50), strict=True):
        batch, classes = here.shape
        # class ids of each picture, -1 = empty: (batch, slots)
        ids = torch.where(here, torch.arange(classes), -1)
        slots = ids.sort(1, descending=True).values[:, : here.sum(1).max()]
        allowed = allowed_words(slots, classes, len(texts))
        features = clip.encode(part)
        cams = gradcam(
            lambda normed, features=features: clip.last_block(features, normed),
            clip.last_norm(features),
            lambda v, allowed=allowed: word_probability(v, texts, clip.logit_scale, allowed),
            slots,
            features.grid,
        )
        # empty slots go to one more class, which is thrown away
        full = torch.zeros(batch, classes + 1, *features.grid)
        index = slots.masked_fill(slots < 0, classes)[:, :, None, None].expand_as(cams)
        maps.append(full.scatter(1, index, cams)[:, :-1])
    return torch.cat(maps)


def average_precision(ranking: Float[Tensor, " scenes"], present: Bool[Tensor, " scenes"]) -> float:
    """Mean precision at the rank of each positive; 0 without positives."""
    hits = present[ranking.argsort(descending=True)].float()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum().clamp(min=1))


def tag_map(
    features: Float[Tensor, "pictures dim"],
    texts: Float[Tensor, "classes dim"],
    present: Bool[Tensor, "pictures classes"],
) -> float:
    """Average precision of the cosine with a class's text, averaged over the classes that occur."""
    similarity = functional.normalize(features, dim=-1) @ texts.T
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


def check_clip(clip: FrozenCLIP, scenes: HeldOutScenes) -> dict[str, float]:
    """All figures of the gate."""
    texts = clip.text_features(tuple(f"a clean origami {name}." for name in CLASSES + BACKGROUNDS))
    classes = texts[: len(CLASSES)]
    patches, cls = image_features(clip, scenes.pixels)
    cams = label_cams(clip, scenes.pixels, scenes.present, texts)
    # one feature for each class of each scene: its patches, weighted by its CAM
    scene, kind = scenes.present.nonzero(as_tuple=True)
    weights = cams.flatten(2)[scene, kind]
    pooled = functional.normalize((weights[:, None] @ patches[scene])[:, 0], dim=-1)
    return {
        "tag_map": tag_map(patches.mean(1), classes, scenes.present),
        "tag_map_cls": tag_map(cls, classes, scenes.present),
        "cam_miou": cam_miou(cams, scenes.truth),
        "zero_shot": float(((pooled @ classes.T).argmax(1) == kind).float().mean()),
        "probe": probe_accuracy(pooled, kind, scene < len(scenes.truth) // 2),
    }


def main() -> None:
    """Command line: ``python -m encoders.gate --clip DIR``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, required=True, help="written by save_pretrained")
    parser.add_argument("--scenes", type=int, default=200)
    chosen = parser.parse_args()
    result = check_clip(FrozenCLIP.load(chosen.clip), held_out_scenes(chosen.scenes))
    for name, value in result.items():
        print(f"{name:12s} {value:.3f}")


if __name__ == "__main__":
    main()
