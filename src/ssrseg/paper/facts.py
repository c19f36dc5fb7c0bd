"""Where a figure comes from: enough to make it again, and to see that it was not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import ssrseg
from ssrseg.checkpoint import data_digest, model_digest
from ssrseg.config import Config
from ssrseg.data.files import atomic_write
from ssrseg.data.sample import LabelledImages
from ssrseg.paper.provenance import git_commit


@dataclass(frozen=True)
class Provenance:
    """What made a figure.

    Attributes:
        command: The command line.
        version: Of ssrseg.
        commit: Of the checkout, with "+dirty" behind it where its sources differ; None elsewhere.
        torch: Version of torch.
        settings: Digest of all settings.
        config: The settings themselves.
        data: Digest of the images' names and labels.
        model: Digest of the weights; None without a trained model.
        seed: Of everything random in the figure.
    """

    command: str
    version: str
    commit: str | None
    torch: str
    settings: str
    config: dict[str, Any]
    data: str
    model: str | None
    seed: int


def provenance(
    command: str, config: Config, data: LabelledImages, *, model: Path | None, seed: int
) -> Provenance:
    """Collect it.

    Args:
        command: The command line.
        config: Settings that the figure was made with.
        data: Images that it was made of.
        model: Run folder or checkpoint, if one was used.
        seed: Of everything random in the figure.
    """
    return Provenance(
        command,
        ssrseg.__version__,
        git_commit(),
        torch.__version__,
        hashlib.sha256(config.to_yaml().encode()).hexdigest()[:16],
        config.to_dict(),
        data_digest(data),
        None if model is None else model_digest(model),
        seed,
    )


def save_facts(path: Path, made: Sequence[Provenance], facts: dict[str, Any]) -> None:
    """Write what a figure shows as JSON; numbers with six digits, what is nan as null.

    Args:
        path: The file; it appears whole or not at all.
        made: Where the figure comes from; one for each data set in it.
        facts: What it shows: plain dictionaries, lists, texts and numbers.
    """
    table = _plain({**facts, "made": [asdict(each) for each in made]})
    with atomic_write(path) as temporary:
        text = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return None if value != value else round(value, 6)
    return value
