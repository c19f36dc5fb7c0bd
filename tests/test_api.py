from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ssrseg


def test_every_public_name_is_there() -> None:
    for name in ssrseg.__all__:
        assert getattr(ssrseg, name) is not None, name
    for name, home in ssrseg._HOMES.items():
        assert getattr(ssrseg, name) is getattr(import_module(home), name)


def test_dir_lists_the_public_names() -> None:
    assert dir(ssrseg) == sorted(ssrseg.__all__)
    assert len(set(ssrseg.__all__)) == len(ssrseg.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = ssrseg.segment
    with pytest.raises(ImportError):
        exec("from ssrseg import segment")


def test_type_checkers_see_the_names_that_are_there() -> None:
    tree = ast.parse(Path(ssrseg.__file__).read_text(encoding="utf-8"))
    block = next(
        node.body
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    declared = {}
    for node in block:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name  # "x as x" is what re-exports
            declared[alias.name] = node.module
    assert declared == ssrseg._HOMES
    assert set(ssrseg.__all__) == {"__version__", *declared}


def test_import_is_light() -> None:
    code = (
        "import sys, ssrseg; assert ssrseg.__version__;"
        "print([name for name in ('torch', 'transformers', 'numpy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_function_brings_its_module() -> None:
    code = (
        "import sys, ssrseg; ssrseg.load_config; assert 'torch' not in sys.modules;"
        "print(ssrseg.SSRError.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ssrseg.errors"
