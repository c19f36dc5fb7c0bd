"""Image-text pretraining of a small CLIP, on freshly rendered scenes or on labelled photographs.

Run ``python -m encoders.pretrain_clip --out DIR`` for the demo world's. The image tower sees
patch-aligned windows of scenes, with the position rows of their place, and captions of what the
window shows. ``--photos DIR[:SPLIT]`` takes photographs instead (:mod:`.photo_captions`). Every
random choice follows from the seed and the step, so a resumed run draws what one never stopped
would have.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from encoders.clip_objective import clip_loss, encode_windows
from encoders.clip_recipe import FROM_SCENES, PHOTOGRAPHS, PretrainConfig, learning_rate
from encoders.dino_objective import sincos_positions
from encoders.export import write_pretrained
from encoders.pairs import Pairs, PairSource
from encoders.photo_pairs import PhotoPairs
from encoders.photos import open_photos, split_off
from encoders.scene_pairs import ScenePairs
from ssrseg.data.files import atomic_write
from ssrseg.errors import DataError
from ssrseg.networks.clip import PIXEL_MEAN, PIXEL_STD, FrozenCLIP
from ssrseg.networks.frozen import load_pretrained


def build_model(config: PretrainConfig, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Make a random CLIP of the transformers library with sine-cosine positions."""
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": config.text_width,
                "intermediate_size": 4 * config.text_width,
                "num_hidden_layers": config.text_depth,
                "num_attention_heads": 4,
                "max_position_embeddings": tokenizer.model_max_length,
                **ends,
            },
            vision_config={
                "hidden_size": config.width,
                "intermediate_size": 4 * config.width,
                "num_hidden_layers": config.depth,
                "num_attention_heads": config.heads,
                "image_size": config.patch * config.grid,
                "patch_size": config.patch,
            },
            projection_dim=config.dim,
        )
    )
    # plain attention: the fused kernel's backward pass is many times slower in bf16 on a CPU
    model.set_attn_implementation("eager")
    with torch.no_grad():
        table = model.vision_model.embeddings.position_embedding.weight
        table.copy_(sincos_positions(config.grid, config.width, scale=0.2)[0])
    return model


@dataclass
class TrainState:
    """What a checkpoint holds."""

    model: CLIPModel
    averaged: CLIPModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


def start_state(config: PretrainConfig, tokenizer: CLIPTokenizer) -> TrainState:
    """Model and optimiser at step 0."""
    torch.manual_seed(config.seed)
    model = build_model(config, tokenizer)
    if config.start:
        donor = load_pretrained(CLIPModel, config.start, "clip", "openai/clip-vit-base-patch16")
        model.vision_model.load_state_dict(donor.float().vision_model.state_dict())
    decayed = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    averaged = copy.deepcopy(model).requires_grad_(False)
    return TrainState(model, averaged, torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True))


def train_step(
    config: PretrainConfig, state: TrainState, tokenizer: CLIPTokenizer, pairs: Pairs
) -> float:
    """One optimiser step; returns the loss."""
    texts = list(dict.fromkeys(pairs.captions))
    index = torch.tensor([texts.index(text) for text in pairs.captions])
    words = tokenizer(texts, padding=True, return_tensors="pt")
    model = state.model
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
        tokens = encode_windows(model, pairs.pixels, pairs.places)
        encoded = model.text_projection(model.text_model(**words).pooler_output)
    scale = model.logit_scale.exp()
    every = encoded.float()[index]
    loss = clip_loss(tokens.float(), every, pairs.right, scale, config.loss_weights)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.step)
    state.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    state.optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))
        # the average forgets fast at first, else the random start would stay in it
        momentum = min(config.average, (1 + state.step) / (10 + state.step))
        for old, new in zip(state.averaged.parameters(), model.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)
    state.step += 1
    return loss.item()


def save_checkpoint(
    state: TrainState, config: PretrainConfig, path: Path, source: str = ScenePairs.name
) -> None:
    """Write everything that training needs to go on."""
    content = {
        "model": state.model.state_dict(),
        "averaged": state.averaged.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "seconds": (state.cpu_seconds, state.wall_seconds),
        "config": asdict(config),
        "source": source,
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(
    config: PretrainConfig, tokenizer: CLIPTokenizer, path: Path, source: str = ScenePairs.name
) -> TrainState:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        ValueError: If the checkpoint was trained with another configuration, or on other pictures.
    """
    content = torch.load(path, weights_only=True)
    found, wanted = (content["config"], content["source"]), (asdict(config), source)
    if found != wanted:
        raise ValueError(f"{path} holds {found}, not {wanted}")
    state = start_state(config, tokenizer)
    state.model.load_state_dict(content["model"])
    state.averaged.load_state_dict(content["averaged"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step = content["step"]
    state.cpu_seconds, state.wall_seconds = content["seconds"]
    return state


def export(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the model, in half precision, as ``CLIPModel.from_pretrained`` reads it."""
    write_pretrained(
        model,
        folder,
        processor="CLIPImageProcessor",
        mean=PIXEL_MEAN,
        std=PIXEL_STD,
        size=model.config.vision_config.image_size,
    )
    tokenizer.save_pretrained(folder)


def train(
    config: PretrainConfig,
    out: Path,
    resume: bool = False,
    every: int = 250,
    checked: int = 100,
    source: PairSource | None = None,
) -> None:
    """Pretrain; write ``checkpoint.pt``, ``log.csv`` and the model ``clip/`` to ``out``.

    Args:
        config: The recipe.
        out: Folder for the three.
        resume: Go on from ``out/checkpoint.pt`` if it is there.
        every: Steps between two lines of the log, each with a checkpoint and an evaluation.
        checked: Held-out scenes of each evaluation.
        source: Pictures and captions; None = rendered scenes.
    """
    source = source or ScenePairs(config, checked)
    tokenizer = source.tokenizer()
    path, log = out / "checkpoint.pt", out / "log.csv"
    if resume and path.exists():
        state = load_checkpoint(config, tokenizer, path, source.name)
        lines = log.read_text().splitlines()
        lines = lines[:1] + [x for x in lines[1:] if int(x.split(",")[0]) <= state.step]
    else:
        state, lines = start_state(config, tokenizer), []
    out.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"{line}\n" for line in lines))
    losses = []
    cpu = time.process_time() - state.cpu_seconds
    wall = time.monotonic() - state.wall_seconds
    while state.step < config.steps:
        losses.append(train_step(config, state, tokenizer, source.pairs(state.step)))
        state.cpu_seconds = time.process_time() - cpu
        state.wall_seconds = time.monotonic() - wall
        if state.step % every == 0 or state.step == config.steps:
            export(state.averaged, tokenizer, out / "clip")
            figures = {
                "step": state.step,
                "views": state.step * config.batch,
                "cpu_seconds": round(state.cpu_seconds),
                "wall_seconds": round(state.wall_seconds),
                "loss": round(sum(losses) / len(losses), 4),
                "logit_scale": round(state.averaged.logit_scale.exp().item(), 4),
            }
            checks = source.evaluate(FrozenCLIP.load(out / "clip"))
            append_row(log, figures | {name: round(x, 4) for name, x in checks.items()})
            losses.clear()
            save_checkpoint(state, config, path, source.name)


def append_row(log: Path, row: Mapping[str, int | float]) -> None:
    """Add a line to a CSV file, and its header if the file is empty."""
    with log.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, row, lineterminator="\n")
        if stream.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def photo_source(config: PretrainConfig, folders: list[str], held_out: list[str]) -> PhotoPairs:
    """Photographs of ``folders``; without others to check on, every twentieth is held out.

    Raises:
        DataError: If there are fewer than twenty, and no others.
    """
    photos = open_photos(folders)
    photos, checked = (photos, open_photos(held_out)) if held_out else split_off(photos)
    if not checked:
        raise DataError(
            f"{len(photos)} photographs are too few to hold out every twentieth. Name others, with"
            " labels, by --held-out."
        )
    return PhotoPairs(config, photos, checked)


def main() -> None:
    """Command line: ``python -m encoders.pretrain_clip --out DIR``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", action="append", default=[], metavar="DIR[:SPLIT]")
    parser.add_argument("--held-out", action="append", default=[], metavar="DIR[:SPLIT]")
    parser.add_argument(
        "--from-scenes", action="store_true", help="photographs: start from the demo world's CLIP"
    )
    parser.add_argument("--views", type=int)
    parser.add_argument("--seed", type=int, default=PretrainConfig.seed)
    parser.add_argument("--every", type=int, default=250, help="steps between lines of the log")
    parser.add_argument("--resume", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    photographs = FROM_SCENES if chosen.from_scenes else PHOTOGRAPHS
    recipe = photographs if chosen.photos else PretrainConfig()
    config = replace(recipe, seed=chosen.seed, views=chosen.views or recipe.views)
    source = photo_source(config, chosen.photos, chosen.held_out) if chosen.photos else None
    train(config, chosen.out, resume=chosen.resume, every=chosen.every, source=source)


if __name__ == "__main__":
    main()
