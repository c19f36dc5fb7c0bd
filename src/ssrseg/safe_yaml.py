"""YAML that people write by hand: plain values only, and nothing that a small file can blow up.

Numbers and truth values are those of YAML 1.2: ``no`` and ``2024-99-99`` are texts, ``1e-3`` is a
number. Left out are aliases (a file of 400 bytes can stand for 10 GB), tags and repeated keys.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ssrseg.errors import SSRError

_LONGEST = 1_000_000  # bytes of a file
_MOST = 50_000  # values in it
_DEEPEST = 20  # lists and tables within each other
_LONGEST_NUMBER = 40  # characters; no setting needs more
_TEXT = "tag:yaml.org,2002:str"


class YamlError(SSRError):
    """What is wrong with a text that should be YAML, as a clause; who reads it says of which."""


def read_yaml(path: Path) -> Any:
    """The value in a file; None if it is empty.

    Raises:
        YamlError: If it cannot be read, or is not YAML as described above.
    """
    return parse_yaml(read_yaml_text(path))


def read_yaml_text(path: Path) -> str:
    """The text of a file that is to be YAML; YamlError if it is too long or not in UTF-8."""
    try:
        with path.open("rb") as file:
            found = file.read(_LONGEST + 1)
    except OSError as error:
        raise YamlError(f"it cannot be read: {error.strerror}") from error
    try:
        return found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(
            f"byte {error.start} is not UTF-8; save it again with the encoding UTF-8"
        ) from error


def parse_yaml(text: str) -> Any:
    """The value that a text describes: dict, list, str, int, float, bool or None.

    Raises:
        YamlError: If it is not YAML as described above.
    """
    return _loaded(text, "get_single_data")


def compose_yaml(text: str) -> yaml.Node | None:
    """The same as nodes, which keep line numbers, repeated keys and the spelling of values."""
    node: yaml.Node | None = _loaded(text, "get_single_node")
    return node


def dump_yaml(value: Any) -> str:
    """Text that ``parse_yaml`` reads as ``value``, keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text


def _loaded(text: str, what: str) -> Any:
    if len(text) > _LONGEST:
        raise YamlError(f"it is longer than {_LONGEST:,} characters")
    try:
        loader = _Loader(text)
        return getattr(loader, what)()
    except yaml.YAMLError as error:
        raise YamlError(_reason(error)) from error
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        # such as "\UFFFFFFFF", which names no character
        raise YamlError(f"{type(error).__name__}: {error}") from error


def _reason(error: yaml.YAMLError) -> str:
    """``line 3: ...``, in one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    context = getattr(error, "context", None)
    return f"line {mark.line + 1}: " + (f"{context}: {problem}" if context else problem)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
    """Checks while nodes are made, before anything in them can grow."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012
    _depth = _nodes = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _fault(event, f'aliases (*{event.anchor}) are not read; quote a text with "*"')
        if getattr(event, "tag", None) not in (None, "!", _TEXT):
            raise _fault(event, f"tags ({event.tag}) are not read; quote a text with '!'")
        if self._depth == _DEEPEST:
            raise _fault(event, f"lists and tables lie more than {_DEEPEST} deep")
        if self._nodes == _MOST:
            raise _fault(event, f"there are more than {_MOST:,} values")
        self._nodes += 1
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            if node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER:
                raise _fault(node, f"a number has more than {_LONGEST_NUMBER} characters")
            if strange := re.search("[\0\ud800-\udfff]", node.value):
                raise _fault(node, f"U+{ord(strange[0]):04X} cannot be part of a text")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        first: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault(key, "a key is a list or a table")
            line = key.start_mark.line + 1
            if (at := first.setdefault(self.construct_object(key), line)) != line:
                raise _fault(key, f'"{key.value}" is already on line {at}')
        if len(first) < len(node.value):
            raise _fault(node, "a key comes twice")
        return super().construct_mapping(node, deep)

    def construct_number(self, node: Any) -> int | float:
        """A number of YAML 1.2; the library's own would read 010 as 8 and 12:30 as 750."""
        text = node.value.lower().replace("_", "")
        if node.tag.endswith(":int"):
            return int(text, 0 if text.lstrip("+-")[:2] in ("0x", "0o") else 10)
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes what ``_Loader``, or a reader of YAML 1.1, would not take for text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _fault(where: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
        r"|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})\\Z"), _first
        )
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)
