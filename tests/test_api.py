from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from make_tiny import tiny_voc
from tiny_encoders import tiny_config

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


def test_every_verb_takes_text_for_a_path(
    tmp_path: Path, clip_dir: Path, dino_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_voc(Path("voc"), n=3)
    data, images = ssrseg.open_labelled("voc"), ssrseg.open_images("voc", split="val")
    config = tiny_config(clip_dir, dino_dir, "optim.cmpa_iterations=2", "optim.iterations=2")
    run = ssrseg.train(data, "run", config, cache="cells").run
    assert run == Path("run")
    assert ssrseg.make_masks(data, "masks", config, model="run", cache="cells").written == 3
    assert ssrseg.predict(images, "val", "run").written == 1
    assert ssrseg.predict("voc/JPEGImages", "all", "run").written == 3
    assert ssrseg.evaluate("masks", data).matrix.sum() > 0
    # data may be their folder
    assert ssrseg.evaluate("masks", "voc").matrix.sum() > 0
    again = ssrseg.make_masks("voc", "masks", config, model="run", cache="cells")
    assert (again.written, again.skipped) == (0, 3)
    assert ssrseg.train("voc", "run", config, cache="cells").finished
    with pytest.raises(ssrseg.SSRError, match="masks holds masks, whose settings"):
        ssrseg.train("voc", "masks", config)
    with pytest.raises(ssrseg.SSRError, match=r"run holds a training run\. Choose another"):
        ssrseg.make_masks("voc", "run", config)
    with pytest.raises(ssrseg.SSRError, match='Did you mean "ssr"'):
        ssrseg.make_masks("voc", "other", "srs")
    assert ssrseg.SSR.from_pretrained("run").segment(
        "voc/JPEGImages/2007_000000.jpg"
    ).mask.shape == (61, 75)
    with pytest.raises(ssrseg.SSRError, match="names 1 images, but the server scores"):
        lists = Path("voc/ImageSets/Segmentation")
        (lists / "test.txt").write_text((lists / "val.txt").read_text())
        ssrseg.voc_archive("val", "voc", "results.tgz")
    with pytest.raises(ssrseg.SSRError, match=r'"quantum" \(--device\) cannot be used here'):
        ssrseg.train(data, "other", config, device="quantum")


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
