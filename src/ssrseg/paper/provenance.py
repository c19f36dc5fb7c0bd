"""What a figure was made with: which settings decide it, which data, weights and code.

Two measurements are the same if everything that decides them is. Anything not named here as without
influence is taken to have some, so that a new setting can only cause a needless run, never a stale
figure.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from ssrseg.checkpoint import data_digest, model_digest
from ssrseg.config import Config
from ssrseg.data.files import write_json
from ssrseg.data.sample import LabelledImages
from ssrseg.networks.vocabulary import Vocabulary, build_vocabulary
from ssrseg.packaged import unpacked
from ssrseg.paper.deciding import head_settings, run_settings
from ssrseg.schedule import Supervision

Found = TypeVar("Found")

_looked: ContextVar[dict[Any, tuple[LabelledImages, Any]] | None] = ContextVar(
    "looked", default=None
)


@contextmanager
def one_look() -> Iterator[None]:
    """Look once at each data set and its texts, however often they are named in the block.

    A table names them for every row and seed, and to ask the disk whether ten thousand files are
    as they were takes a second.
    """
    outer = _looked.get()  # blocks inside one another share what they saw
    token = _looked.set({} if outer is None else outer)
    try:
        yield
    finally:
        _looked.reset(token)


def _once(data: LabelledImages, what: Hashable, look: Callable[[], Found]) -> Found:
    looked = _looked.get()
    if looked is None:
        return look()
    key = (id(data), what)
    if key not in looked:
        looked[key] = data, look()  # kept: an id counts as long as its object lives
    found: Found = looked[key][1]
    return found


def vocabulary_of(config: Config, data: LabelledImages) -> Vocabulary:
    """What CLIP is asked about the data under these settings."""
    chosen = config.prompts.set
    return _once(
        data,
        chosen,
        lambda: build_vocabulary(data.classes, chosen, data.prompts, data.background),
    )


def run_identity(
    config: Config, data: LabelledImages, supervision: Supervision, *, heads_only: bool
) -> dict[str, Any]:
    """All that decides a run, or its heads."""
    encoders, full = encoder_digests(config), supervision == "full"
    if heads_only and config.cmpa.cam_source != "refined":
        del encoders["dino"]
    return {
        "settings": head_settings(config) if heads_only else run_settings(config, supervision),
        "supervision": supervision,
        "data": _once(data, ("contents", full), lambda: data_digest(data, truth=full)),
        "classes": data.classes,
        "texts": vocabulary_of(config, data).texts,
        "encoders": encoders,
    }


def content_key(identity: dict[str, Any]) -> str:
    """A short name for it."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def scored_digest(data: LabelledImages) -> str:
    """A name for the images that are scored: those with a true mask, labels and masks included."""
    known = tuple(sample for sample in data.samples if sample.truth is not None)
    return _once(data, "scored", lambda: data_digest(replace(data, samples=known), truth=True))


def encoder_digests(config: Config) -> dict[str, str]:
    """Digest of each encoder: weights, configuration, tokenizer; a hub id stands for itself."""
    return {"clip": _digest(config.backbones.clip), "dino": _digest(config.backbones.dino)}


def _digest(source: str) -> str:
    folder = Path(unpacked(source))
    if not folder.is_dir():
        return source
    kinds = ("*.safetensors", "*.bin", "*.json", "merges.txt")
    found = sorted(file for kind in kinds for file in folder.glob(kind))
    return _file_digest(tuple((str(x), x.stat().st_size, x.stat().st_mtime_ns) for x in found))


@cache
def _file_digest(stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


@cache
def git_commit() -> str | None:
    """Commit of the checkout this package runs from, "+dirty" if its sources were changed since.

    Returns:
        None outside a checkout, or without git.
    """
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(package), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:  # installed inside another one
        return None
    commit = git("rev-parse", "--short=12", "HEAD")
    return f"{commit}+dirty" if commit and git("status", "--porcelain", "--", ".") else commit


def provenance(
    command: str, config: Config, data: LabelledImages, *, model: Path | None, seed: int
) -> dict[str, Any]:
    """What made a drawn figure: enough to make it again, and to see that it was not.

    Args:
        command: The command line.
        config: Settings that the figure was made with.
        data: Images that it was made of.
        model: Run folder or checkpoint, if one was used.
        seed: Of everything random in the figure.
    """
    return {
        "command": command,
        "version": version("ssrseg"),
        "commit": git_commit(),
        "torch": torch.__version__,
        "settings": hashlib.sha256(config.to_yaml().encode()).hexdigest()[:16],
        "config": config.to_dict(),
        "data": data_digest(data),
        "model": None if model is None else model_digest(model),
        "seed": seed,
    }


def save_facts(path: Path, made: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Write what a figure shows as JSON; numbers with six digits, what is nan as null.

    Args:
        path: The file; it appears whole or not at all.
        made: Where the figure comes from; one for each data set in it.
        facts: What it shows: plain dictionaries, lists, texts and numbers.
    """
    write_json(path, _plain({**facts, "made": made}))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return None if value != value else round(value, 6)
    return value
