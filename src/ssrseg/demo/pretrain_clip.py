"""Image-text pretraining of a small CLIP, on freshly rendered scenes or on labelled photographs.

Run ``python -m ssrseg.demo.pretrain_clip --out DIR`` for the demo world's. The image tower sees
patch-aligned windows of scenes, with the position rows of their place, and captions of what the
window shows. ``--photos DIR[:SPLIT]`` takes photographs instead (:mod:`.photo_captions`). Every
random choice follows from the seed and the step, so a resumed run draws what one never stopped
would have.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from ssrseg.data.files import atomic_write
from ssrseg.demo.captions import build_tokenizer, caption
from ssrseg.demo.clip_objective import clip_loss, encode_windows
from ssrseg.demo.dino_objective import sincos_positions
from ssrseg.demo.export import write_pretrained
from ssrseg.demo.gate import evaluate, held_out, normalise
from ssrseg.demo.pairs import Pairs, PairSource
from ssrseg.demo.photo_captions import PhotoPairs
from ssrseg.demo.photos import open_photos, split_off
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


class ScenePairs:
    """Rendered scenes; implements :class:`ssrseg.demo.pairs.PairSource`."""

    name = "scenes"

    def __init__(self, config: PretrainConfig, checked: int = 100) -> None:
        """Render ``checked`` held-out scenes; the others come as they are needed."""
        self._config, self._pool = config, ScenePool(config)
        self._held_out = held_out(checked)

    def tokenizer(self) -> CLIPTokenizer:
        """One token for each word of the demo world."""
        return build_tokenizer()

    def pairs(self, step: int) -> Pairs:
        """Windows of the pool's scenes; right are the captions that read the same."""
        pixels, places, captions = draw_batch(self._config, self._pool.at(step), step)
        right = torch.tensor([[one == other for other in captions] for one in captions])
        return Pairs(pixels, places, captions, right)

    def evaluate(self, clip: FrozenCLIP) -> dict[str, float]:
        """The gate's figures."""
        return vars(evaluate(clip, self._held_out))


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
    state.step += 1
    return loss.item()


def save_checkpoint(
    state: TrainState, config: PretrainConfig, path: Path, source: str = ScenePairs.name
) -> None:
    """Write everything that training needs to go on."""
    content = {
        "model": state.model.state_dict(),
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
            export(state.model, tokenizer, out / "clip")
            figures = {
                "step": state.step,
                "views": state.step * config.batch,
                "cpu_seconds": round(state.cpu_seconds),
                "wall_seconds": round(state.wall_seconds),
                "loss": round(sum(losses) / len(losses), 4),
                "logit_scale": round(state.model.logit_scale.exp().item(), 4),
            }
            checks = source.evaluate(FrozenCLIP.load(out / "clip"))
            append_row(log, figures | {name: round(x, 4) for name, x in checks.items()})
            losses.clear()
            save_checkpoint(state, config, path, source.name)


def append_row(log: Path, row: dict[str, float]) -> None:
    """Add a line to a CSV file, and its header if the file is empty."""
    with log.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, row, lineterminator="\n")
        if stream.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


PHOTOGRAPHS = PretrainConfig(
    views=210_000, batch=96, width=160, heads=5, windows=(8, 14), late_share=0.3, lr=1e-3
)
"""The recipe for a few thousand photographs; ``pool`` and ``fresh`` mean nothing there."""


def photo_source(config: PretrainConfig, folders: list[str], held_out: list[str]) -> PhotoPairs:
    """Photographs of ``folders``; without others to check on, every twentieth is held out."""
    photos = open_photos(folders)
    photos, checked = (photos, open_photos(held_out)) if held_out else split_off(photos)
    first = math.ceil((1 - config.late_share) * config.steps)
    return PhotoPairs(
        photos,
        checked,
        seed=config.seed,
        batch=config.batch,
        grid=config.grid,
        patch=config.patch,
        side_at=[config.windows[step >= first] for step in range(config.steps)],
    )


def main() -> None:
    """Command line: ``python -m ssrseg.demo.pretrain_clip --out DIR``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", action="append", default=[], metavar="DIR[:SPLIT]")
    parser.add_argument("--held-out", action="append", default=[], metavar="DIR[:SPLIT]")
    parser.add_argument("--views", type=int)
    parser.add_argument("--seed", type=int, default=PretrainConfig.seed)
    parser.add_argument("--resume", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    recipe = PHOTOGRAPHS if chosen.photos else PretrainConfig()
    config = replace(recipe, seed=chosen.seed, views=chosen.views or recipe.views)
    source = photo_source(config, chosen.photos, chosen.held_out) if chosen.photos else None
    train(config, chosen.out, resume=chosen.resume, source=source)


if __name__ == "__main__":
    main()
