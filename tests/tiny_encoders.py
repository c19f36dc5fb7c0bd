"""Random encoders of a few kilobytes, in the format of the real ones."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from ssrseg.config import Config, load_config

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


def clip_config(
    *, width: int, heads: int, depth: int, dim: int, text: dict[str, int], image_size: int
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
            "patch_size": PATCH,
            "projection_dim": dim,
        },
        projection_dim=dim,
    )


def stir(model: torch.nn.Module) -> None:
    """Larger weights than a fresh model's, so that blocks change tokens and attention has peaks."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("position_embedding.weight") or name.endswith("position_embeddings"):
                value.normal_(0, 0.3)
            elif value.ndim >= 2:
                value.normal_(0, 1.4 * value[0].numel() ** -0.5)
            elif name.endswith("bias"):
                value.normal_(0, 0.05)


def tiny_clip(
    folder: Path, *, seed: int = 0, width: int = WIDTH, depth: int = DEPTH, dim: int = DIM
) -> Path:
    """Write a random CLIP with its tokenizer; returns the folder."""
    tokenizer = tiny_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = clip_config(
            width=width, heads=HEADS, depth=depth, dim=dim, text=text, image_size=4 * PATCH
        )
        model = CLIPModel(config)
        stir(model)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)  # a scale at which a random CLIP's softmax is not one-hot
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_dino(folder: Path, *, seed: int = 1, patch: int = PATCH) -> Path:
    """Write a random ViT without a pooler; returns the folder."""
    config = ViTConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=4 * patch,
        patch_size=patch,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ViTModel(config, add_pooling_layer=False)
        stir(model)
    model.save_pretrained(folder)
    return folder


def tiny_config(clip: Path, dino: Path, *overrides: str, preset: str = "ssr") -> Config:
    """Settings under which everything runs in milliseconds; later overrides win."""
    return load_config(
        preset,
        overrides=[
            f"backbones.clip={clip}",
            f"backbones.dino={dino}",
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
