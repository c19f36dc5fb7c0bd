"""Figures of docs/architecture.md, for any checkout: sizes, shares, and the walk of an image.

    python benchmarks/measure_code.py [CHECKOUT ...]

The walk is counted, not read: `ssrseg masks` runs over one photograph and over two of different
sizes, and the files, functions and dataclasses that were used more often the second time are those
that an image passes. A file that is asked once per run, such as the settings, is not among them.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def lines_of(node: ast.AST) -> int:
    """Lines that a node takes."""
    return node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]


def texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """Docstrings, those behind attributes included."""
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value


def parameters(function: Function) -> int:
    """Parameters of a function, without self and cls."""
    given = function.args
    named = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def public_functions(tree: ast.Module) -> Iterator[Function]:
    """Functions and methods of a module whose names, and whose class's, have no underscore."""
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    for body in (tree.body, *(each.body for each in classes)):
        for node in body:
            if isinstance(node, Function) and not node.name.startswith("_"):
                yield node


def sizes(checkout: Path) -> dict[str, str]:
    """What can be counted without running anything."""
    root = checkout / "src" / "ssrseg"
    lengths: dict[str, int] = {}
    imports = docs = comments = 0
    functions: list[Function] = []
    public: list[Function] = []
    for file in sorted(root.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        lengths[str(file.relative_to(root))] = len(file.read_text(encoding="utf-8").splitlines())
        nodes = list(ast.walk(tree))
        imports += sum(lines_of(n) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom))
        docs += sum(map(lines_of, texts(tree)))
        with file.open("rb") as stream:
            tokens = list(tokenize.tokenize(stream.readline))
        marks = [each for each in tokens if each.type == tokenize.COMMENT]
        comments += sum(not each.line[: each.start[1]].strip() for each in marks)
        functions += [node for node in nodes if isinstance(node, Function)]
        public += public_functions(tree)
    total = sum(lengths.values())
    beside = sum(
        len(file.read_text(encoding="utf-8").splitlines())
        for file in checkout.glob("encoders/**/*.py")
    )
    longest = max(lengths, key=lambda name: lengths[name])
    long = statistics.quantiles(map(lines_of, functions), n=10, method="inclusive")
    most = max(functions, key=parameters)
    documented = sum(ast.get_docstring(each) is not None for each in public)
    return {
        "files": str(len(lengths)),
        "lines": f"{total:,}",
        "lines of `encoders/`, outside the package": f"{beside:,}",
        "median / largest file": (
            f"{statistics.median(lengths.values()):.0f} / {lengths[longest]} (`{longest}`)"
        ),
        "median / 90 % function": f"{long[4]:.0f} / {long[8]:.0f}",
        "lines of imports": f"{imports:,} ({imports / total:.1%})",
        "lines of docstrings": f"{docs:,} ({docs / total:.1%})",
        "lines of comments": f"{comments:,} ({comments / total:.1%})",
        "functions with more than six parameters": (
            f"{sum(parameters(each) > 6 for each in functions)}"
            f" (most: `{most.name}`, {parameters(most)})"
        ),
        "public functions with a docstring": f"{documented / len(public):.0%} of {len(public)}",
    }


def public_names(checkout: Path) -> str:
    """How many names `import ssrseg` offers."""
    return run(checkout, "-c", "import ssrseg; print(len(ssrseg.__all__))").strip()


def run(checkout: Path, *arguments: str) -> str:
    """Python with the package of a checkout; what it printed."""
    environment = {**os.environ, "PYTHONPATH": str((checkout / "src").resolve())}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, check=True, text=True, stdout=subprocess.PIPE
    )
    return done.stdout


def watch(out: Path, arguments: list[str]) -> None:
    """Run the command line and write how often each file, function and dataclass was used."""
    import ssrseg
    from ssrseg.cli import main

    root = str(Path(ssrseg.__file__).parent) + os.sep
    used = {"files": Counter[str](), "functions": Counter[str](), "objects": Counter[str]()}

    def seen(frame, event, _):
        if event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(root) and code.co_name != "<module>":
            file = code.co_filename.removeprefix(root)
            used["files"][file] += 1
            used["functions"][f"{file}:{code.co_qualname}"] += 1
        elif code.co_name == "__init__" and code.co_filename == "<string>":
            kind = type(frame.f_locals.get("self"))
            if is_dataclass(kind) and kind.__module__.startswith("ssrseg"):
                used["objects"][kind.__qualname__] += 1

    sys.argv[1:] = arguments
    threading.setprofile(seen)
    sys.setprofile(seen)
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.setprofile(None)
    out.write_text(json.dumps(used), encoding="utf-8")


def walk(checkout: Path) -> dict[str, list[str]]:
    """Files, functions and dataclasses that an image passes on its way to a training-free mask."""
    import numpy as np
    from PIL import Image

    counts = []
    with tempfile.TemporaryDirectory() as folder:
        for n in (1, 2):
            data = Path(folder) / f"data-{n}"
            data.mkdir()
            lines = ["image,labels"]
            for index in range(n):
                noise = np.random.default_rng(index).integers(0, 256, (96, 96 + 32 * index, 3))
                Image.fromarray(noise.astype(np.uint8)).save(data / f"{index}.png")
                lines.append(f"{index}.png,dog;car")
            (data / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            out = Path(folder) / f"used-{n}.json"
            masks = ["masks", "--preset", "demo", "--data", str(data), "--device", "cpu"]
            run(checkout, __file__, "--watch", str(out), *masks, "--out", f"{folder}/masks-{n}")
            counts.append(json.loads(out.read_text(encoding="utf-8")))
    once, twice = counts
    passed = {
        what: sorted(each for each in twice[what] if twice[what][each] > once[what].get(each, 0))
        for what in twice
    }
    return passed | {"run": sorted(twice["files"])}


def main(checkouts: list[Path]) -> None:
    """Print one column per checkout, then what an image passes in each."""
    columns, walks = [], []
    for checkout in checkouts:
        passed = walk(checkout)
        walks.append(passed)
        columns.append(
            {
                **sizes(checkout),
                "names in `ssrseg.__all__`": public_names(checkout),
                "files that an image passes to a training-free mask": str(len(passed["files"])),
                "files that run at all for it, set-up included": str(len(passed["run"])),
                "functions it passes": str(len(passed["functions"])),
                "dataclasses made on the way": str(len(passed["objects"])),
            }
        )
    print("|  | " + " | ".join(map(str, checkouts)) + " |")
    print("|---" * (len(checkouts) + 1) + "|")
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")
    for checkout, passed in zip(checkouts, walks, strict=True):
        print(f"\n{checkout}: {', '.join(passed['files'])}\n{', '.join(passed['objects'])}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--watch"]:
        watch(Path(sys.argv[2]), sys.argv[3:])
    else:
        main([Path(each) for each in sys.argv[1:]] or [Path(__file__).resolve().parents[1]])
