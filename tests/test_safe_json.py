from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssrseg.safe_json import JsonError, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[" * 100_000, "too deep"),
        ('{"a":' * 100_000, "too deep"),
        ("9" * 5000, "4300"),
        ("[NaN]", "NaN is no number"),
        ("-Infinity", "-Infinity is no number"),
        (b"\xff", "byte 0 is not UTF-8"),
        ('{"a"', "delimiter"),
        ("", "Expecting value"),
    ],
)
def test_what_is_not_read(text: str | bytes, fault: str, tmp_path: Path) -> None:
    with pytest.raises(JsonError, match=fault):
        parse_json(text)
    (tmp_path / "a.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(JsonError, match=fault):
        read_json(tmp_path / "a.json")


def test_a_byte_order_mark_and_a_missing_file(tmp_path: Path) -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(JsonError, match="cannot be read"):
            read_json(path)


@given(st.binary(max_size=40) | st.text('[]{}":,0e-. nulINfity', max_size=40))
def test_only_our_own_errors_come_out(text: str | bytes) -> None:
    try:
        parse_json(text)
    except JsonError as error:
        assert "\n" not in str(error)


def test_nan_is_let_through_for_who_can_say_where_it_is() -> None:
    assert str(parse_json("[NaN, -Infinity]", nan=True)) == "[nan, -inf]"


def test_keys_that_are_there_twice() -> None:
    text = '{"a": 1, "b": {"c": 1, "c": 2}}'
    assert parse_json(text) == {"a": 1, "b": {"c": 2}}
    with pytest.raises(JsonError, match=r'^"c" is there twice$'):
        parse_json(text, unique=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings(encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    assert parse_json((mark + '{"\u00e4": 1}').encode(encoding)) == {"\u00e4": 1}
