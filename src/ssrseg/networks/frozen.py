"""Frozen is a type, not a habit: eval mode for ever, and no parameter that asks for a gradient."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from ssrseg.errors import BackboneError

PACKAGED = "ssrseg:"
"""Marks a folder inside this package, so that saved settings hold on every machine."""


class Frozen(nn.Module):
    """A module that cannot be trained; :meth:`train` leaves it in eval mode."""

    def freeze(self) -> Frozen:
        """Switch gradients off for every parameter and enter eval mode."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Frozen:
        """Stay in eval mode, whatever a surrounding module asks for."""
        return super().train(False)


def load_pretrained(kind: Any, source: str | Path, role: str, example: str, **options: Any) -> Any:
    """``kind.from_pretrained(source)`` with an error a tired person can act on.

    Args:
        kind: A transformers class.
        source: Hub id, a directory written by ``save_pretrained``, or ``ssrseg:`` and a folder of
            this package.
        role: What it is to be, for the message ("clip", "dino", ...).
        example: A hub id that works.
        options: Further arguments of ``from_pretrained``.

    Raises:
        BackboneError: If the directory is missing or holds another model, or the hub is out of
            reach.
    """
    if str(source).startswith(PACKAGED):
        source = str(files("ssrseg") / str(source).removeprefix(PACKAGED))
    folder = Path(source)
    looks_local = folder.exists() or str(source).startswith((".", "/", "~"))
    cure = f"Give a hub id such as {example}, or a directory written by save_pretrained."
    if looks_local and not folder.is_dir():
        raise BackboneError(f"--{role} {source}: there is no such directory. {cure}")
    if looks_local and not (folder / "config.json").is_file():
        raise BackboneError(f"{source} is not a {role}: it holds no config.json. {cure}")
    try:
        if not issubclass(kind, nn.Module):
            return kind.from_pretrained(str(source))
        model, report = kind.from_pretrained(str(source), output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        where = "could not be read" if looks_local else "could not be fetched from the hub"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(f"{role} {source} {where} ({first}). {cure}") from error
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        names = ", ".join(missing[:3] + [str(key) for key in list(report["mismatched_keys"])[:3]])
        raise BackboneError(
            f"{source} is not a {role}: {len(missing)} weights of a {kind.__name__} are missing or"
            f" of another shape (such as {names}). {cure}"
        )
    return model
