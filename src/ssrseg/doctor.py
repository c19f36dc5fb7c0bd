"""What is installed, what loads, what is missing, and the cure."""

from __future__ import annotations

import importlib
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ssrseg import __version__
from ssrseg.check_result import Finding
from ssrseg.config import Config
from ssrseg.errors import SSRError
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.dino import FrozenDINO

PACKAGES = ("torch", "transformers", "safetensors", "numpy", "scipy", "scikit-image", "pillow")


def examine(config: Config) -> list[Finding]:
    """Look at this machine with the settings of a run.

    Args:
        config: Names the encoders to load.
    """
    findings = [
        Finding("ssrseg", __version__),
        Finding("python", platform.python_version()),
        *(_package(name) for name in PACKAGES),
        _torchvision(),
        _device(),
        Finding("free disk here", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GB"),
    ]
    encoders: list[tuple[str, Callable[[str], FrozenCLIP | FrozenDINO], str]]
    encoders = [("CLIP", FrozenCLIP.load, config.backbones.clip)]
    if config.affinity.kind == "attention" and config.affinity.dino_weight:
        encoders.append(("DINO", FrozenDINO.load, config.backbones.dino))
    patch_sizes = set()
    for what, loader, source in encoders:
        try:
            encoder = loader(source)
        except SSRError as error:
            findings.append(Finding(what, f"{source} does not load", str(error)))
        else:
            patch_sizes.add(encoder.patch_size)
            size = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
            findings.append(
                Finding(
                    what,
                    f"{source} loads: {encoder.depth} blocks, patches of {encoder.patch_size}"
                    f" pixels, {size:.1f} M parameters",
                )
            )
    if len(patch_sizes) > 1:
        findings.append(
            Finding(
                "patch grid",
                f"patches of {' and '.join(map(str, sorted(patch_sizes)))} pixels",
                "Choose encoders of the same patch size, or --set affinity.dino_weight=0.",
            )
        )
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", f"pip install {name}")


def _torchvision() -> Finding:
    """Not needed, but a torchvision of another torch makes transformers fail at import."""
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return Finding("torchvision", "not installed (not needed)")
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        return Finding(
            "torchvision",
            f"{found} fails at import ({error})",
            "It breaks transformers. pip uninstall torchvision, or install the one made for your"
            " torch.",
        )
    return Finding("torchvision", found)


def _device() -> Finding:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("device", f"cuda: {torch.cuda.get_device_name(0)}, {memory:.0f} GB")
    return Finding("device", f"cpu, {torch.get_num_threads()} threads")
