"""Where tensors live: chosen once, here."""

from __future__ import annotations

import torch

from ssrseg.errors import ConfigError


def pick_device(name: str | torch.device) -> str:
    """``auto`` becomes ``cuda`` where there is one, else ``cpu``.

    Raises:
        ConfigError: If the device cannot be used.
    """
    name = str(name)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # which a meta tensor does not have
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f'device "{name}" (--device) cannot be used here ({first}). Use auto or cpu.'
        ) from error
    return name
