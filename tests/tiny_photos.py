"""Photographs, a stem and recipes with which the photo encoders train in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from encoders.clip_photos import PhotoClipRecipe
from encoders.dino_photos import PhotoDinoRecipe
from ssrseg.networks.stem import Stem

CLIP = PhotoClipRecipe(
    views=16, batch=4, width=24, depth=2, heads=2, grid=8, warmup=1, text_width=16, text_depth=1,
    lr=2e-4, dim=12, kept=2, window=6, whole_share=0.25, names=(12, 6), text_steps=2,
    bfloat16=False,
)  # fmt: skip
DINO = PhotoDinoRecipe(
    views=16, batch=4, width=24, depth=2, heads=2, grid=8, warmup=1, kept=2, bfloat16=False
)

THINGS = ("cat;person", "cow", "dog", "horse", "person", "sheep")
AROUND = ("cow;grass;sky", "building;road;sky;zebra", "face;tree;water", "body;mountain;sign")
"""Labels of the photographs of two folders; in the first nobody looked for backgrounds."""


def random_lite0() -> dict[str, Tensor]:
    """Weights as ``encoders.lite0.load_lite0`` gives them, without the package that has them.

    The head has 64 channels, not 1280: the classifier's singular vectors take no time.
    """
    random = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in Stem(1, 16).state_dict().items()}
    del shapes["projection.weight"], shapes["projection.bias"]
    shapes |= {
        "head.weight": (64, 320, 1, 1), "head.bias": (64,),
        "fc.weight": (1000, 64), "fc.bias": (1000,),
    }  # fmt: skip
    found = {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:]))
        scale = (2 / fan_in) ** 0.5 if name.endswith("weight") else 0.1
        found[name] = scale * torch.randn(shape, generator=random)
    return found


def write_photos(root: Path, labels: tuple[str, ...], seed: int) -> str:
    """Write a folder of photographs of coloured clouds with these labels; returns its path."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True)
    rows = ["image,labels"]
    for index, names in enumerate(labels):
        clouds = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        clouds.resize((120, 90), Image.Resampling.BILINEAR).save(root / f"photo{index}.png")
        rows.append(f"photo{index}.png,{names}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return str(root)
