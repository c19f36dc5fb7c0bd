"""Pretraining of a small encoder on freshly rendered scenes or on labelled photographs.

Run ``python -m encoders.pretrain RECIPE --out DIR``, with ``--photos DIR[:PART]`` for the recipes
of photographs. Every random choice follows from the seed and the step, so a resumed run ends at
the same weights as one that was never stopped.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from encoders.clip import ClipObjective, ClipRecipe
from encoders.clip_photos import PhotoClipObjective, PhotoClipRecipe
from encoders.clip_plain import PlainClipObjective, PlainClipRecipe
from encoders.dino import DinoObjective, DinoRecipe
from encoders.dino_photos import PhotoDinoObjective, PhotoDinoRecipe
from encoders.objective import Objective, Recipe
from encoders.photos import open_photos
from encoders.scenes import CaptionedScenes, ScenePictures
from encoders.words import TAGS
from ssrseg.data.files import atomic_write
from ssrseg.errors import DataError

RECIPES: dict[str, Recipe] = {
    "clip-demo": ClipRecipe(),
    "dino-demo": DinoRecipe(),
    "clip-photos": PhotoClipRecipe(),
    "clip-plain": PlainClipRecipe(),
    "dino-photos": PhotoDinoRecipe(),
}
"""Those of photographs are meant for a few thousand of them."""


class Pretraining:
    """What a checkpoint holds: a model, the moving average of its weights, and the optimiser."""

    def __init__(self, objective: Objective) -> None:
        """Start at step 0; the average equals the model."""
        self.objective = objective
        torch.manual_seed(objective.recipe.seed)
        self.model = objective.build_model()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if p.ndim != 2]
        groups = [
            {"params": matrices, "weight_decay": objective.recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=objective.fused)
        self.step, self.cpu_seconds, self.wall_seconds = 0, 0.0, 0.0

    def advance(self) -> dict[str, float]:
        """One optimiser step; returns the value of the loss and of its terms."""
        losses = self.objective.losses(self.model, self.average, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.objective.recipe.learning_rate(self.step)
        self.optimizer.zero_grad()
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.objective.constrain(self.model)
            momentum = self.objective.momentum(self.step)
            for old, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                old.lerp_(new, 1 - momentum)
        self.step += 1
        return {name: value.item() for name, value in losses.items()}

    def save(self, path: Path) -> None:
        """Write everything that training needs to go on."""
        content = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": (self.step, self.cpu_seconds, self.wall_seconds),
            "trained": (asdict(self.objective.recipe), self.objective.pictures),
        }
        with atomic_write(path) as temporary:
            torch.save(content, temporary)

    def load(self, path: Path) -> None:
        """Read what ``save`` wrote.

        Raises:
            ValueError: If the checkpoint is of another recipe, or of other pictures.
        """
        content = torch.load(path, weights_only=True)
        wanted = asdict(self.objective.recipe), self.objective.pictures
        if content["trained"] != wanted:
            raise ValueError(f"{path} holds {content['trained']}, not {wanted}")
        self.model.load_state_dict(content["model"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.cpu_seconds, self.wall_seconds = content["progress"]


def pretrain(
    objective: Objective, out: Path, *, resume: bool = False, every: int | None = None
) -> None:
    """Pretrain; write ``checkpoint.pt``, ``log.csv`` and the averaged model to ``out``.

    Args:
        resume: Go on from ``out/checkpoint.pt`` if it is there.
        every: Steps between two lines of the log, each with an export and a checkpoint; None =
            the recipe's.
    """
    recipe, run = objective.recipe, Pretraining(objective)
    every = every or recipe.log_every
    path, log, folder = out / "checkpoint.pt", out / "log.csv", out / objective.folder
    lines: list[str] = []
    if resume and path.exists():
        run.load(path)
        header, *rows = log.read_text().splitlines()
        lines = [header, *(row for row in rows if int(row.split(",")[0]) <= run.step)]
    out.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"{line}\n" for line in lines))
    seen: list[dict[str, float]] = []
    cpu, wall = time.process_time() - run.cpu_seconds, time.monotonic() - run.wall_seconds
    while run.step < recipe.steps:
        seen.append(run.advance())
        run.cpu_seconds, run.wall_seconds = time.process_time() - cpu, time.monotonic() - wall
        if run.step % every == 0 or run.step == recipe.steps:
            objective.export(run.average, folder)
            means = {name: sum(row[name] for row in seen) / len(seen) for name in seen[0]}
            figures = means | objective.evaluate(run.average, folder)
            row = {
                "step": run.step,
                "views": run.step * recipe.batch,
                "cpu_seconds": round(run.cpu_seconds),
                "wall_seconds": round(run.wall_seconds),
                **{name: round(value, 5) for name, value in figures.items()},
            }
            with log.open("a", newline="") as stream:
                writer = csv.DictWriter(stream, row, lineterminator="\n")
                if stream.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)
            run.save(path)
            seen.clear()


def build_objective(
    recipe: Recipe, photos: Sequence[str], held_out: Sequence[str], cache: Path
) -> Objective:
    """A recipe with its pictures.

    Args:
        photos: Folders as ``encoders.photos.open_photos`` takes them; for recipes of photographs.
        held_out: The same, for the log of a CLIP.
        cache: Folder for features of photographs, which both recipes may share.

    Raises:
        DataError: If there are fewer photographs than a step takes, or tags that nobody knows.
    """
    if isinstance(recipe, ClipRecipe):
        return ClipObjective(recipe, CaptionedScenes(recipe))
    if isinstance(recipe, DinoRecipe):
        return DinoObjective(recipe, ScenePictures(recipe))
    opened, checked = open_photos(photos), open_photos(held_out)
    if len(opened) < recipe.batch:
        raise DataError(
            f"{', '.join(photos)}: {len(opened)} photographs, but a step takes {recipe.batch}. Name"
            " more folders by --photos."
        )
    if isinstance(recipe, PhotoDinoRecipe):
        return PhotoDinoObjective(recipe, opened, cache)
    assert isinstance(recipe, PhotoClipRecipe)
    for folders, found in ((photos, opened), (held_out, checked)):
        if not any(photo.present for photo in found):
            raise DataError(
                f"{', '.join(folders)}: no photograph has a label among those that are learned"
                f" ({', '.join(TAGS)}). Name others."
            )
    kind = PlainClipObjective if isinstance(recipe, PlainClipRecipe) else PhotoClipObjective
    return kind(recipe, opened, checked, cache)


def main() -> None:
    """Command line: ``python -m encoders.pretrain RECIPE --out DIR``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", action="append", default=[], metavar="DIR[:PART]")
    parser.add_argument("--held-out", action="append", default=[], metavar="DIR[:PART]")
    parser.add_argument("--cache", type=Path, help="features of photographs; default OUT/views")
    parser.add_argument("--views", type=int, help="windows to see in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, help="steps between lines of the log")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    chosen = parser.parse_args()
    clips = "clip-photos clip-plain"
    for option, recipes in (("photos", f"{clips} dino-photos"), ("held_out", clips)):
        if (chosen.recipe in recipes.split()) != bool(getattr(chosen, option)):
            takes = "needs" if chosen.recipe in recipes.split() else "takes no"
            parser.error(f"{chosen.recipe} {takes} --{option.replace('_', '-')}")
    torch.set_num_threads(chosen.threads)
    recipe = RECIPES[chosen.recipe]
    recipe = replace(recipe, seed=chosen.seed, views=chosen.views or recipe.views)
    cache = chosen.cache or chosen.out / "views"
    objective = build_objective(recipe, chosen.photos, chosen.held_out, cache)
    pretrain(objective, chosen.out, resume=chosen.resume, every=chosen.every)


if __name__ == "__main__":
    main()
