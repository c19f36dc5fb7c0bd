from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssrseg.config import Config
from ssrseg.errors import DataError
from ssrseg.paper.records import read_marker, read_result, read_settings

FIGURES = {"miou": 0.5, "precision": 0.5, "recall": 1, "confusion_ratio": None}
OF_CLASS = {"images": 3, "iou": 0.5, "confusion_ratio": 1.5}
ENCODER = {"name": "clip", "digest": "0a"}
RESULT: dict[str, Any] = {
    "key": "k",
    "measure": "seeds",
    "figures": FIGURES,
    "classes": {"background": OF_CLASS, "dog": OF_CLASS},
    "images": 3,
    "seconds": 1.5,
    "data": {"digest": "0b", "folder": "/data"},
    "encoders": {"clip": ENCODER, "dino": ENCODER},
    "training": {"images": 3, "run": "runs/a"},
    "command": "ssrseg table 3",
    "version": "0.1.0",
    "commit": None,
    "date": "2026-01-01T00:00:00+00:00",
    "more": [1],
}


def test_a_whole_result(tmp_path: Path) -> None:
    path = tmp_path / "a-k.json"
    path.write_text(json.dumps(RESULT))
    assert read_result(path, "k", ("dog",)) == RESULT
    for key, classes in (("l", ("dog",)), ("k", ("cat",)), ("k", ())):
        with pytest.raises(DataError, match="another measurement"):
            read_result(path, key, classes)


def replaced(table: Any, way: tuple[str, ...], value: object) -> Any:
    return {**table, way[0]: replaced(table[way[0]], way[1:], value)} if way else value


def ways(table: Any) -> list[tuple[str, ...]]:
    if not isinstance(table, dict):
        return [()]
    return [(), *((key, *rest) for key, each in table.items() for rest in ways(each))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(ways({**RESULT, "more": {}})),
    st.sampled_from([None, True, -1, 2.5, "nan", "1e999", [], {}, "[[", '"text"']).map(str),
)
def test_a_value_of_any_type_is_read_or_named(
    tmp_path: Path, way: tuple[str, ...], value: str
) -> None:
    mark = "a mark of its own"
    path = tmp_path / "a-k.json"
    path.write_text(json.dumps(replaced(RESULT, way, mark)).replace(f'"{mark}"', value))
    try:
        read_result(path, "k", ("dog",))
    except DataError as error:
        assert str(error).startswith(f"{path} is not as ssrseg wrote it (")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "Expecting value"),
        ("[]", "valid dictionary"),
        ('{"key": 3}', "key: "),
        ('{"key": "a", "seconds": -1}', "seconds: "),
        ('{"key": "a", "seconds": "1"}', "seconds: "),
        ('{"key": "a", "heads": {}}', "heads: "),
        ('{"key": "a", "seconds": NaN}', "NaN is no number"),
        ("[" * 100_000, "too deep"),
    ],
)
def test_a_damaged_marker(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "experiment.json"
    path.write_text(text)
    with pytest.raises(DataError, match=fault):
        read_marker(path)


def test_settings_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(Config().to_yaml())
    assert read_settings(path) == Config()
    for text in ("[", "a: b", "optim: {batch: many}", "a: &a\nb: *a", "3"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"config\.yaml does not hold the settings of a run"):
            read_settings(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_settings(tmp_path / "absent.yaml")
