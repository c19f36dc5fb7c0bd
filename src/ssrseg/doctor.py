"""What is installed, what loads, what is missing, and the cure."""

from __future__ import annotations

import importlib
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import torch

from ssrseg.config import Config, uses_dino
from ssrseg.console import CheckResult
from ssrseg.device import describe_bf16, pick_device
from ssrseg.errors import SSRError, counted
from ssrseg.networks.attention import resolve_layers
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.dino import FrozenDINO
from ssrseg.networks.frozen import read_names
from ssrseg.networks.vocabulary import NAMES_FILE
from ssrseg.packaged import unpacked

PACKAGES = ("torch", "transformers", "safetensors", "numpy", "scipy", "scikit-image", "pillow")


def examine(config: Config) -> list[CheckResult]:
    """Look at this machine with the settings of a run, whose encoders are loaded."""
    device = f"cpu, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        device = f"cuda: {torch.cuda.get_device_name(0)}, {memory:.0f} GB"
    return [
        _package("ssrseg"),
        CheckResult("python", platform.python_version()),
        *map(_package, PACKAGES),
        _torchvision(),
        CheckResult("device", device),
        CheckResult("bf16", describe_bf16(pick_device("auto"))),
        CheckResult("free disk here", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GB"),
        *_encoders(config),
    ]


def _package(name: str) -> CheckResult:
    try:
        return CheckResult(name, version(name))
    except PackageNotFoundError:
        return CheckResult(name, "missing", f"pip install {name}")


def _torchvision() -> CheckResult:
    """Not needed, but a torchvision of another torch makes transformers fail at import."""
    try:
        found = version("torchvision")
        importlib.import_module("torchvision")
    except PackageNotFoundError:
        return CheckResult("torchvision", "not installed (not needed)")
    except (ImportError, RuntimeError) as error:
        cure = "It breaks transformers. pip uninstall torchvision, or install that of your torch."
        return CheckResult("torchvision", f"{found} fails at import ({error})", cure)
    return CheckResult("torchvision", found)


def _encoders(config: Config) -> list[CheckResult]:
    """What they are, whether they load, and whether they and the settings fit each other."""
    results: list[CheckResult] = []
    clip = _loaded(results, "CLIP", FrozenCLIP.load, config.backbones.clip)
    if clip is not None and (names := read_names(config.backbones.clip)):
        path = Path(unpacked(config.backbones.clip), NAMES_FILE)
        found = f"{counted(len(names), 'name', 'names')}, and no others, in {path}"
        results.append(CheckResult("CLIP has learnt", found))
    affinity = config.affinity
    if clip is not None and affinity.kind == "attention" and affinity.clip_weight:
        _check_layers(results, affinity.clip_layers, clip.depth, "affinity.clip_layers")
    if not uses_dino(config):
        return results
    dino = _loaded(results, "DINO", FrozenDINO.load, config.backbones.dino)
    if dino is not None and affinity.dino_kind == "attention":
        _check_layers(results, affinity.dino_layers, dino.depth, "affinity.dino_layers")
    if clip is not None and dino is not None:
        found = f"patches of {clip.patch_size} pixels for both"
        if clip.patch_size != dino.patch_size:
            found = (
                f"CLIP's, of {clip.patch_size} pixels a patch; DINO sees images at"
                f" {dino.patch_size / clip.patch_size:.3g} of their size"
            )
        results.append(CheckResult("patch grid", found))
    return results


Encoder = TypeVar("Encoder", FrozenCLIP, FrozenDINO)


def _loaded(
    results: list[CheckResult], what: str, loader: Callable[[str], Encoder], source: str
) -> Encoder | None:
    """The encoder, and a result that says what it is; None if it does not load."""
    try:
        encoder = loader(source)
    except SSRError as error:
        results.append(CheckResult(what, f"{source} does not load", str(error)))
        return None
    millions = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    found = f"{source} loads: {encoder.description}, {millions:.1f} M parameters"
    results.append(CheckResult(what, found))
    return encoder


def _check_layers(
    results: list[CheckResult], layers: int | tuple[int, ...], depth: int, key: str
) -> None:
    """Add a problem if blocks are asked for that an encoder lacks."""
    try:
        resolve_layers(layers, depth, key)
    except SSRError as error:
        results.append(CheckResult(key, f"{layers!r} of {depth} blocks", str(error)))
