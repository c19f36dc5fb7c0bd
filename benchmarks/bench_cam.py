"""CAMs and refined CAMs of one 512 x 384 image against the encoder's first eleven blocks (E11)."""

from __future__ import annotations

import torch
from random_encoders import vit_b16_clip, vit_s16_dino
from timing import Ratio, finish, medians
from torch import Tensor

from ssrseg.config import load_config
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.device import bf16_share
from ssrseg.method.cam import allowed_words, gradcam, word_probability
from ssrseg.method.sgc import slic_labels
from ssrseg.model import SSR
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.vocabulary import build_vocabulary


def main() -> None:
    clip, dino = vit_b16_clip(), vit_s16_dino()
    vocabulary = build_vocabulary(VOC_CLASSES, "voc")
    raw = ("cam.mode=clip", "affinity.kind=none", "affinity.mask=none")

    def model(*settings: str, tower: FrozenCLIP = clip) -> SSR:
        return SSR(load_config("ssr", overrides=settings), tower, dino, vocabulary)

    torch.manual_seed(2)
    image = torch.rand(1, 3, 384, 512)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 16), (384, 512), mode="bicubic")
    photo = (smooth.clamp(0, 1)[0].permute(1, 2, 0) * 255).to(torch.uint8)
    superpixels = slic_labels(photo)[None]
    plain = model(*raw)
    fused = model("cam.mode=clip")

    def cam(which: SSR, classes: int) -> Tensor:
        return which.initial_cam(which.encode(image), torch.arange(classes)[None]).cam

    def refined(which: SSR) -> Tensor:
        initial = which.initial_cam(which.encode(image), torch.zeros(1, 1, dtype=torch.long))
        regions = which.colour_regions(image, superpixels)
        target = which.target_regions(initial.cam, regions)
        return which.refined_cam(initial.cam, which.affinity(image, initial), target)

    def literal(classes: int) -> Tensor:
        """One forward and one backward of the last block per class, as CLIP-ES does."""
        features = plain.encode(image)
        present = torch.arange(classes)[None]
        allowed = allowed_words(present, 20, len(plain.text_features))
        maps = [
            gradcam(
                lambda a: clip.last_block(features, a),
                clip.last_norm(features),
                lambda v: word_probability(v, plain.text_features, clip.logit_scale, allowed),
                present[:, [index]],
                features.grid,
            )
            for index in range(classes)
        ]
        return torch.cat(maps, 1)

    def last_block() -> object:
        return clip.trace_last_block(features)

    features = plain.encode(image)
    difference = (cam(plain, 4) - literal(4)).abs().max().item()
    candidates = {
        "E11": lambda: plain.encode(image),
        "block 12": last_block,
        "DINO": lambda: dino.model(image, interpolate_pos_encoding=True),
        "CAM, 1 class": lambda: cam(plain, 1),
        "CAM, 4 classes": lambda: cam(plain, 4),
        "per-class autograd, 1 class": lambda: literal(1),
        "per-class autograd, 4 classes": lambda: literal(4),
        "refined CAM, 1 class": lambda: refined(fused),
    }
    # what this processor can do: products of a layer's size in bf16, measured now
    share = bf16_share("cpu")
    if share <= 1:  # else it is emulated, and nobody takes it
        reduced = model(*raw, tower=vit_b16_clip("bf16"))
        candidates["E11, bf16"] = lambda: reduced.encode(image)
        candidates["CAM, 1 class, bf16"] = lambda: cam(reduced, 1)
        candidates["CAM, 4 classes, bf16"] = lambda: cam(reduced, 4)
    seconds = medians(candidates)
    limits = {
        "CAM, 1 class": 1.20,
        "CAM, 4 classes": 1.40,
        "per-class autograd, 1 class": None,
        "per-class autograd, 4 classes": None,
    }
    ratios = [
        Ratio(name, seconds[name], "E11", seconds["E11"], limit) for name, limit in limits.items()
    ]
    if share <= 1:
        name, reference = "E11, bf16", f"E11 x {share:.2f}, a product's share"
        ratios.append(Ratio(name, seconds[name], reference, seconds["E11"] * share, 1.5))
        for classes in ("1 class", "4 classes"):
            rest = seconds[f"CAM, {classes}"] - seconds["E11"]
            name = f"CAM, {classes}, bf16"
            floor = seconds["E11, bf16"] + rest
            ratios.append(Ratio(name, seconds[name], "E11 in bf16 + the rest in fp32", floor, 1.1))
    floor = seconds["E11"] + seconds["block 12"] + seconds["DINO"]
    name = "refined CAM, 1 class"
    ratios.append(Ratio(name, seconds[name], "E11 + block 12 + DINO", floor, 1.25))
    name = "CAM, 4 classes: largest difference"
    ratios.append(Ratio(name, difference, "per-class autograd, 1e-5", 1e-5, 1.0, ""))
    finish("cam", ratios)


if __name__ == "__main__":
    main()
