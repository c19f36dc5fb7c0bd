"""shard.json: what the folder of a shard was asked for, and whether all of it is there."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from ssrseg.config import STRICT
from ssrseg.errors import DataError
from ssrseg.safe_json import JsonError, parse_json
from ssrseg.scale.place import Place
from ssrseg.scale.shard import Shard

FILE = "shard.json"
MERGED = "merged.json"
"""Beside the masks of merged shards."""

Name = Any  # a text; pydantic refuses names that are not UTF-8, which files may have


@checked_dataclass(frozen=True, config=STRICT)
class Asked:
    """What all shards of one folder have to agree on.

    Attributes:
        of: Number of shards.
        source: Digest of the list of all images, or of the files that hold them.
        images: Number of all images; None if only the shards together know it.
        made_from: A key of ``made_with.MADE_FROM``.
        confidence: Whether a confidence lies beside each mask.
    """

    of: int
    source: str
    images: int | None
    made_from: str
    confidence: bool


@checked_dataclass(frozen=True, config=STRICT)
class Record:
    """What one shard is, once it is finished.

    Attributes:
        number: From 1.
        made_for: Digest of settings, classes, prompts and weights.
        names: Images that it was asked for.
        files: Bytes of every file of its masks, by path below its folder.
    """

    asked: Asked
    number: int
    finished: bool
    made_for: str
    names: tuple[Name, ...]
    files: dict[Name, int]


@checked_dataclass(frozen=True, config=STRICT)
class Merged:
    """What was merged; ``made_for`` is that of a shard, ``masks`` the number of masks."""

    asked: Asked
    made_for: str
    masks: int


def _text(value: Any) -> str:
    # names that are not UTF-8 as JSON can hold them
    return json.dumps(asdict(value), ensure_ascii=True, indent=1) + "\n"


def write_record(out: Place, record: Record) -> None:
    """Write the record of a shard into its folder."""
    shard = Shard(record.number, record.asked.of)
    out.write_text(f"{shard.folder}/{FILE}", _text(record))


def read_record(out: Place, shard: Shard) -> Record | None:
    """What is said of a shard; None if nothing is.

    Raises:
        DataError: If it is damaged.
    """
    return _read(out, f"{shard.folder}/{FILE}", Record)


def write_merged(out: Place, name: str, merged: Merged) -> None:
    """Write what was merged."""
    out.write_text(name, _text(merged))


def read_merged(out: Place, name: str) -> Merged | None:
    """What ``write_merged`` has written; None if it has not."""
    return _read(out, name, Merged)


def _read(out: Place, name: str, kind: type) -> Any:
    text = out.read_text(name)
    if text is None:
        return None
    try:
        return TypeAdapter(kind).validate_python(parse_json(text))
    except (JsonError, ValidationError) as error:
        raise DataError(
            f"{out}/{name} is damaged ({' '.join(str(error).split())[:200]}). Remove it, and run"
            " the command of this shard again."
        ) from error
