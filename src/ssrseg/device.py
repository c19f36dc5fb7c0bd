"""Where tensors live, and in which arithmetic the encoders run: chosen once, here."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from typing import Literal

import torch
from torch.nn import functional

from ssrseg.config import Config
from ssrseg.console import note
from ssrseg.errors import ConfigError

WORTH_IT = 0.7
"""``precision = auto`` takes bf16 where a product takes at most this share of its time in fp32;
what else a block does is no faster (our choice)."""


def pick_device(name: str | torch.device) -> str:
    """``auto`` becomes ``cuda`` where there is one, else ``cpu``.

    On a GPU fp32 then means fp32: TF32, which keeps 10 bits of 23, is off in products of matrices,
    as PyTorch begins, and from here on in convolutions, where PyTorch has it on. Speed comes from
    bf16, which is a setting and is said; machine.yaml of a run has what was on.

    Raises:
        ConfigError: If the device cannot be used.
    """
    name = str(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = False
    try:
        torch.zeros(1, device=name).item()  # which a meta tensor does not have
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f'device "{name}" (--device) cannot be used here ({first}). Use auto or cpu.'
        ) from error
    return name


@cache
def bf16_share(device: str) -> float:
    """Time of a product in bf16 over its time in fp32: some .1 s of work, once in a process.

    It is 5 on processors without such instructions, where bf16 is emulated.
    """
    sides = torch.ones(1024, 768, device=device), torch.ones(768, 768, device=device)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = (side.to(dtype) for side in sides)
        tries = []
        for _ in range(4):  # the first one prepares
            start = time.perf_counter()
            functional.linear(left, right)[0, 0].item()  # which waits for a GPU
            tries.append(time.perf_counter() - start)
        seconds[dtype] = min(tries)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def describe_bf16(device: str) -> str:
    """How fast bf16 is here, and what ``backbones.precision=auto`` takes."""
    share = bf16_share(device)
    taken = _choose(share)
    return f"a product takes {share:.2g} of its time in fp32, so precision=auto takes {taken}"


def _choose(share: float) -> Literal["fp32", "bf16"]:
    return "bf16" if share <= WORTH_IT else "fp32"


def settled_precision(config: Config, device: str) -> Config:
    """The settings with fp32 or bf16 in place of ``backbones.precision=auto``; it is said which.

    Masks and runs keep what was chosen, so that another machine goes on in the same arithmetic or
    refuses to.
    """
    wanted = config.backbones.precision
    if wanted == "fp32":
        return config
    share = bf16_share(device)
    if wanted == "bf16":
        if share > 1:
            _note_once(
                f"backbones.precision=bf16 is slow here: a product takes {share:.1f} times as long"
                " as in fp32. auto chooses by that."
            )
        return config
    chosen = _choose(share)
    _note_once(f"Encoders in {chosen}: {describe_bf16(device)}.")
    return replace(config, backbones=replace(config.backbones, precision=chosen))


@cache
def _note_once(text: str) -> None:
    note(text)
