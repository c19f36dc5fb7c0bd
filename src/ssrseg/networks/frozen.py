"""Frozen is a type, not a habit: eval mode for ever, and no parameter that asks for a gradient."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download, model_info, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError
from torch import nn

from ssrseg.errors import BackboneError, counted
from ssrseg.networks.stem import asks_for_stem, with_stem
from ssrseg.networks.vocabulary import NAMES_FILE
from ssrseg.packaged import unpacked
from ssrseg.safe_json import JsonError, read_json

_QUIET = threading.Lock()

_LARGEST = {
    "vocab": 1e7,
    "layers": 200,
    "heads": 1024,
    "size": 32768,
    "dim": 32768,
    "position": 1e6,
    "register": 1024,
}
"""Of numbers in the configuration of an encoder, by a part of their name."""

Precision = Literal["fp32", "bf16"]
"""Arithmetic of frozen blocks."""


@dataclass(frozen=True)
class PixelNorm:
    """How an encoder wants its pixels: RGB in [0, 1] less ``mean``, over ``deviation``.

    Attributes:
        mean: Of red, green, blue.
        deviation: Likewise, > 0.
        origin: The file that says so; empty = none does, and these are the usual ones of its kind.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    origin: str = ""

    @property
    def numbers(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation."""
        return self.mean, self.deviation

    def said(self, usual: str) -> str:
        """Where they are from, in words; ``usual`` is whose they are if no file says so."""
        if self.origin:
            return f"mean and deviation from {self.origin}"
        return f"{usual} mean and deviation (no preprocessor_config.json)"


class Frozen(nn.Module):
    """A module that cannot be trained; ``train`` leaves it in eval mode."""

    precision: Precision = "fp32"

    def freeze(self) -> Frozen:
        """Switch gradients off for every parameter and enter eval mode."""
        self.requires_grad_(False)
        return self.eval()

    def keep(self, blocks: Iterable[nn.Module], precision: Precision) -> None:
        """Choose the arithmetic of some blocks; it holds inside ``reduced``.

        In bf16 the weights of linear layers are converted once, where autocast alone would convert
        them in every forward pass (frozen weights are not cached); the numbers are the same. The
        residual stream and LayerNorms stay in fp32.
        """
        self.precision = precision
        if precision == "bf16":
            for block in blocks:
                for module in block.modules():
                    if isinstance(module, nn.Linear):
                        module.to(torch.bfloat16)

    def reduced(self, device: torch.device) -> torch.autocast:
        """The context in which blocks given to ``keep`` run."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def train(self, mode: bool = True) -> Frozen:
        """Stay in eval mode, whatever a surrounding module asks for."""
        return super().train(False)


def weights_digest(weights: Mapping[str, torch.Tensor], **settings: object) -> str:
    """A name for weights, 16 hexadecimal digits: the same from whatever file they were loaded.

    Args:
        weights: Parameters by name, in fp32 as they were loaded.
        settings: What else decides what they compute, such as the number of heads.
    """
    found = hashlib.sha256(repr(sorted(settings.items())).encode())
    for name, value in sorted(weights.items()):
        found.update(f"{name} {tuple(value.shape)} ".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def all_finite(value: torch.Tensor) -> bool:
    """False if a number is nan or infinite."""
    return not value.numel() or all(map(math.isfinite, map(float, value.detach().aminmax())))


def refuse_not_finite(weights: Mapping[str, torch.Tensor], source: str | Path, role: str) -> None:
    """Raise BackboneError if a weight is nan or infinite: everything after it would be, too."""
    wrong = [name for name, value in weights.items() if not all_finite(value)]
    if wrong:
        raise BackboneError(
            f"{role} {source} holds numbers that are nan or infinite in"
            f" {counted(len(wrong), 'weight', 'weights')} (such as {wrong[0]}): its training"
            " diverged, or the file was damaged. Fetch it anew, or give another one."
        )


def load_pretrained(kind: Any, source: str | Path, role: str, example: str, **options: Any) -> Any:
    """``kind.from_pretrained(source)`` with an error a tired person can act on.

    Args:
        kind: A transformers class.
        source: Hub id, a directory written by ``save_pretrained``, or ``ssrseg:`` and a folder of
            this package.
        role: What it is to be, for the message ("clip", "dino", ...).
        example: A hub id that works.

    Raises:
        BackboneError: If the directory is missing or holds another model, or the hub is out of
            reach.
    """
    found, cure = model_type(source, role, example), _cure(example)
    is_model = issubclass(kind, nn.Module)
    if is_model and found is not None and found != kind.config_class.model_type:
        raise BackboneError(
            f"{source} is not a {role}: its config.json describes {found or 'no model'}, not"
            f" {kind.config_class.model_type}. {cure}"
        )
    source = unpacked(source)
    local = os.path.isdir(source)
    config = _file_of(source, "config.json") if is_model else None
    if config is not None and asks_for_stem(_table(config), config):
        kind = with_stem(kind)
    if is_model:  # so that a mismatch comes back in the report below
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quiet() if local else nullcontext():
            loaded = kind.from_pretrained(source, **options)
    except Exception as error:  # whatever the library makes of damaged files
        where = "could not be read" if local else "could not be fetched from the hub"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(f"{role} {source} {where} ({first}). {cure}") from error
    if not is_model:
        return loaded
    model, report = loaded
    wrong = sorted({*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])})
    if wrong:
        names = ", ".join(wrong[:3])
        raise BackboneError(
            f"{source} is not a {role}: {counted(len(wrong), 'weight', 'weights')} of a"
            f" {kind.__name__} missing or of another shape (such as {names}). {cure}"
        )
    return model


def model_type(source: str | Path, role: str, example: str) -> str | None:
    """What the config.json of an encoder says that it is; empty if it says nothing.

    None if the hub would not give that file, and the library has to find out.

    Args:
        source: As for ``load_pretrained``.
        role: What it is to be, for the message.
        example: A hub id that works.

    Raises:
        BackboneError: If there is no such encoder, or its configuration is damaged or absurd.
    """
    source = unpacked(source)
    encoder, cure = _encoder(role), _cure(example)
    # a hub id has one slash
    looks_local = os.path.exists(source) or source.startswith((".", "/")) or source.count("/") > 1
    if not source.strip():
        raise BackboneError(f"backbones.{encoder} (--{encoder}) is empty. {cure}")
    if looks_local and not os.path.isdir(source):  # of any text, also one that no path can be
        raise BackboneError(
            f"backbones.{encoder} = {source} (--{encoder}): there is no such directory, seen from"
            f" {Path.cwd()}. If a run remembers it, say where it is now by {encoder}=DIR"
            f" (--{encoder} DIR). {cure}"
        )
    if not looks_local:
        _reach_hub(source, role, example)
    config = _file_of(source, "config.json")
    wants_clip = config is None and encoder == "clip"
    if wants_clip and _file_of(source, "open_clip_config.json") is not None:
        raise BackboneError(
            f"{source} is not a {role}: it is in OpenCLIP's own format (open_clip_config.json,"
            " without config.json), which is not read here. Take the same weights in the hub's"
            " format, with config.json and the tokenizer's files: most of LAION's and DataComp's"
            " have both in one place, such as laion/CLIP-ViT-B-16-laion2B-s34B-b88K."
        )
    if config is None and looks_local:
        raise BackboneError(f"{source} is not a {role}: it holds no config.json. {cure}")
    return None if config is None else _checked_type(config, cure)


def read_pixel_norm(source: str | Path, usual: PixelNorm) -> PixelNorm:
    """Mean and deviation of an encoder's input, from preprocessor_config.json beside its weights.

    Newer libraries write processor_config.json in its place.

    Args:
        source: As for ``load_pretrained``, which has read the model.
        usual: If no file says anything.

    Raises:
        BackboneError: If the file is damaged, or its numbers can be none.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = _file_of(unpacked(source), name)
        if path is None:
            continue
        table = _table(path)
        inner = table.get("image_processor")
        table = inner if isinstance(inner, dict) else table
        if table.get("do_normalize") is False:
            return PixelNorm((0.0,) * 3, (1.0,) * 3, name)
        given = table.get("image_mean"), table.get("image_std")
        if given != (None, None):
            mean, deviation = map(_three_numbers, given)
            if mean is None or deviation is None or not _of_unit_pixels(mean, deviation):
                raise BackboneError(
                    f"{path}: image_mean = {given[0]!r:.80} and image_std = {given[1]!r:.80}, but"
                    " three numbers each are expected, for red, green and blue in [0, 1] and not in"
                    " 0 .. 255, the second above 0. Copy the file from where the model is from."
                )
            return PixelNorm(mean, deviation, name)
    return usual


def read_names(source: str | Path) -> frozenset[str] | None:
    """What a small CLIP has learnt, in lower case, from names.txt beside its weights.

    None = there is no such file, as with CLIPs that have learnt from captions of the web: they may
    be asked anything.

    Args:
        source: As for ``load_pretrained``; nothing is fetched.

    Raises:
        BackboneError: If the file cannot be read, or names nothing.
    """
    folder = folder_on_disk(source)
    if folder is None or not (path := folder / NAMES_FILE).is_file():
        return None
    try:
        lines = path.read_text("utf-8-sig").lower().splitlines()
        names = frozenset(filter(None, map(str.strip, lines)))
    except (OSError, UnicodeDecodeError) as error:
        raise BackboneError(
            f"{path} cannot be read ({error}). Copy the directory again."
        ) from error
    if not names:
        raise BackboneError(f"{path} names nothing. Copy the directory again, or remove the file.")
    return names


def _three_numbers(values: object) -> tuple[float, ...] | None:
    if not isinstance(values, list) or len(values) != 3:
        return None
    usable = all(isinstance(each, (int, float)) and abs(each) <= 1000 for each in values)
    return tuple(map(float, values)) if usable else None


def _of_unit_pixels(mean: tuple[float, ...], deviation: tuple[float, ...]) -> bool:
    """Whether these can be those of pixels in [0, 1]: a deviation is at most half of the range.

    1 is a common deviation all the same, of what is only shifted.
    """
    return min(mean) >= 0 and max(mean) <= 1 and min(deviation) > 0 and max(deviation) <= 1


def _file_of(source: str, name: str) -> Path | None:
    """A file of an encoder in its directory, or from the hub; None if there is none."""
    if os.path.isdir(source):
        path = Path(source, name)
        return path if path.is_file() else None
    kept = try_to_load_from_cache(source, name)
    if kept is not None:  # its client has the file, or knows that there is none
        return Path(kept) if isinstance(kept, str) else None
    try:
        return Path(hf_hub_download(source, name))
    except GatedRepoError as error:
        raise BackboneError(
            f"{source} is given to those who accept its licence. Do so on its page of the hub, run"
            " `hf auth login`, and try again."
        ) from error
    except OSError:  # absent, or out of reach
        return None


def _cure(example: str) -> str:
    return f"Give a hub id such as {example}, or a directory written by save_pretrained."


def files_digest(source: str | Path) -> str:
    """A name for the files of an encoder, told without loading it; empty if they are not here.

    Equal files are equal encoders. Different ones may be, too: the same weights can be stored in
    many ways, which ``weights_digest`` sees through.

    Args:
        source: As for ``load_pretrained``; a hub id is looked up among what its client has kept.
    """
    try:
        folder = folder_on_disk(source)
        if folder is None:
            return ""
        names = {path.name for path in folder.iterdir() if path.is_file()}
        suffix = ".safetensors" if any(name.endswith(".safetensors") for name in names) else ".bin"
        read = sorted(name for name in names if name.endswith((".json", ".txt", suffix)))
        found = hashlib.sha256()
        for name in read:
            with (folder / name).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
            found.update(b"%d:%s" % (len(name), os.fsencode(name)) + content)
        return found.hexdigest()[:16] if "config.json" in names else ""
    except OSError:
        return ""


def folder_on_disk(source: str | Path) -> Path | None:
    """The folder that ``load_pretrained`` reads without the network; None = it would fetch.

    Args:
        source: As for ``load_pretrained``.
    """
    folder = Path(unpacked(source))
    if os.path.isdir(folder):  # of any text, also one that no path can be
        return folder
    try:
        kept = try_to_load_from_cache(str(source), "config.json")
    except ValueError:  # no hub id
        return None
    if not isinstance(kept, str):
        return None
    folder = Path(kept).parent
    has_weights = any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir())
    return folder if has_weights else None


def _reach_hub(hub_id: str, role: str, example: str) -> None:
    """One quick question to the hub, so that nobody waits for retries behind a closed door."""
    encoder = _encoder(role)
    wanted = "tokenizer_config.json" if "tokenizer" in role else "config.json"
    if isinstance(try_to_load_from_cache(hub_id, wanted), str):
        return  # its client has the files already
    try:
        model_info(hub_id, timeout=10)
    except Exception as error:
        wanted = hub_id if "/" in hub_id else example
        raise BackboneError(
            f"{role} {hub_id} is neither a directory in {Path.cwd()} nor can it be fetched from the"
            f" model hub ({type(error).__name__}). On a machine with network run `hf download"
            f" {wanted} --local-dir {encoder}`, copy the folder here and give {encoder}={encoder!r}"
            f" (--{encoder} {encoder}). What `ssrseg demo` needs comes with the package."
        ) from error


def _encoder(role: str) -> str:
    """Name of the setting: that of a CLIP tokenizer is clip."""
    return role.split()[0].lower()


def _checked_type(config: Path, cure: str) -> str:
    """The kind of model that a configuration describes, if it is one that memory can hold."""
    table = _table(config)
    if absurd := _absurd_size(table):
        raise BackboneError(f"{config} describes no model that can be loaded: {absurd}. {cure}")
    found = table.get("model_type")
    return found if isinstance(found, str) else ""


def _table(path: Path) -> dict[str, Any]:
    """A JSON file of an encoder; empty if it holds something else than a table."""
    try:
        table = read_json(path)
    except JsonError as error:
        raise BackboneError(
            f"{path} is not valid JSON ({error}). Copy the directory again."
        ) from error
    return table if isinstance(table, dict) else {}


def _absurd_size(table: object) -> str:
    """``hidden_size = 1000000000``, the first number that no encoder has; empty if there is none.

    Without this a file of a few bytes would ask for all memory, before its weights are looked at.
    """
    entries = table.items() if isinstance(table, dict) else ()
    for name, value in entries:
        if isinstance(value, dict) and (absurd := _absurd_size(value)):
            return absurd
        most = next((most for part, most in _LARGEST.items() if part in str(name)), 1e9)
        if isinstance(value, (int, float)) and not -most <= value <= most:
            return f"{name} = {value!r:.40}"
    return ""


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar for a second's work, no table of weights in front of our one paragraph.

    One at a time: verbosity belongs to the process, and of two threads the second would keep what
    the first has set.
    """
    from transformers.utils import logging  # whoever opens no encoder does without the library

    with _QUIET:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
