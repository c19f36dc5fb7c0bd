"""What ``.pretrain`` asks of a recipe and an objective, and the export of what was trained."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ssrseg.data.files import atomic_write, write_text


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe chooses; width, depth and heads are the image tower's.

    Numbers that no recipe has changed yet are constants of the modules that use them.
    """

    log_every: ClassVar[int]
    """Steps between two lines of the log, unless the command line says otherwise."""
    seed: int = 0
    views: int
    """Windows seen in all."""
    batch: int
    width: int
    depth: int
    heads: int
    patch: int = 8
    grid: int = 16
    """Patches along a side of the picture."""
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int
    """Steps in which the learning rate rises to ``lr``."""
    bfloat16: bool = True
    """Mixed precision: faster on a CPU with AVX-512 bf16 (DINO 1.7 times), else slower."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return math.ceil(self.views / self.batch)

    @property
    def side(self) -> int:
        """Side of the picture in pixels."""
        return self.patch * self.grid

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then cosine to a hundredth."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@dataclass(frozen=True, kw_only=True)
class SceneRecipe(Recipe):
    """One that learns from rendered scenes."""

    pool: int
    """Scenes in memory."""
    fresh: int
    """Scenes of the pool that are rendered anew at every step."""


class Objective(ABC):
    """A model and what it learns from which pictures.

    Attributes:
        pictures: Name of the pictures; a checkpoint of other ones is refused.
        folder: Name of the folder that the model is exported to.
        processor: Class of its image processor in the transformers library.
        fused: Whether AdamW uses its fused kernel, whose rounding differs.
    """

    recipe: Recipe
    pictures: str
    folder: ClassVar[str]
    processor: ClassVar[str]
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    fused: ClassVar[bool] = False

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Make the model at step 0; PyTorch's global generator has just been seeded."""

    @abstractmethod
    def losses(self, model: nn.Module, average: nn.Module, step: int) -> dict[str, Tensor]:
        """``loss``, which is minimised, and its terms; ``average`` is the weights' moving average.

        Random choices follow from the seed and the step.
        """

    @abstractmethod
    def momentum(self, step: int) -> float:
        """Share of the moving average that stays; low at first, else the random start stays too."""

    @abstractmethod
    def constrain(self, model: nn.Module) -> None:
        """Bring the weights back to what is allowed, after each step."""

    def evaluate(self, average: nn.Module, folder: Path) -> dict[str, float]:
        """Figures for the log, of the model just exported to ``folder``."""
        return {}

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write in half precision, as ``from_pretrained`` of the transformers library reads it."""
        with atomic_write(folder / "model.safetensors") as temporary:
            weights = {name: part.half().contiguous() for name, part in model.state_dict().items()}
            save_file(weights, temporary, metadata={"format": "pt"})
        kind = type(model).__name__
        config = {**model.config.to_dict(), "architectures": [kind], "dtype": "float16"}
        processor = {
            "image_processor_type": self.processor,
            "image_mean": self.mean,
            "image_std": self.std,
            "size": {"height": self.recipe.side, "width": self.recipe.side},
        }
        for name, content in (("config", config), ("preprocessor_config", processor)):
            text = json.dumps(content, indent=2, sort_keys=True)
            write_text(folder / f"{name}.json", f"{text}\n")
