"""Results and runs as a workspace keeps them: checked before anything is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from ssrseg.config import Config, load_config
from ssrseg.errors import ConfigError, DataError, SSRError
from ssrseg.safe_json import JsonError, read_json
from ssrseg.safe_yaml import YamlError, read_yaml

_Share = Annotated[float, Field(ge=0, le=1)]
_Ratio = Annotated[FiniteFloat, Field(ge=0)]
_KEPT = ConfigDict(extra="allow", strict=True)


@with_config(_KEPT)
class _Figures(TypedDict):
    miou: _Share | None
    precision: _Share | None
    recall: _Share | None
    confusion_ratio: _Ratio | None


@with_config(_KEPT)
class _OfClass(TypedDict):
    images: int
    iou: _Share | None
    confusion_ratio: _Ratio | None


@with_config(_KEPT)
class _Data(TypedDict):
    digest: str
    folder: str


@with_config(_KEPT)
class _Encoder(TypedDict):
    name: str
    digest: str


@with_config(_KEPT)
class _Training(TypedDict):
    images: int
    run: str


@with_config(_KEPT)
class _Result(TypedDict):
    """What tables read of a result."""

    key: str
    measure: str
    figures: _Figures
    classes: dict[str, _OfClass]
    images: int
    seconds: FiniteFloat
    data: _Data
    encoders: dict[str, _Encoder]
    training: _Training | None
    command: str
    version: str
    commit: str | None
    date: str
    alpha: NotRequired[FiniteFloat]
    undecided: NotRequired[_Share]


@with_config(_KEPT)
class _Marker(TypedDict):
    """What a folder of a workspace says of itself."""

    key: str
    seconds: NotRequired[_Ratio]
    heads: NotRequired[str]


_RESULT, _MARKER = TypeAdapter(_Result), TypeAdapter(_Marker)


def read_result(path: Path, key: str, classes: tuple[str, ...]) -> dict[str, Any]:
    """A result with everything behind its figures.

    Args:
        path: Its file.
        key: What it has to be of.
        classes: Those of the data it was scored on; background comes before them.

    Raises:
        DataError: If the file is damaged, or of something else.
    """
    record = _checked(path, _RESULT, "the same command measures it again")
    if record["key"] != key or (*record["classes"],) != ("background", *classes):
        raise _not_ours(path, "it is of another measurement", "the same command measures it again")
    if not {"clip", "dino"} <= set(record["encoders"]):
        raise _not_ours(path, "an encoder is missing", "the same command measures it again")
    return record


def read_marker(path: Path) -> dict[str, Any]:
    """What the folder of a run or of its masks says of itself; DataError if it is damaged."""
    return _checked(path, _MARKER, "the same command goes on with what lies beside it")


def read_settings(path: Path) -> Config:
    """Settings of a run folder; DataError if the file is damaged."""
    try:
        return load_config(base=read_yaml(path))
    except (YamlError, ConfigError) as error:
        raise DataError(
            f"{path} does not hold the settings of a run ({error}). Copy the folder again, or"
            " delete it."
        ) from error


def _checked(path: Path, form: Any, cure: str) -> dict[str, Any]:
    try:
        table: dict[str, Any] = read_json(path)
        form.validate_python(table)
    except JsonError as error:
        raise _not_ours(path, str(error), cure) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _not_ours(
            path, f"{where}: {first['msg']}" if where else first["msg"], cure
        ) from error
    return table


def _not_ours(path: Path, reason: str, cure: str) -> SSRError:
    return DataError(f"{path} is not as ssrseg wrote it ({reason}). Delete it; {cure}.")
