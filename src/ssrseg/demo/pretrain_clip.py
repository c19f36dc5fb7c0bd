"""Image-text pretraining of the demo world's CLIP on freshly rendered scenes.

Run ``python -m ssrseg.demo.pretrain_clip --out DIR``. The image tower sees patch-aligned windows of
scenes, with the position rows of their place, and captions of what the window shows. Every random
choice follows from the seed and the step, so a resumed run draws what one never stopped would have.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from ssrseg.data.files import atomic_write
from ssrseg.demo.captions import build_tokenizer, caption
from ssrseg.demo.clip_objective import clip_loss, encode_windows
from ssrseg.demo.dino_objective import sincos_positions
from ssrseg.demo.gate import evaluate, held_out, normalise
from ssrseg.demo.scenes import Scene, render_scene
from ssrseg.networks.clip import PIXEL_MEAN, PIXEL_STD, FrozenCLIP

FIRST_SCENE = 10_000_000
"""First training seed; far from the seeds of tests, demo and gate."""


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that changes the result."""

    seed: int = 0
    views: int = 832_000
    batch: int = 128
    width: int = 128
    depth: int = 6
    heads: int = 4
    text_width: int = 96
    text_depth: int = 2
    dim: int = 96
    patch: int = 8
    grid: int = 16
    windows: tuple[int, int] = (6, 12)
    """Side of the windows in patches: first, and at the end."""
    late_share: float = 0.1
    """Share of the steps that see the large windows."""
    loss_weights: tuple[float, float, float] = (0.1, 0.3, 0.6)
    """CLS, mean over patches, patches weighted by the text."""
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 100
    bfloat16: bool = True
    """Mixed precision: faster on a CPU with AVX-512 bf16, slower on one without."""
    pool: int = 2048
    fresh: int = 8
    """Scenes of the pool that are rendered anew at every step."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return math.ceil(self.views / self.batch)


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


class ScenePool:
    """A slowly changing stock of scenes; what it holds depends on the step alone."""

    def __init__(self, config: PretrainConfig) -> None:
        self._config = config
        self._scenes: list[Scene] = []
        self._rendered = 0

    def at(self, step: int) -> list[Scene]:
        """Scenes number ``fresh * step`` and the ``pool - 1`` that follow it."""
        first = self._config.fresh * step
        end = first + self._config.pool
        for number in range(max(self._rendered, first), end):
            seed = FIRST_SCENE * (1 + self._config.seed) + number
            density = "crowded" if number % 10 < 3 else "voc"
            self._scenes.append(render_scene(seed, density=density))
        self._rendered = end
        del self._scenes[: -self._config.pool]
        return self._scenes


def draw_batch(
    config: PretrainConfig, scenes: list[Scene], step: int
) -> tuple[Float[Tensor, "batch 3 side side"], Int[Tensor, "batch words"], list[str]]:
    """Windows, the places of their patches in the grid, and their captions."""
    rng = np.random.default_rng([config.seed, step])
    early = step < (1 - config.late_share) * config.steps
    side = config.windows[0] if early else config.windows[1]
    chosen = rng.integers(len(scenes), size=config.batch)
    corners = rng.integers(config.grid - side + 1, size=(config.batch, 2))
    pixels, captions = [], []
    for index, (top, left) in zip(chosen, corners * config.patch, strict=True):
        window = slice(top, top + side * config.patch), slice(left, left + side * config.patch)
        scene = scenes[index]
        pixels.append(scene.image[window])
        captions.append(caption(scene.truth[window], scene.backdrop[window], rng))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    rows, columns = (corners[:, :, None] + np.arange(side)).transpose(1, 0, 2)
    places = (rows[:, :, None] * config.grid + columns[:, None, :]).reshape(config.batch, -1)
    return normalise(images), torch.from_numpy(places), captions


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, then cosine to a hundredth."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@dataclass
class TrainState:
    """What a checkpoint holds."""

    model: CLIPModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


def start_state(config: PretrainConfig, tokenizer: CLIPTokenizer) -> TrainState:
    """Model and optimiser at step 0."""
    torch.manual_seed(config.seed)
    model = build_model(config, tokenizer)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return TrainState(model, torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True))


def train_step(
    config: PretrainConfig, state: TrainState, tokenizer: CLIPTokenizer, scenes: list[Scene]
) -> float:
    """One optimiser step; returns the loss."""
    pixels, places, captions = draw_batch(config, scenes, state.step)
    texts = list(dict.fromkeys(captions))
    index = torch.tensor([texts.index(text) for text in captions])
    words = tokenizer(texts, padding=True, return_tensors="pt")
    model = state.model
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
        tokens = encode_windows(model, pixels, places)
        encoded = model.text_projection(model.text_model(**words).pooler_output)
    scale = model.logit_scale.exp()
    same = index[:, None] == index[None, :]
    loss = clip_loss(tokens.float(), encoded.float()[index], same, scale, config.loss_weights)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.step)
    state.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    state.optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))
    state.step += 1
    return loss.item()


def save_checkpoint(state: TrainState, config: PretrainConfig, path: Path) -> None:
    """Write everything that training needs to go on."""
    content = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "seconds": (state.cpu_seconds, state.wall_seconds),
        "config": asdict(config),
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(config: PretrainConfig, tokenizer: CLIPTokenizer, path: Path) -> TrainState:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        ValueError: If the checkpoint was trained with another configuration.
    """
    content = torch.load(path, weights_only=True)
    if content["config"] != asdict(config):
        raise ValueError(f"{path} holds {content['config']}, not {asdict(config)}")
    state = start_state(config, tokenizer)
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step = content["step"]
    state.cpu_seconds, state.wall_seconds = content["seconds"]
    return state


def export(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the model, in half precision, as ``CLIPModel.from_pretrained`` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "model.safetensors") as temporary:
        tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, temporary, metadata={"format": "pt"})
    described = {**model.config.to_dict(), "architectures": ["CLIPModel"], "dtype": "float16"}
    size = model.config.vision_config.image_size
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": PIXEL_MEAN,
        "image_std": PIXEL_STD,
        "size": {"height": size, "width": size},
    }
    for name, content in (("config", described), ("preprocessor_config", processor)):
        with atomic_write(folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)


def train(
    config: PretrainConfig, out: Path, resume: bool = False, every: int = 250, checked: int = 100
) -> None:
    """Pretrain; write ``checkpoint.pt``, ``log.csv`` and the model ``clip/`` to ``out``.

    Args:
        config: The recipe.
        out: Folder for the three.
        resume: Go on from ``out/checkpoint.pt`` if it is there.
        every: Steps between two lines of the log, each with a checkpoint and an evaluation.
        checked: Held-out scenes of each evaluation.
    """
    tokenizer = build_tokenizer()
    path, log = out / "checkpoint.pt", out / "log.csv"
    resume = resume and path.exists()
    state = load_checkpoint(config, tokenizer, path) if resume else start_state(config, tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    lines = log.read_text().splitlines()[1:] if resume else []
    kept = [line for line in lines if int(line.split(",")[0]) <= state.step]
    header = "step,views,cpu_seconds,wall_seconds,loss,logit_scale,"
    header += "tag_map,tag_map_cls,cam_miou,zero_shot,probe"
    log.write_text("\n".join([header, *kept]) + "\n")
    scenes, pool, losses = held_out(checked), ScenePool(config), []
    cpu = time.process_time() - state.cpu_seconds
    wall = time.monotonic() - state.wall_seconds
    while state.step < config.steps:
        losses.append(train_step(config, state, tokenizer, pool.at(state.step)))
        state.cpu_seconds = time.process_time() - cpu
        state.wall_seconds = time.monotonic() - wall
        if state.step % every == 0 or state.step == config.steps:
            export(state.model, tokenizer, out / "clip")
            gate = evaluate(FrozenCLIP.load(out / "clip"), scenes)
            scale = state.model.logit_scale.exp().item()
            figures = [sum(losses) / len(losses), scale, *vars(gate).values()]
            spent = [round(state.cpu_seconds), round(state.wall_seconds)]
            row = [state.step, state.step * config.batch, *spent, *(round(x, 4) for x in figures)]
            with log.open("a", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerow(row)
            losses.clear()
            save_checkpoint(state, config, path)


def main() -> None:
    """Command line: ``python -m ssrseg.demo.pretrain_clip --out DIR``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--views", type=int, default=PretrainConfig.views)
    parser.add_argument("--seed", type=int, default=PretrainConfig.seed)
    parser.add_argument("--resume", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    config = PretrainConfig(seed=chosen.seed, views=chosen.views)
    train(config, chosen.out, resume=chosen.resume)


if __name__ == "__main__":
    main()
