"""Random encoders of a few kilobytes, in the format of the real ones."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from ssrseg.config import Config, load_config
from ssrseg.networks import clip, dino
from ssrseg.networks.stem import NAME as STEM
from ssrseg.networks.stem import with_stem

WIDTH, DEPTH, HEADS, DIM, PATCH = 64, 4, 4, 32, 16


def tiny_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer that knows letters, digits and punctuation, and merges nothing."""
    letters = string.ascii_lowercase + string.digits + ".,-'"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["<|unknown|>", "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[],
        unk_token="<|unknown|>",
        model_max_length=77,
    )


def write_pixel_norm(
    folder: Path, mean: tuple[float, ...], deviation: tuple[float, ...], **more: object
) -> None:
    """Mean and deviation as image processors keep them."""
    table = {"image_mean": mean, "image_std": deviation, **more}
    (folder / "preprocessor_config.json").write_text(json.dumps(table))


def clip_config(
    *,
    width: int,
    heads: int,
    depth: int,
    dim: int,
    text: dict[str, Any],
    image_size: int,
    patch: int = PATCH,
    act: str = "quick_gelu",
    stem_blocks: int | None = None,
) -> CLIPConfig:
    """A CLIP of 16-pixel patches."""
    return CLIPConfig(
        text_config={"projection_dim": dim, **text},
        vision_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "image_size": image_size,
            "patch_size": patch,
            "projection_dim": dim,
            "hidden_act": act,
            **stem_settings(stem_blocks),
        },
        projection_dim=dim,
    )


def stem_settings(blocks: int | None) -> dict[str, Any]:
    """What a configuration says of a stem; None = there is none."""
    return {} if blocks is None else {"stem": STEM, "stem_blocks": blocks}


def stir(model: torch.nn.Module) -> None:
    """Larger weights than a fresh model's, so that blocks change tokens and attention has peaks."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("position_embedding.weight", "position_embeddings", "_tokens")):
                value.normal_(0, 0.3)
            elif name.endswith("lambda1"):  # of LayerScale
                value.uniform_(0.5, 1.5)
            elif value.ndim >= 2:
                value.normal_(0, 1.4 * value[0].numel() ** -0.5)
            elif name.endswith("bias"):
                value.normal_(0, 0.05)


def tiny_clip(
    folder: Path,
    *,
    seed: int = 0,
    width: int = WIDTH,
    depth: int = DEPTH,
    dim: int = DIM,
    patch: int = PATCH,
    act: str = "quick_gelu",
    positions: int = 77,
    old_eos: bool = False,
    stem_blocks: int | None = None,
) -> Path:
    """Write a random CLIP with its tokenizer; returns the folder.

    ``positions`` are the tokens that its text tower reads; ``old_eos`` writes the token that ends a
    text as the library did for years.
    """
    tokenizer = tiny_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "max_position_embeddings": positions,
        "hidden_act": act,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": 2 if old_eos else tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = clip_config(
            width=width,
            heads=HEADS,
            depth=depth,
            dim=dim,
            text=text,
            image_size=4 * patch,
            patch=patch,
            act=act,
            stem_blocks=stem_blocks,
        )
        model = (with_stem(CLIPModel) if stem_blocks else CLIPModel)(config)
        stir(model)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)  # a scale at which a random CLIP's softmax is not one-hot
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_pixel_norm(folder, clip.PIXEL_MEAN, clip.PIXEL_STD)
    return folder


REGISTERS = 4
_MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    # class, its configuration, and what that has of its own
    "vit": (ViTModel, ViTConfig, {"intermediate_size": 4 * WIDTH}),
    "dinov2": (Dinov2Model, Dinov2Config, {}),
    "dinov2_with_registers": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig,
        {"num_register_tokens": REGISTERS},
    ),
    "dinov3_vit": (
        DINOv3ViTModel,
        DINOv3ViTConfig,
        {"intermediate_size": 4 * WIDTH, "num_register_tokens": REGISTERS},
    ),
}


def dino_model(
    family: str = "vit", *, seed: int = 1, patch: int = PATCH, stem_blocks: int | None = None
) -> PreTrainedModel:
    """A random ViT of a family, by its ``model_type``, without a pooler, with eager attention."""
    kind, config, own = _MODELS[family]
    settings = config(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=4 * patch,
        patch_size=patch,
        **own,
        **stem_settings(stem_blocks),
    )
    kind = with_stem(kind) if stem_blocks else kind
    settings._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(settings, **({"add_pooling_layer": False} if family == "vit" else {}))
        stir(model)
    return model.eval()


def tiny_dino(folder: Path, family: str = "vit", **options: Any) -> Path:
    """Write what ``dino_model`` makes; returns the folder."""
    dino_model(family, **options).save_pretrained(folder)
    write_pixel_norm(folder, dino.PIXEL_MEAN, dino.PIXEL_STD)
    return folder


def tiny_config(
    clip_folder: Path, dino_folder: Path, *overrides: str, preset: str = "ssr"
) -> Config:
    """Settings under which everything runs in milliseconds; later overrides win."""
    return load_config(
        preset,
        overrides=[
            f"backbones.clip={clip_folder}",
            f"backbones.dino={dino_folder}",
            "data.crop=64",
            "data.scale=[0.75, 1.5]",
            "cmpa.hidden=16",
            "cmpa.out=24",
            "cmpa.min_patches=1",
            "sgc.n_segments=20",
            "sgc.k_colour=4",
            "pseudo.par_iterations=2",
            "pseudo.par_dilations=[1, 2]",
            "decoder.layers=1",
            "optim.batch=2",
            "optim.pairs=6",
            "optim.cmpa_iterations=8",
            "optim.iterations=12",
            "optim.warmup=2",
            "optim.features=online",
            "optim.save_every=1000",
            "test.long_side=64",
            "test.scales=[1.0]",
            "test.crf=false",
            *overrides,
        ],
    )
