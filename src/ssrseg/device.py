"""Where tensors live: chosen once, here."""

from __future__ import annotations

import torch

from ssrseg.errors import ConfigError


def pick_device(name: str) -> str:
    """``auto`` becomes ``cuda`` where there is one, else ``cpu``.

    Raises:
        ConfigError: If the device cannot be used.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"--device {name} cannot be used here ({first}). Use --device auto or cpu."
        ) from error
    return name
