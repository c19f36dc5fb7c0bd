"""Settings by preset, file and ``key=value``: what is given is merged, checked and explained."""

from __future__ import annotations

from dataclasses import fields
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import ValidationError

from ssrseg.config import Config, config_adapter
from ssrseg.errors import ConfigError, did_you_mean


def preset_names() -> list[str]:
    """Presets that come with the package."""
    folder = files("ssrseg") / "presets"
    return sorted(
        Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def known_keys() -> list[str]:
    """Every dotted key, such as ``sgc.min_ratio``."""
    hints = get_type_hints(Config)
    return [f"{name}.{entry.name}" for name, kind in hints.items() for entry in fields(kind)]


def load_config(
    preset: str = "ssr",
    file: Path | None = None,
    overrides: list[str] | tuple[str, ...] = (),
    base: dict[str, Any] | None = None,
) -> Config:
    """Preset, then a file, then ``key=value`` overrides; the last one wins.

    Args:
        preset: Name of a shipped preset.
        file: YAML of the same shape; only what differs.
        overrides: ``section.key=value``, the value written as in YAML.
        base: A saved configuration to start from instead of the preset.

    Raises:
        ConfigError: If a preset, file or key does not exist or a value is out of its range; all
            wrong values are named at once.
    """
    table = _preset(preset) if base is None else base
    merged: dict[str, Any] = {section: dict(values) for section, values in table.items()}
    origin = f"preset {preset}"
    if file is not None:
        origin = str(file)
        for section, values in _read(file).items():
            merged.setdefault(str(section), {}).update(values)
    for override in overrides:
        origin = "--set"
        section, name, value = _parse(override)
        merged.setdefault(section, {})[name] = value
    _refuse_unknown(merged, origin)
    try:
        config = config_adapter().validate_python(merged)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])} = {fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ConfigError(f"Settings out of range ({origin}): {faults}.") from error
    literal = config.cmpa.map_order == "project_then_pool"
    if literal and config.cmpa.cam_source == "refined":
        raise ConfigError(
            "cmpa.cam_source = refined cannot be combined with cmpa.map_order = project_then_pool:"
            " crops are pooled before they are rectified. Set cmpa.map_order=pool_then_project."
        )
    return config


def _preset(name: str) -> dict[str, Any]:
    known = preset_names()
    if name not in known:
        raise ConfigError(
            f"--preset {name} does not exist.{did_you_mean(name, known)} There are:"
            f" {', '.join(known)}."
        )
    text = (files("ssrseg") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"--config {file}: there is no such file.")
    try:
        table = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file} is not YAML: {error}") from error
    if not isinstance(table, dict) or not all(isinstance(v, dict) for v in table.values()):
        raise ConfigError(
            f"--config {file}: expected sections with keys, such as\nsgc:\n  min_ratio: 0.4"
        )
    return table


def _parse(override: str) -> tuple[str, str, Any]:
    """``section.key=value`` as section, key and value."""
    key, sign, value = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not sign or not dot:
        raise ConfigError(
            f"--set {override}: expected section.key=value, such as sgc.min_ratio=0.4."
            f"{did_you_mean(key, known_keys())}"
        )
    try:
        return section, name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--set {override}: the value is not YAML ({reason}).") from error


def _refuse_unknown(table: dict[str, Any], origin: str) -> None:
    known = known_keys()
    given = [f"{section}.{name}" for section, values in table.items() for name in values]
    wrong = [key for key in given if key not in known]
    if wrong:
        hints = "; ".join(f'"{key}"{did_you_mean(key, known)}' for key in wrong)
        raise ConfigError(
            f"Unknown setting ({origin}): {hints} `ssrseg config` lists every setting."
        )


def describe() -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every setting, read from the source of this file."""
    import ast

    tree = ast.parse((files("ssrseg") / "config.py").read_text(encoding="utf-8"))
    defaults = Config()
    rows = []
    for section in fields(Config):
        kind = get_type_hints(Config)[section.name].__name__
        body = next(
            node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind
        )
        for entry, after in pairwise(body):
            if not (isinstance(entry, ast.AnnAssign) and isinstance(after, ast.Expr)):
                continue
            name = entry.target.id  # type: ignore[union-attr]
            value = getattr(getattr(defaults, section.name), name)
            text = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
            rows.append((f"{section.name}.{name}", str(value), text))
    return rows
