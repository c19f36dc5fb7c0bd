"""What the card of a kept model says: its data, classes, figures, limits and licences."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from ssrseg.checkpoint import Checkpoint
from ssrseg.config import uses_dino
from ssrseg.errors import DataError
from ssrseg.markdown import markdown_text
from ssrseg.packaged import PACKAGED
from ssrseg.safe_json import JsonError, read_json

_LICENCES = (
    # beginning of a source, licence as its page names it
    (PACKAGED, "Apache-2.0, stems from EfficientNet-Lite0 (Apache-2.0), names by OpenAI (MIT)"),
    ("openai/clip-", "MIT"),
    ("laion/CLIP-", "MIT"),
    ("facebook/dino-", "Apache-2.0"),
    ("facebook/dinov2-", "Apache-2.0"),
    ("facebook/dinov3-", "DINOv3 License, which asks to be accepted"),
)
_FEW = 10
"""Training images of a class below which the card names it."""


@checked_dataclass(frozen=True)
class ClassFigures:
    """Figures of one class, in [0, 1]; None = not defined."""

    images: int
    iou: float | None


@checked_dataclass(frozen=True)
class Figures:
    """What ``evaluate --json`` has written, shares in [0, 1]."""

    miou: float | None
    precision: float | None
    recall: float | None
    undecided: float
    images_scored: int
    classes: dict[str, ClassFigures]
    data: str
    model: str


_FIGURES = TypeAdapter(Figures)


def read_figures(path: Path, classes: tuple[str, ...], model: str) -> Figures:
    """The figures in a file of ``ssrseg evaluate --json``.

    Args:
        model: Digest of the model, which has to have made the masks.

    Raises:
        DataError: If it is no such file, or is of other classes or of masks of something else.
    """
    try:
        found = _FIGURES.validate_python(read_json(path))
    except (JsonError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} is not as `ssrseg evaluate --json` writes it ({reason}). Give such a file."
        ) from error
    if tuple(found.classes) != ("background", *classes):
        raise DataError(
            f"{path} holds figures of other classes ({', '.join(list(found.classes)[1:6])}, ...)"
            f" than the model's ({', '.join(classes[:5])}, ...). Score masks of this model."
        )
    if found.model != model:
        raise DataError(
            f"{path} holds figures of masks that another model made, or none. Score masks that"
            " `ssrseg predict` makes with this model, of images with true masks."
        )
    return found


@dataclass(frozen=True)
class _Encoder:
    kind: str
    name: str
    digest: str
    licence: str
    local: bool


@dataclass(frozen=True)
class _Class:
    name: str
    asked: str
    images: str
    iou: str


def card_text(
    model: Checkpoint,
    *,
    parts: tuple[str, ...],
    patch: int,
    repo_id: str | None = None,
    license: str | None = None,
    figures: Figures | None = None,
) -> str:
    """The card without its head, in Markdown.

    Args:
        model: Settings, classes, data and encoders; its tensors do not count.
        parts: Which of ``alignment`` and ``decoder`` it has.
        patch: Side of CLIP's patches in pixels.
        license: Of the model, as whoever publishes it says.
    """
    config, classes = model.config, model.classes
    sources = {"clip": config.backbones.clip}
    if uses_dino(config):
        sources["dino"] = config.backbones.dino
    counts = model.images[1:]
    rows = []
    for index, name in enumerate(classes):
        asked = model.texts[index] if index < len(model.texts) else ""
        count = f"{counts[index]:,}" if counts else ""
        iou = _percent(figures.classes[name].iou) if figures is not None else ""
        rows.append(_Class(markdown_text(name), markdown_text(asked), count, iou))
    template = (files("ssrseg") / "model_card.md.jinja").read_text(encoding="utf-8")
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"percent": _percent, "text": markdown_text}
    values: dict[str, Any] = {
        "classes": rows,
        "first": json.dumps(classes[0], ensure_ascii=False),
        "encoders": [_encoder(kind, source, model) for kind, source in sources.items()],
        "has_heads": "alignment" in parts,
        "has_decoder": "decoder" in parts,
        "on_true_masks": model.supervision == "full",
        "images": model.images[0] if model.images else 0,
        "few": [row.name for row, count in zip(rows, counts, strict=False) if count < _FEW],
        "model": model,
        "patch": patch,
        "test": config.test,
        "repo_id": repo_id,
        "license": None if license is None else markdown_text(license),
        "figures": figures,
        "version": version("ssrseg"),
    }
    return environment.from_string(template).render(values)


def _encoder(kind: str, source: str, model: Checkpoint) -> _Encoder:
    """An encoder as others may know it: of a folder of this machine, its name alone."""
    local = not source.startswith(PACKAGED) and source.count("/") != 1
    name = Path(source).name if local else source
    licence = next((text for start, text in _LICENCES if source.startswith(start)), "")
    return _Encoder(kind.upper(), markdown_text(name), model.encoders.get(kind, ""), licence, local)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
