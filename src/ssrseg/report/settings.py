"""What a run was made with, from the files that it leaves in its folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ssrseg.config import BY_CONTENT, SPEED_KEYS, Config, load_config, preset_names
from ssrseg.data.csv_lines import rows_by_name
from ssrseg.data.levels import Range
from ssrseg.errors import SSRError
from ssrseg.failures import FILE as FAILURES
from ssrseg.made_with import MadeWith, read_made_with

Facts = tuple[tuple[str, str], ...]

_SHOWN = 50  # failures; the file has all


def _read_config(file: Path) -> Config | None:
    """Settings as a run wrote them; None if they are not there or no longer known."""
    with suppress(SSRError, OSError):
        return load_config(file=file) if file.is_file() else None
    return None


def mask_facts(out: Path) -> tuple[Facts, Range | None]:
    """What the masks of a folder were made with, and black and white of their photographs."""
    config = _read_config(out / "config.yaml")
    made = _made_with(out / ("settings.txt" if config is None else "config.yaml"))
    model = (("model", made.model),) if made is not None and made.model else ()
    if config is not None:
        return (*model, *setting_facts(config)), config.data.range
    settings = {} if made is None else made.settings
    values = settings.get("data.range")
    text = "; ".join(f"{key} = {_text(value)}" for key, value in settings.items())
    return (*model, ("settings", text)), None if values is None else (values[0], values[1])


def _made_with(file: Path) -> MadeWith | None:
    with suppress(OSError):
        return read_made_with(file.read_text("utf-8", "surrogateescape"))
    return None


def setting_facts(config: Config) -> Facts:
    """Encoders, and the settings that differ from those of the nearest preset."""
    found = min(
        ((_differences(config, name), name) for name in preset_names()),
        key=lambda each: len(each[0]),
    )
    differences, name = found
    backbones = config.backbones
    names = [backbones.clip, *([backbones.dino] if config.affinity.dino_weight else [])]
    return (
        ("encoders", ", ".join(map(_short, names))),
        ("prompts", _short(config.prompts.set)),
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


def read_failures(folder: Path) -> list[tuple[str, str]]:
    """Name and reason of every image that a run could not use."""
    with suppress(SSRError):
        rows = rows_by_name(folder / FAILURES)
        return [(name, row.get("reason", "")) for name, row in rows.items()]
    return []


def failure_terms(failures: list[tuple[str, str]]) -> Facts:
    """The first of them, for a page."""
    more = len(failures) - _SHOWN
    rest = (("...", f"{more:,} more, all in failures.csv"),) if more > 0 else ()
    return (*failures[:_SHOWN], *rest)
