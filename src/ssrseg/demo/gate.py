"""What the demo world's CLIP must reach before SSR can be judged on it.

Run ``python -m ssrseg.demo.gate --clip DIR --scenes 200``. The scenes were never trained on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from ssrseg.demo.scenes import BACKGROUNDS, CLASSES, render_scene

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

HELD_OUT = 2_000_000
"""First seed of the scenes used here; pretraining never comes near it."""

ALPHAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Exponents of the background score (1 - max cam)^alpha that are tried."""


class HeldOut(NamedTuple):
    """Scenes for evaluation: normalised pixels, truth, presence of classes."""

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


@torch.no_grad()
def text_features(
    model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]
) -> Float[Tensor, "texts dim"]:
    """Unit-norm features of texts."""
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    output = model.text_model(**tokens).pooler_output
    return functional.normalize(model.text_projection(output), dim=-1)


def average_precision(
    scores: Float[Tensor, " scenes"], present: Bool[Tensor, " scenes"]
) -> float:
    """Area under the precision-recall curve: mean precision at the rank of each positive."""
    hits = present[scores.argsort(descending=True)].float()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum().clamp(min=1))


class Cams(NamedTuple):
    """GradCAM of each present class, and the features it came from."""

    maps: Float[Tensor, "scenes classes grid grid"]
    patches: Float[Tensor, "scenes words dim"]
    cls: Float[Tensor, "scenes dim"]


def gradcam(
    model: CLIPModel,
    texts: Float[Tensor, "texts dim"],
    pixels: Float[Tensor, "scenes 3 side side"],
    present: Bool[Tensor, "scenes classes"],
) -> Cams:
    """GradCAM at the last block's first LayerNorm; min-max to [0, 1], absent classes 0.

    The score of a class is its softmax probability among the present classes and the backgrounds,
    with the mean over patches as image feature (specification §5).
    """
    vision, count = model.vision_model, len(CLASSES)
    with torch.no_grad():
        hidden = vision.pre_layrnorm(vision.embeddings(pixels))
        for block in vision.encoder.layers[:-1]:
            hidden = block(hidden, None)
    last = vision.encoder.layers[-1]
    normed = last.layer_norm1(hidden).detach().requires_grad_()
    mixed = hidden + last.self_attn(normed, attention_mask=None)[0]
    mixed = mixed + last.mlp(last.layer_norm2(mixed))
    features = model.visual_projection(vision.post_layernorm(mixed))
    pooled = functional.normalize(features[:, 1:].mean(1), dim=-1)
    logits = model.logit_scale.exp() * pooled @ texts.T
    absent = functional.pad(~present, (0, len(texts) - count))
    probability = logits.masked_fill(absent, -torch.inf).softmax(-1)
    side = int((normed.shape[1] - 1) ** 0.5)
    maps = torch.zeros(len(pixels), count, side * side)
    ranks = present.cumsum(1) * present
    # the k-th present class of every scene at once: few backward passes
    for k in range(1, int(ranks.max()) + 1):
        chosen = functional.pad(ranks == k, (0, len(texts) - count))
        (gradient,) = torch.autograd.grad(probability[chosen].sum(), normed, retain_graph=True)
        weight = gradient[:, 1:].mean(1, keepdim=True)
        raw = (weight * normed[:, 1:]).sum(-1).relu().detach()
        low, high = raw.amin(1, keepdim=True), raw.amax(1, keepdim=True)
        scene, kind = (ranks == k).nonzero(as_tuple=True)
        maps[scene, kind] = ((raw - low) / (high - low).clamp(min=1e-8))[scene]
    maps = maps.reshape(len(pixels), count, side, side)
    return Cams(maps, features[:, 1:].detach(), features[:, 0].detach())


def cam_miou(
    maps: Float[Tensor, "scenes classes grid grid"], truth: Int[Tensor, "scenes side side"]
) -> float:
    """Score argmax((1 - max cam)^alpha, cams) by mIoU, background included, at the best alpha."""
    large = functional.interpolate(
        maps, size=(truth.shape[1], truth.shape[2]), mode="bilinear", align_corners=False
    )
    strongest, kind = large.max(1)
    best, classes = 0.0, len(CLASSES) + 1
    for alpha in ALPHAS:
        prediction = torch.where(strongest > (1 - strongest) ** alpha, kind + 1, 0)
        matrix = torch.bincount((truth * classes + prediction).flatten(), minlength=classes**2)
        matrix = matrix.reshape(classes, classes).double()
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        seen = union > 0
        best = max(best, float((matrix.diagonal()[seen] / union[seen]).mean()))
    return best


def probe_accuracy(
    features: Float[Tensor, "pairs dim"],
    kinds: Int[Tensor, " pairs"],
    fitted: Bool[Tensor, " pairs"],
) -> float:
    """Accuracy, on the rest, of a softmax regression fitted to a part of the features."""
    centre, spread = features[fitted].mean(0), features[fitted].std(0)
    scaled = (features - centre) / spread
    weight = torch.zeros(features.shape[1], len(CLASSES), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(scaled[fitted] @ weight, kinds[fitted])
        loss = loss + 1e-3 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(((scaled @ weight).argmax(1) == kinds)[~fitted].float().mean())


def evaluate(model: CLIPModel, tokenizer: CLIPTokenizer, scenes: HeldOut) -> Gate:
    """All figures of the gate."""
    texts = text_features(
        model, tokenizer, [f"a clean origami {name}." for name in CLASSES + BACKGROUNDS]
    )
    chunks = [
        gradcam(model, texts, pixels, present)
        for pixels, present in zip(
            scenes.pixels.split(50), scenes.present.split(50), strict=True
        )
    ]
    cams = Cams(*(torch.cat(field) for field in zip(*chunks, strict=True)))
    classes = texts[: len(CLASSES)]

    def tag_map(features: Float[Tensor, "scenes dim"]) -> float:
        scores = functional.normalize(features, dim=-1) @ classes.T
        columns = zip(scores.T, scenes.present.T, strict=True)
        found = [average_precision(column, here) for column, here in columns if here.any()]
        return sum(found) / len(found)

    scene, kind = scenes.present.nonzero(as_tuple=True)
    weights = cams.maps.flatten(2)[scene, kind]
    pooled = (weights[:, None] @ cams.patches[scene])[:, 0] / weights.sum(1, keepdim=True)
    pooled = functional.normalize(pooled.nan_to_num(), dim=-1)
    return Gate(
        tag_map(cams.patches.mean(1)),
        tag_map(cams.cls),
        cam_miou(cams.maps, scenes.truth),
        float(((pooled @ classes.T).argmax(1) == kind).float().mean()),
        probe_accuracy(pooled, kind, scene < len(scenes.truth) // 2),
    )


def main() -> None:
    """Command line: ``python -m ssrseg.demo.gate --clip DIR``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", required=True, help="directory written by save_pretrained")
    parser.add_argument("--scenes", type=int, default=200)
    chosen = parser.parse_args()
    model = CLIPModel.from_pretrained(chosen.clip).float().eval()
    result = evaluate(model, CLIPTokenizer.from_pretrained(chosen.clip), held_out(chosen.scenes))
    for name, value in vars(result).items():
        print(f"{name:12s} {value:.3f}")


if __name__ == "__main__":
    main()
