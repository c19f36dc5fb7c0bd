"""True-size encoders with random weights: speed does not depend on what they have learned."""

from __future__ import annotations

import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.dino import FrozenDINO
from ssrseg.networks.frozen import Precision


def vit_b16_clip(precision: Precision = "fp32") -> FrozenCLIP:
    """CLIP ViT-B/16 with the demo's tokenizer."""
    torch.manual_seed(0)
    demo = FrozenCLIP.load("ssrseg:demo/weights/clip")
    config = CLIPConfig(
        text_config={"vocab_size": len(demo.tokenizer), "projection_dim": 512},
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 16,
            "projection_dim": 512,
        },
        projection_dim=512,
    )
    return FrozenCLIP(CLIPModel(config), demo.tokenizer, precision=precision)


def vit_s16_dino(precision: Precision = "fp32") -> FrozenDINO:
    """DINO ViT-S/16."""
    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        patch_size=16,
        image_size=224,
    )
    return FrozenDINO(ViTModel(config, add_pooling_layer=False), precision=precision)
