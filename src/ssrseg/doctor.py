"""What is installed, what loads, what is missing, and the cure."""

from __future__ import annotations

import importlib
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ssrseg.config import Config
from ssrseg.console import CheckResult
from ssrseg.errors import SSRError
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.dino import FrozenDINO

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
    """Whether they load, and whether their patches fit."""
    encoders: list[tuple[str, Callable[[str], FrozenCLIP | FrozenDINO], str]]
    encoders = [("CLIP", FrozenCLIP.load, config.backbones.clip)]
    if config.affinity.kind == "attention" and config.affinity.dino_weight:
        encoders.append(("DINO", FrozenDINO.load, config.backbones.dino))
    results, sizes = [], set()
    for what, loader, source in encoders:
        try:
            encoder = loader(source)
        except SSRError as error:
            results.append(CheckResult(what, f"{source} does not load", str(error)))
            continue
        sizes.add(encoder.patch_size)
        millions = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
        found = f"{source} loads: {encoder.depth} blocks, patches of {encoder.patch_size} pixels"
        results.append(CheckResult(what, f"{found}, {millions:.1f} M parameters"))
    if len(sizes) > 1:
        found = f"patches of {' and '.join(map(str, sorted(sizes)))} pixels"
        cure = "Choose encoders of the same patch size, or --set affinity.dino_weight=0."
        results.append(CheckResult("patch grid", found, cure))
    return results
