"""Self-supervised pretraining of a small DINO-style ViT (see :mod:`.dino_objective`).

Run ``python -m encoders.pretrain_dino --out DIR`` for the demo world's, which sees rendered
scenes; ``--photos DIR[:SPLIT]`` takes photographs instead. Every random choice follows from the
seed and the step, so a resumed run ends at the same weights as one that was never stopped.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import ViTModel

from encoders.dino_objective import build_model, losses, random_views, to_patches
from encoders.export import write_pretrained
from encoders.photos import PhotoPool, open_photos
from ssrseg.data.files import atomic_write
from ssrseg.demo.scenes import render_scene
from ssrseg.networks.dino import PIXEL_MEAN, PIXEL_STD


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that changes the result; ``views`` counts windows seen."""

    seed: int = 0
    views: int = 150_000
    batch: int = 32
    width: int = 96
    depth: int = 4
    heads: int = 3
    patch: int = 8
    grid: int = 16
    window: int = 10
    full_share: float = 0.02
    """Share of the steps, at the end, that see whole scenes instead of windows."""
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 60
    bfloat16: bool = True
    """Mixed precision: 1.7 times faster on a CPU with AVX-512 bf16, slower on one without."""
    pool: int = 1500
    fresh: int = 1
    """Scenes of the pool that are rendered anew at every step."""
    relation: float = 1.0
    """Weight of the relation term beside the denoising term."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return math.ceil(self.views / self.batch)


@runtime_checkable
class PictureSource(Protocol):
    """Rendered scenes or photographs.

    Attributes:
        name: Tells sources apart; a checkpoint of another one is refused.
    """

    name: str

    def advance(self, step: int) -> None:
        """Make ready what may be drawn at ``step``."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> UInt8[Tensor, "batch 3 height width"]:
        """Draw ``count`` pictures of the model's size with replacement."""
        ...


class ScenePool:
    """A slowly changing stock of rendered scenes; what it holds depends on the step alone."""

    name = "scenes"

    def __init__(self, config: PretrainConfig, first_seed: int) -> None:
        self._fresh = config.fresh
        self._first_seed = first_seed
        side = config.patch * config.grid
        self._images = torch.empty(config.pool, 3, side, side, dtype=torch.uint8)
        self._seeds = [-1] * config.pool

    def advance(self, step: int) -> None:
        """Render what the pool holds at ``step`` and has not yet rendered."""
        size = len(self._seeds)
        replaced = step * self._fresh
        slots = range(size) if -1 in self._seeds else range(replaced - self._fresh, replaced)
        for slot in (slot % size for slot in slots):
            turns = (replaced + size - 1 - slot) // size
            seed = self._first_seed + slot + turns * size
            if self._seeds[slot] != seed:
                density = "crowded" if seed % 3 == 0 else "voc"
                image = render_scene(seed, density=density, size=self._images.shape[-1]).image
                self._images[slot] = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
                self._seeds[slot] = seed

    def draw(self, count: int, generator: torch.Generator) -> UInt8[Tensor, "batch 3 height width"]:
        """Draw ``count`` scenes with replacement."""
        return self._images[torch.randint(len(self._images), (count,), generator=generator)]


def draw_views(
    config: PretrainConfig, pool: PictureSource, step: int
) -> tuple[Float[Tensor, "views words pixels"], Int[Tensor, "views words"], torch.Generator]:
    """Clean patches of the step's windows, their grid places, and the step's generator.

    Odd steps cut windows and give them a random place in the position table; even steps take as
    many single patches from whole scenes, so that attention over long ways is trained at the same
    cost; the last steps use the whole grid.
    """
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    whole = step >= (1 - config.full_share) * config.steps
    window = config.window if step % 2 and not whole else config.grid
    scenes = pool.draw(config.batch, generator)
    clean = to_patches(random_views(scenes, window * config.patch, generator), config.patch)
    corner = torch.randint(config.grid - window + 1, (len(scenes), 2, 1), generator=generator)
    row, column = (corner + torch.arange(window)).unbind(1)
    places = (row[:, :, None] * config.grid + column[:, None, :]).flatten(1)
    if window == config.grid and not whole:
        order = torch.rand(places.shape, generator=generator).argsort(1)
        chosen = order[:, : config.window**2]
        places = places.gather(1, chosen)
        clean = clean.gather(1, chosen[:, :, None].expand(-1, -1, clean.shape[2]))
    return clean, places, generator


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, then cosine to a hundredth."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@dataclass
class TrainState:
    """What a checkpoint holds."""

    student: nn.ModuleDict
    teacher: nn.ModuleDict
    optimizer: torch.optim.Optimizer
    step: int = 0
    cpu_seconds: float = 0.0


def start_state(config: PretrainConfig) -> TrainState:
    """Student, equal teacher and optimiser at step 0."""
    torch.manual_seed(config.seed)
    student, teacher = (
        nn.ModuleDict(
            {
                "encoder": build_model(
                    config.width, config.depth, config.heads, config.patch, config.grid
                ),
                "decoder": nn.Linear(config.width, 3 * config.patch**2),
            }
        )
        for _ in range(2)
    )
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    decay = [p for p in student.parameters() if p.ndim == 2]
    plain = [p for p in student.parameters() if p.ndim != 2]
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return TrainState(student, teacher, torch.optim.AdamW(groups, betas=(0.9, 0.98)))


def train_step(config: PretrainConfig, state: TrainState, pool: PictureSource) -> dict[str, float]:
    """One optimiser step; returns the value of each loss term and their weighted sum."""
    clean, places, generator = draw_views(config, pool, state.step)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
        found = losses(
            state.student["encoder"],
            state.student["decoder"],
            state.teacher["encoder"],
            clean,
            places,
            generator,
        )
    total = found["denoise"] + config.relation * found["relation"]
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.step)
    state.optimizer.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(state.student.parameters(), 1.0)
    state.optimizer.step()
    # the average forgets fast at first, else the random start would stay in it
    momentum = min(0.9985, 0.9 + 0.0985 * state.step / 1000)
    with torch.no_grad():
        for old, new in zip(state.teacher.parameters(), state.student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)
    state.step += 1
    return {"loss": total.item(), **{name: value.item() for name, value in found.items()}}


def save_checkpoint(
    state: TrainState, config: PretrainConfig, path: Path, source: str = ScenePool.name
) -> None:
    """Write everything that training needs to go on."""
    content = {
        "student": state.student.state_dict(),
        "teacher": state.teacher.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "cpu_seconds": state.cpu_seconds,
        "config": asdict(config),
        "source": source,
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(config: PretrainConfig, path: Path, source: str = ScenePool.name) -> TrainState:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        ValueError: if the checkpoint was trained with another configuration, or on other pictures.
    """
    content = torch.load(path, weights_only=True)
    found, wanted = (content["config"], content["source"]), (asdict(config), source)
    if found != wanted:
        raise ValueError(f"{path} holds {found}, not {wanted}")
    state = start_state(config)
    state.student.load_state_dict(content["student"])
    state.teacher.load_state_dict(content["teacher"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.cpu_seconds = content["step"], content["cpu_seconds"]
    return state


def export(encoder: ViTModel, folder: Path) -> None:
    """Write the encoder as ``ViTModel.from_pretrained`` reads it, in half precision."""
    size = encoder.config.image_size
    write_pretrained(
        encoder, folder, processor="ViTImageProcessor", mean=PIXEL_MEAN, std=PIXEL_STD, size=size
    )


def train(
    config: PretrainConfig,
    out: Path,
    resume: bool = False,
    every: int = 100,
    source: PictureSource | None = None,
) -> None:
    """Pretrain and write ``checkpoint.pt``, ``log.csv`` and the teacher's encoder to ``out``.

    Args:
        config: The recipe.
        out: Folder for the three.
        resume: Go on from ``out/checkpoint.pt`` if it is there.
        every: Steps between two lines of the log; every fifth line also writes a checkpoint.
        source: Pictures; None = rendered scenes.
    """
    # scenes far from the seeds 0.. that tests, demo and CLIP use
    pool = source or ScenePool(config, first_seed=50_000_000 + 10_000_000 * config.seed)
    path, log = out / "checkpoint.pt", out / "log.csv"
    if resume and path.exists():
        state = load_checkpoint(config, path, pool.name)
        lines = [line for line in log.read_text().splitlines()[1:]] if log.exists() else []
        kept = [line for line in lines if int(line.split(",")[0]) <= state.step]
    else:
        state, kept = start_state(config), []
    out.mkdir(parents=True, exist_ok=True)
    header = ["step", "views", "cpu_seconds", "loss", "denoise", "relation"]
    log.write_text("\n".join([",".join(header), *kept]) + "\n")
    sums: dict[str, float] = {}
    before = time.process_time() - state.cpu_seconds
    while state.step < config.steps:
        pool.advance(state.step)
        for name, value in train_step(config, state, pool).items():
            sums[name] = sums.get(name, 0.0) + value
        state.cpu_seconds = time.process_time() - before
        if state.step % every == 0 or state.step == config.steps:
            count = (state.step - 1) % every + 1
            means = [round(sums.get(name, math.nan) / count, 5) for name in header[3:]]
            row = [state.step, config.batch * state.step, round(state.cpu_seconds), *means]
            with log.open("a", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerow(row)
            sums.clear()
        if state.step % (5 * every) == 0 or state.step == config.steps:
            save_checkpoint(state, config, path, pool.name)
            export(state.teacher["encoder"], out / "dino")


PHOTOGRAPHS = PretrainConfig(views=120_000, width=128, depth=5, heads=4, lr=1e-3)
"""The recipe for a few thousand photographs; ``pool`` and ``fresh`` mean nothing there."""


def main() -> None:
    """Command line: ``python -m encoders.pretrain_dino --out DIR``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", action="append", default=[], metavar="DIR[:SPLIT]")
    parser.add_argument("--views", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    recipe = PHOTOGRAPHS if chosen.photos else PretrainConfig()
    config = replace(recipe, seed=chosen.seed, views=chosen.views or recipe.views)
    source = None
    if chosen.photos:
        source = PhotoPool(open_photos(chosen.photos), config.patch * config.grid)
    train(config, chosen.out, resume=chosen.resume, source=source)


if __name__ == "__main__":
    main()
