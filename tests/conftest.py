"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest
import torch
from tiny_encoders import tiny_clip, tiny_dino

for _signal in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
    if signal.getsignal(_signal) is signal.SIG_IGN:  # as nohup and "&" leave them
        default = signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL
        signal.signal(_signal, default)
if os.environ.get("CI"):  # the same examples in every run; other runs look for new ones
    hypothesis.settings.register_profile("ci", derandomize=True)
    hypothesis.settings.load_profile("ci")
torch.set_num_threads(1)  # tiny tensors: on a busy machine, threads wait fifty times the work


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's folder of measured material beside the checkout; users do not have it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the project's shared material beside the checkout")
    return folder


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of 4 blocks, width 64, joint length 32."""
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def dino_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ViT of 4 blocks, width 64."""
    return tiny_dino(tmp_path_factory.mktemp("dino"))
