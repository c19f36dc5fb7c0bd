"""The notebooks of the documentation run from top to bottom, and what they show holds."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import ssrseg

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def run(name: str) -> dict[str, object]:
    """Run all cells; a last expression is shown as a notebook would show it."""
    import matplotlib.pyplot as plt

    names: dict[str, object] = {}
    for number, cell in enumerate(cells(FOLDER / f"{name}.ipynb")):
        if cell["cell_type"] != "code":
            continue
        place = f"{name}, cell {number}"
        body = ast.parse("".join(cell["source"])).body
        shown = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), place, "exec"), names)
        if isinstance(shown, ast.Expr):
            value = eval(compile(ast.Expression(shown.value), place, "eval"), names)
            assert getattr(value, "_repr_html_", value.__repr__)()
    plt.close("all")
    return names


@pytest.fixture(autouse=True)
def no_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_left_to_the_site(path: Path) -> None:
    for cell in cells(path):
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_one_photograph() -> None:
    names = run("one_photograph")
    found, scene = names["found"], names["scene"]
    assert isinstance(found, ssrseg.RectifiedImage)
    assert found.mask.shape == found.cam["bus"].shape == scene.truth.shape == (128, 128)
    assert set(np.unique(found.mask)) <= {0, 255, *names["ids"].values()}
    assert min(names["iou"].values()) > 0.7
    steps = names["by_step"]
    assert steps["CLIP CAM"] < steps["+ attention"] < steps["+ PAR"]
    assert steps["+ PAR"] == pytest.approx(np.mean(list(names["iou"].values())))
    assert list(names["fewer"].areas) == ["bus"]


@pytest.mark.slow
def test_folder_to_model() -> None:
    names = run("folder_to_model")
    work = names["work"]
    assert isinstance(work, Path)
    assert len(list((work / "masks").rglob("*.png"))) == 40
    assert len(list((work / "results").rglob("*.png"))) == 20
    assert names["before"].scores.miou > 0.4
    assert names["after"].scores.miou > 0.25
    assert names["same"]
