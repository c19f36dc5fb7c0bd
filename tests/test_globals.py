"""The linter cannot tell jaxtyping's shapes from names that are not there; this can."""

from __future__ import annotations

import builtins
import dis
import importlib
import pkgutil
from collections.abc import Iterator
from types import CodeType

import ssrseg


def codes(code: CodeType) -> Iterator[CodeType]:
    """A piece of code and all that is defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def test_every_global_name_is_there() -> None:
    missing = []
    modules = [each.name for each in pkgutil.walk_packages(ssrseg.__path__, "ssrseg.")]
    for name in modules:
        if name == "ssrseg.__main__":
            continue
        module = importlib.import_module(name)
        known = vars(module).keys() | vars(builtins).keys()
        with open(module.__file__, encoding="utf-8") as file:
            whole = compile(file.read(), module.__file__, "exec", dont_inherit=True)
        for code in codes(whole):
            loaded = {
                each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"
            }
            missing += [f"{name}:{code.co_firstlineno} {each}" for each in loaded - known]
    assert len(modules) > 100
    assert missing == []
