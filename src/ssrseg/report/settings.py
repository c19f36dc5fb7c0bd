"""What a run was made with, from the files that it leaves in its folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from ssrseg.config import (
    BY_CONTENT,
    SPEED_KEYS,
    Config,
    DataConfig,
    load_config,
    preset_names,
    uses_dino,
)
from ssrseg.data.levels import Range
from ssrseg.data.pixels import Bands
from ssrseg.errors import SSRError, counted
from ssrseg.failures import FILE as FAILURES
from ssrseg.failures import Failure, read_failures
from ssrseg.made_with import folder_made_with, settings_file
from ssrseg.report.page import Section

Facts = tuple[tuple[str, str], ...]

_SHOWN = 50  # failures; the file has all


def _read_config(file: Path) -> Config | None:
    """Settings as a run wrote them; None if they are not there or no longer known."""
    with suppress(SSRError, OSError):
        return load_config(file=file) if file.is_file() else None
    return None


Levels = tuple[Range | None, Bands | None]
"""Black and white of photographs, and their bands: ``data.range`` and ``data.bands``."""


def mask_facts(out: Path) -> tuple[Facts, Levels]:
    """What the masks of a folder were made with, and how their photographs are read."""
    config = _read_config(settings_file(out, "labels"))
    made = folder_made_with(out, "model" if config is None else "labels")
    model = (("model", made.model),) if made is not None and made.model else ()
    if config is not None:
        return (*model, *setting_facts(config)), (config.data.range, config.data.bands)
    settings = {} if made is None else made.settings
    text = "; ".join(f"{key} = {_text(value)}" for key, value in settings.items())
    levels: Levels = (None, None)
    with suppress(ValidationError):  # somebody may have edited the file
        data = DataConfig(range=settings.get("data.range"), bands=settings.get("data.bands"))
        levels = (data.range, data.bands)
    return (*model, ("settings", text)), levels


def setting_facts(config: Config) -> Facts:
    """Encoders, and the settings that differ from those of the nearest preset."""
    found = min(
        ((_differences(config, name), name) for name in preset_names()),
        key=lambda each: len(each[0]),
    )
    differences, name = found
    backbones = config.backbones
    names = [backbones.clip, *([backbones.dino] if uses_dino(config) else [])]
    return (
        ("encoders", ", ".join(map(_short, names))),
        ("prompt set", _short(config.prompts.set)),
        ("settings", "; ".join([f"preset {name}", *differences])),
    )


def _differences(config: Config, preset: str) -> list[str]:
    """``sgc.min_ratio = 0.4 (preset: 0.5)`` for every setting that decides a result."""
    own, other = config.to_dict(), load_config(preset).to_dict()
    return [
        f"{section}.{key} = {_text(value)} (preset: {_text(other[section][key])})"
        for section, values in own.items()
        for key, value in values.items()
        if value != other[section][key] and f"{section}.{key}" not in BY_CONTENT | SPEED_KEYS
    ]


def _short(name: str) -> str:
    """A hub id as it is; of a path the end, as a page is shown to others."""
    parts = Path(name).parts
    return name if len(parts) < 3 else "/".join(("...", *parts[-2:]))


def _text(value: object) -> str:
    return "none" if value is None else str(value)


def failure_section(folder: Path) -> tuple[Section | None, int]:
    """Images that a run could not use, with the reasons, and how many; None if there is none."""
    failures: tuple[Failure, ...] = ()
    with suppress(SSRError):
        failures = read_failures(folder)
    if not failures:
        return None, 0
    terms = [(each.name, each.reason) for each in failures[:_SHOWN]]
    if (more := len(failures) - _SHOWN) > 0:
        terms.append(("...", f"{more:,} more, all in {FAILURES}"))
    title = f"{counted(len(failures), 'image', 'images')} could not be used"
    return Section(title, terms=tuple(terms)), len(failures)
