"""Checkpoints: safetensors with a JSON header, written whole or not at all, loaded strictly."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssrseg.config import SPEED_KEYS, Config, load_config
from ssrseg.data.files import atomic_write, user_path
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import CheckpointError, ConfigError, counted, did_you_mean

MODEL_FILE = "model.safetensors"
STATE_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A model, and in a training checkpoint all that training needs to go on.

    Attributes:
        tensors: By dotted name; the first word says whose: decoder, alignment, optimizer, ...
        config: Settings of the run.
        classes: Class names in the order of the decoder's channels 1, 2, ...
        texts: What CLIP was asked: a prompt per class, then the backgrounds.
        data: Name of the training images and labels, by content.
        iteration: Finished iterations.
        supervision: ``labels``, or ``full`` for the fully supervised control.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    config: Config
    classes: tuple[str, ...]
    texts: tuple[str, ...] = ()
    data: str = ""
    iteration: int = 0
    supervision: str = "labels"

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one owner, without its name; empty if there are none."""
        found = ((key.partition("."), tensor) for key, tensor in self.tensors.items())
        return {rest: tensor for (owner, _, rest), tensor in found if owner == name}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a reader sees the old file or the new one.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    names = ("classes", "texts", "data", "iteration", "supervision")
    header = {name: getattr(checkpoint, name) for name in names}
    header |= {
        "config": checkpoint.config.to_dict(), "format": "ssrseg-1", "version": version("ssrseg"),
    }  # fmt: skip
    tensors = {key: value.detach().cpu().contiguous() for key, value in checkpoint.tensors.items()}
    try:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={"ssrseg": json.dumps(header)})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} could not be written ({error}). Is the disk full? The last checkpoint is still"
            " there; the same command goes on from it."
        ) from error


def model_path(source: object) -> Path:
    """Where a model is, as somebody gave it; CheckpointError if that is no path."""
    return user_path(source, "a model", CheckpointError)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or the model of a run folder.

    Raises:
        CheckpointError: If there is none, it is damaged, or another program wrote it.
    """
    file = _model_file(path)
    try:
        with safe_open(file, framework="pt") as reader:
            header = json.loads((reader.metadata() or {})["ssrseg"])
            # cloned: a tensor that maps its file keeps Windows from replacing it
            tensors = {key: reader.get_tensor(key).clone() for key in reader.keys()}  # noqa: SIM118
        config = load_config(base=header["config"])
        classes, texts = tuple(header["classes"]), tuple(header["texts"])
        plain = (header[key] for key in ("data", "iteration", "supervision"))
        return Checkpoint(tensors, config, classes, texts, *plain)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{file} is not a checkpoint of ssrseg, or it is damaged ({type(error).__name__}:"
            f" {error}). Train again, or copy it anew."
        ) from error
    except ConfigError as error:
        raise CheckpointError(f"{file} is of another version of ssrseg: {error}") from error


def _model_file(path: str | Path) -> Path:
    """The file of a run folder, or the one that is named, if it is there."""
    path = model_path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if file.is_file():
        return file
    if path.is_dir():
        problem = f"model {path} (--model) is a folder without {MODEL_FILE}."
    else:
        near = did_you_mean(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
        problem = f"model {path} (--model) does not exist, seen from {Path.cwd()}.{near}"
    raise CheckpointError(
        f"{problem} Give a run folder written by `ssrseg train` or a {MODEL_FILE} from one; an"
        " unfinished run has none yet: run the same `ssrseg train` command again to finish it."
    )


def model_digest(path: str | Path) -> str:
    """A name for the weights of a run folder or checkpoint, wherever it lies.

    Raises:
        CheckpointError: If there is none.
    """
    return hashlib.sha256(_model_file(path).read_bytes()).hexdigest()[:16]


def load_part(module: nn.Module, checkpoint: Checkpoint, name: str, origin: Path) -> None:
    """Load one owner's tensors into a module, all of them and nothing else.

    Raises:
        CheckpointError: If names or shapes differ: another encoder or other settings.
    """
    try:
        module.load_state_dict(checkpoint.part(name), strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"The {name} in {origin} does not fit the encoder {checkpoint.config.backbones.clip}:"
            f" {detail}. Give the encoder it was trained with as backbones.clip (--clip)."
        ) from error


def data_digest(data: LabelledImages, *, truth: bool = False) -> str:
    """A name for images and their labels: another one if an image or a label changes.

    Of an image the name, the labels and the size of the file count; with ``truth`` the true masks
    as well, by their contents.
    """
    rows = []
    for sample in data.samples:
        row = f"{sample.name} {sample.labels} {_stamp(sample.image)[0]}"
        if truth and sample.truth is not None:
            row += f" {_content_digest(sample.truth, _stamp(sample.truth))}"
        rows.append(row)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change; of a missing file zeros."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=1 << 17)
def _content_digest(path: Path, stamp: tuple[int, int]) -> str:
    """Of the file as it was at the stamp."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if any(stamp) else ""


def check_same_classes(found: tuple[str, ...], expected: tuple[str, ...], path: Path) -> None:
    """Raise CheckpointError unless a model's classes are those of the data, in order."""
    if found == expected:
        return
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    model = counted(len(found), "class", "classes")
    detail = f"{model} in the model, {len(expected)} in the data"
    if missing:
        detail += f"; the model lacks {', '.join(missing[:5])}"
    if extra:
        detail += f"; the data lack {', '.join(extra[:5])}"
    if not missing and not extra:
        detail += "; the order differs"
    raise CheckpointError(
        f"{path} was trained for other classes ({detail}). Use the data it was trained on, or train"
        " a model for these classes."
    )


def check_same_run(earlier: Checkpoint, now: Checkpoint, path: Path) -> None:
    """Raise CheckpointError unless a run may go on from a checkpoint: the same in all but speed.

    ``now`` is what would be written; its tensors and iteration do not count.
    """
    check_same_classes(earlier.classes, now.classes, path)
    old, new = earlier.config.to_dict(), now.config.to_dict()
    differing = [
        f"{section}.{key} = {old[section].get(key)!r} there, {value!r} now"
        for section, values in new.items()
        for key, value in values.items()
        if old[section].get(key) != value and f"{section}.{key}" not in SPEED_KEYS
    ]
    if earlier.supervision != now.supervision:
        differing.append(f"supervision = {earlier.supervision} there, {now.supervision} now")
    if earlier.texts != now.texts:
        differing.append("other prompts")
    if earlier.data != now.data:
        differing.append("other images, labels or true masks")
    if differing:
        more = f"; and {len(differing) - 8} more" if differing[8:] else ""
        raise CheckpointError(
            f"{path.parent} holds a run with other settings ({'; '.join(differing[:8])}{more}). Use"
            " the same settings to go on with it, or another folder (--out) to begin anew."
        )
