"""True-size encoders with random weights: speed does not depend on what they have learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.dino import FrozenDINO
from ssrseg.networks.frozen import Precision


def clip_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """CLIP ViT-B/16 with random weights."""
    torch.manual_seed(0)
    text = {"vocab_size": len(tokenizer), "projection_dim": 512}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
        "projection_dim": 512,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512))


def dino_model() -> ViTModel:
    """DINO's ViT-S/16 with random weights."""
    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        patch_size=16,
        image_size=224,
    )
    return ViTModel(config, add_pooling_layer=False)


def vit_b16_clip(precision: Precision = "fp32") -> FrozenCLIP:
    """CLIP ViT-B/16 with the demo's tokenizer."""
    tokenizer = FrozenCLIP.load("ssrseg:demo/weights/clip").tokenizer
    return FrozenCLIP(clip_model(tokenizer), tokenizer, precision=precision)


def vit_s16_dino(precision: Precision = "fp32") -> FrozenDINO:
    """DINO ViT-S/16."""
    return FrozenDINO(dino_model(), precision=precision)


def save_encoders(folder: Path) -> None:
    """Write both as ``clip`` and ``dino``, the text tower as large as OpenAI's."""
    tokenizer = FrozenCLIP.load("ssrseg:demo/weights/clip").tokenizer
    tokenizer.add_tokens([f"word{index}" for index in range(49_408 - len(tokenizer))])
    clip_model(tokenizer).save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    dino_model().save_pretrained(folder / "dino")


def write_photographs(folder: Path, count: int, size: tuple[int, int] = (375, 500)) -> None:
    """Smooth random pictures with labels of VOC's classes, one or two each."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    lines = ["image,labels"]
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        picture = coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        picture.save(folder / "images" / f"{index:05d}.jpg", quality=90)
        lines.append(f"images/{index:05d}.jpg,{('dog', 'cat;dog', 'horse')[index % 3]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
