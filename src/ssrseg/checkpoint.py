"""Checkpoints: safetensors with a JSON header, written whole or not at all, loaded strictly."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from huggingface_hub import hf_hub_download, model_info, try_to_load_from_cache
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssrseg.config import BY_CONTENT, SPEED_KEYS, STRICT, BackboneConfig, Config, load_config
from ssrseg.console import track
from ssrseg.data.classes import check_class_names
from ssrseg.data.files import atomic_write, content_digest, user_path
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import CheckpointError, SSRError, counted, did_you_mean
from ssrseg.networks.frozen import all_finite, weights_digest
from ssrseg.networks.vocabulary import changed_background, changed_prompts
from ssrseg.processes import ALONE, Group

MODEL_FILE = "model.safetensors"
STATE_FILE = "checkpoint.safetensors"
FORMAT = "ssrseg-1"

MOST_NUMBERS = 1 << 30
"""More than any checkpoint of ours holds (18 million for ViT-B): 4 GiB of fp32."""

_READERS = 8  # threads: a disk or a file server is waited for, and hashing lets others run


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
        encoders: Digests of the weights it was trained with, see ``SSR.encoders``.
        images: Training images in all, then those of each class; empty where nothing was trained.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    config: Config
    classes: tuple[str, ...]
    texts: tuple[str, ...] = ()
    data: str = ""
    iteration: int = 0
    supervision: str = "labels"
    encoders: Mapping[str, str] = field(default_factory=dict)
    images: tuple[int, ...] = ()

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one owner, without its name; empty if there are none."""
        found = ((key.partition("."), tensor) for key, tensor in self.tensors.items())
        return {rest: tensor for (owner, _, rest), tensor in found if owner == name}


@checked_dataclass(frozen=True, config=STRICT)
class _Header:
    """All but the tensors, as it stands in the file, and a digest of these."""

    format: Literal["ssrseg-1"]
    version: str
    config: dict[str, dict[str, Any]]
    classes: tuple[str, ...]
    texts: tuple[str, ...]
    data: str
    iteration: Annotated[int, Field(ge=0, lt=1 << 53)]
    supervision: Literal["labels", "full"]
    encoders: dict[str, str]
    tensors: str
    images: tuple[Annotated[int, Field(ge=0)], ...] = ()


_HEADER = TypeAdapter(_Header)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a reader sees the old file or the new one.

    What decides no result is not in it, so that equal runs have equal files.

    Raises:
        CheckpointError: If a number is nan or infinite.
        OutputError: If the file cannot be written.
    """
    _refuse_not_finite(checkpoint.tensors, path)
    names = [each.name for each in fields(_Header)]
    header = {name: getattr(checkpoint, name, None) for name in names}
    header |= {
        "config": _without_speed(checkpoint.config), "format": FORMAT, "version": version("ssrseg"),
    }  # fmt: skip
    tensors = {key: value.detach().cpu().contiguous() for key, value in checkpoint.tensors.items()}
    header["tensors"] = weights_digest(tensors)
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"ssrseg": json.dumps(header)})


def _without_speed(config: Config) -> dict[str, Any]:
    """Settings without those that change no byte."""
    return {
        section: {
            key: value
            for key, value in values.items()
            if f"{section}.{key}" not in SPEED_KEYS or f"{section}.{key}" == "data.patches"
        }
        for section, values in config.to_dict().items()
    }


def _refuse_not_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError if a number that is learned is nan or infinite; purity may be."""
    wrong = [
        name
        for name, value in tensors.items()
        if value.is_floating_point() and name != "prototypes.purity" and not all_finite(value)
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: {counted(len(wrong), 'tensor holds', 'tensors hold')} numbers that are nan or"
            f" infinite (such as {wrong[0]}). Its training diverged, and its masks would be wrong:"
            " train again with a lower learning rate (optim.decoder_lr, optim.cmpa_lr)."
        )


def model_path(source: object) -> Path:
    """Where a model is or will be, as somebody gave it; CheckpointError if it cannot be there."""
    path = user_path(source, "a model", CheckpointError)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"the path of a model, {path}, has a name that is not in UTF-8, which safetensors"
            " cannot read. Rename that folder."
        ) from error
    return path


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or the model of a run folder.

    Raises:
        CheckpointError: If there is none, it is damaged, another program wrote it, or its numbers
            are not finite.
    """
    file = _model_file(path)
    try:
        with safe_open(file, framework="pt") as reader:
            header = _read_header((reader.metadata() or {})["ssrseg"])
            config = load_config(base=header.config)
            classes = check_class_names(header.classes)
            if classes != header.classes or len(header.texts) < len(classes):
                raise ValueError("the classes are not as ssrseg writes them")
            if len(header.images) not in (0, 1 + len(classes)):
                raise ValueError("the numbers of images are not those of the classes")
            names = list(reader.keys())
            sizes = [math.prod(reader.get_slice(name).get_shape()) for name in names]
            if sum(sizes) > MOST_NUMBERS:
                raise ValueError(f"it holds {sum(sizes):,} numbers")
            # cloned: a tensor that maps its file keeps Windows from replacing it
            tensors = {name: reader.get_tensor(name).clone() for name in names}
            if weights_digest(tensors) != header.tensors:
                raise ValueError("its numbers are not those that were written")
    except (SafetensorError, KeyError, ValueError, RecursionError, OSError, SSRError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{file} is not a checkpoint of ssrseg, or of another version of it, or damaged"
            f" ({type(error).__name__}: {reason}). Train again, or copy it anew."
        ) from error
    _refuse_not_finite(tensors, file)
    return Checkpoint(
        tensors,
        config,
        classes,
        header.texts,
        header.data,
        header.iteration,
        header.supervision,
        header.encoders,
        header.images,
    )


def _read_header(text: str) -> _Header:
    """What stands in the header; ValueError if that is not what ``save_checkpoint`` writes."""
    found = _HEADER.validate_json(text)
    json.dumps(asdict(found), ensure_ascii=False).encode()  # half a character is no text
    return found


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


def model_file(source: str | Path, **hub: Any) -> Path:
    """A path on this disk, or the file fetched from the hub."""
    path = model_path(source)
    if path.exists() or str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        return path
    name, cache = str(source), {key: hub[key] for key in ("cache_dir", "revision") if key in hub}
    try:
        if not isinstance(try_to_load_from_cache(name, MODEL_FILE, **cache), str):
            # one quick question first: nobody waits for retries behind a closed door
            model_info(name, revision=hub.get("revision"), token=hub.get("token"), timeout=10)
        return Path(hf_hub_download(name, MODEL_FILE, **hub))
    except Exception as error:
        raise CheckpointError(
            f"{source} is neither a folder here (seen from {Path.cwd()}) nor could it be fetched"
            f" from the hub ({type(error).__name__}). Give a run folder, a folder written by"
            " save_pretrained, or a hub id such as name/model."
        ) from error


def model_digest(path: str | Path) -> str:
    """A name for the weights of a run folder or checkpoint, wherever it lies.

    Raises:
        CheckpointError: If there is none.
    """
    return content_digest(_model_file(path))


def load_part(module: nn.Module, checkpoint: Checkpoint, name: str, origin: Path) -> None:
    """Load one owner's tensors into a module, all of them and nothing else.

    Raises:
        CheckpointError: If they do not fit, see ``check_part``.
    """
    check_part(module, checkpoint, name, origin)
    module.load_state_dict(checkpoint.part(name), strict=True)


def check_part(module: nn.Module, checkpoint: Checkpoint, name: str, origin: Path) -> None:
    """Raise CheckpointError unless one owner's tensors fit a module, which may be on ``meta``.

    If they do not, they are those of another encoder or of other settings.
    """
    what = f"The {name} in {origin} does not fit the encoder {checkpoint.config.backbones.clip}"
    cure = "Give the encoder it was trained with as backbones.clip (--clip)."
    check_tensors(checkpoint.part(name), module.state_dict(), what, cure)


def check_tensors(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str, cure: str = ""
) -> None:
    """Raise CheckpointError unless tensors have the names, shapes and types that are expected."""
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} has no place" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        here, there = (f"{_kind(each[name])}" for each in (found, expected))
        wrong += [f"{name} is {here}, not {there}"] if here != there else []
    if wrong:
        more = f"; and {len(wrong) - 3:,} more" if wrong[3:] else ""
        cure = cure or "It is damaged: copy it anew, or begin anew in another folder."
        raise CheckpointError(f"{what}: {'; '.join(sorted(wrong)[:3])}{more}. {cure}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def data_digest(data: LabelledImages, *, truth: bool = False, group: Group = ALONE) -> str:
    """A name for images and their labels: another one if an image or a label changes.

    Of an image the name, the labels and the content of the file count; with ``truth`` the true
    masks as well. Each process of the ``group`` reads its share.

    Raises:
        DataError: If a file cannot be read.
    """
    mine = group.share(data.samples)
    with ThreadPoolExecutor(_READERS) as pool:
        images = pool.map(known_digest, [sample.image for sample in mine])
        masks = pool.map(known_digest, [sample.truth if truth else None for sample in mine])
        found = [
            f"{sample.name} {sample.labels} {image} {mask}"
            for sample, image, mask in zip(
                mine, track(images, "Contents of images", len(mine)), masks, strict=True
            )
        ]
    rows = group.gathered(found)
    text = "\n".join(rows)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def known_digest(path: Path | None) -> str:
    """``content_digest`` of a file, read once as long as it does not change; empty for None."""
    if path is None:
        return ""
    try:
        found = path.stat()
    except OSError:
        return content_digest(path)  # which says what is wrong
    return _content_at(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1 << 19)  # COCO and its masks are 200,000 files
def _content_at(path: Path, _size: int, _changed: int) -> str:
    """Of the file as it was then: several runs of one process read it once."""
    return content_digest(path)


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


def check_same_encoders(
    there: Mapping[str, str], here: Mapping[str, str], backbones: BackboneConfig, path: Path
) -> None:
    """Raise CheckpointError if a model was trained with other weights of the same shapes.

    Args:
        there: Digests in the checkpoint.
        here: Those of the encoders that are loaded; what only one of the two has does not count.
        backbones: Where these are from.
        path: The checkpoint.
    """
    for name in sorted(there.keys() & here.keys()):
        if there[name] != here[name]:
            which, _, part = name.partition("_")
            raise CheckpointError(
                f"{path} was trained with another {which.upper()} than"
                f" {getattr(backbones, which)}: the weights{' of its text tower' if part else ''}"
                f" differ (digest {there[name]} there, {here[name]} here), and its results would be"
                f" wrong. Give the one it was trained with (--{which}), not a copy that was tuned"
                " or stored in another precision."
            )


def changed_texts(
    classes: tuple[str, ...], earlier: tuple[str, ...], now: tuple[str, ...]
) -> list[str]:
    """What differs between the texts of two vocabularies of the same classes, in words."""
    count = len(classes)
    prompts = changed_prompts(classes, earlier[:count], now[:count])
    return [*prompts, *changed_background(earlier[count:], now[count:])]


def check_same_run(earlier: Checkpoint, now: Checkpoint, path: Path) -> None:
    """Raise CheckpointError unless a run may go on from a checkpoint: the same in all but speed.

    ``now`` is what would be written; its tensors and iteration do not count, nor do its data where
    they have no digest yet. Encoders are compared by ``check_same_encoders``, wherever they lie.
    """
    check_same_classes(earlier.classes, now.classes, path)
    old, new = earlier.config.to_dict(), now.config.to_dict()
    differing = [
        f"{section}.{key} = {old[section].get(key)!r} there, {value!r} now"
        for section, values in new.items()
        for key, value in values.items()
        if old[section].get(key) != value and f"{section}.{key}" not in SPEED_KEYS | BY_CONTENT
    ]
    if earlier.supervision != now.supervision:
        differing.append(f"supervision = {earlier.supervision} there, {now.supervision} now")
    differing += changed_texts(earlier.classes, earlier.texts, now.texts)
    if now.data and earlier.data != now.data:
        differing.append("other images, labels or true masks")
    if differing:
        more = f"; and {len(differing) - 8} more" if differing[8:] else ""
        raise CheckpointError(
            f"{path.parent} holds a run with other settings ({'; '.join(differing[:8])}{more}). Use"
            " the same settings to go on with it, or another folder (--out) to begin anew."
        )
