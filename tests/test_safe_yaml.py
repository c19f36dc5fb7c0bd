from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ssrseg.safe_yaml import YamlError, compose_yaml, dump_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("30_000", 30000),
        ("-.5", -0.5),
        ("12:30", "12:30"),
        ("no", "no"),
        ("On", "On"),
        ("true", True),
        ("~", None),
        ("", None),
        ("2024-99-99", "2024-99-99"),
        ("2024-01-01", "2024-01-01"),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("!!str 12", "12"),
        ("a: [1, 2.5, x]", {"a": [1, 2.5, "x"]}),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


def test_numbers_without_end() -> None:
    assert parse_yaml("[.inf, -.inf, 1e400]") == [math.inf, -math.inf, math.inf]
    assert math.isnan(parse_yaml(".nan"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3", 'line 3: "a" is already on line 1'),
        ("{a: 1, a: 2}", "a key comes twice"),
        ("{1: a, 1.0: b}", "a key comes twice"),
        ("a: &x [1]\nb: *x", r"line 2: aliases \(\*x\) are not read"),
        ("[" * 3000, "more than 20 deep"),
        ("- " * 3000, "more than 20 deep"),
        ("? " * 25, "more than 20 deep|a key is a list"),
        ("x: " + "9" * 5000, "a number has more than 40 characters"),
        ("x: 0x" + "9" * 5000, "a number has more than 40 characters"),
        ("!!int a", "tags .* are not read"),
        ("!!python/object/apply:os.system [x]", "tags .* are not read"),
        ("? [a]\n: b", "a key is a list or a table"),
        (r'"\ud800"', "U\\+D800"),
        (r'"\0"', "U\\+0000"),
        (r'"\UFFFFFFFF"', "Error"),
        ("\x07", "#x0007"),
        ("a: [", "line 1"),
        ("--- a\n--- b", "another document"),
        ("a" * 1_000_001, "longer than 1,000,000"),
        ("[" + "1," * 60_000 + "]", "more than 50,000 values"),
    ],
)
def test_what_is_not_read(text: str, fault: str) -> None:
    for read in (parse_yaml, compose_yaml):
        if read is compose_yaml and text.startswith(("a: 1\nb", "{", "? [")):
            continue  # nodes keep repeated keys, and keys of any kind
        with pytest.raises(YamlError, match=fault) as raised:
            read(text)
        assert "\n" not in str(raised.value)


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    start = time.monotonic()
    with pytest.raises(YamlError, match="aliases"):
        parse_yaml("\n".join(lines))
    assert time.monotonic() - start < 1


def test_nodes_keep_lines_and_spelling() -> None:
    node = compose_yaml("no: 010\nno: 2")
    assert isinstance(node, yaml.MappingNode)
    assert [(k.value, v.value, k.start_mark.line) for k, v in node.value] == [
        ("no", "010", 0),
        ("no", "2", 1),
    ]


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: \xc3\xa9\r\n")
    assert read_yaml(file) == {"a": "é"}
    file.write_bytes(b"a: \xe9")
    with pytest.raises(YamlError, match="byte 3 is not UTF-8"):
        read_yaml(file)
    with pytest.raises(YamlError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(YamlError, match="longer than"):
        read_yaml(file)


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    st.sampled_from(["1e5", "0o17", "no", "~", "", "12:30", "<<", "=", "1_000", "\x85", "+.inf"]),
)


@given(
    st.recursive(
        _scalars,
        lambda inner: st.lists(inner) | st.dictionaries(st.text("abc\n é", min_size=1), inner),
        max_leaves=12,
    )
)
def test_what_is_written_is_read_back(value: object) -> None:
    found = parse_yaml(dump_yaml(value))
    assert found == value and repr(found) == repr(value)


@given(st.text("[]{}&*!|>'\"%@`#:-?,ab01.e_\n \t~\\", max_size=60))
def test_only_our_own_errors_come_out(text: str) -> None:
    for read in (parse_yaml, compose_yaml):
        try:
            read(text)
        except YamlError as error:
            assert "\n" not in str(error)
