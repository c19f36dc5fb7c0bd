"""A trained model as an ONNX file: what onnxruntime makes of it, against torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from make_masks import write_masks
from make_tiny import tiny_voc
from PIL import Image
from tiny_encoders import tiny_clip, tiny_config

import ssrseg
from ssrseg.cli import app
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.errors import CheckpointError, ConfigError, DataError, OutputError, PackageError
from ssrseg.export import onnx_file, onnx_graph
from ssrseg.export.onnx_file import OnnxExport, describe_onnx, export_onnx
from ssrseg.export.trained import export_folder, find_trained
from ssrseg.model import SSR
from ssrseg.training import train


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_voc(tmp_path_factory.mktemp("voc") / "tree", n=3)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, tree: Path, clip_dir: Path, dino_dir: Path
) -> Path:
    """A model trained for a few iterations on true masks, so that it does not say background."""
    settings = ("cam.mode=clip", "optim.iterations=25", "optim.decoder_lr=0.003")
    config = tiny_config(clip_dir, dino_dir, *settings, "test.scales=[1.0, 1.5]")
    out = tmp_path_factory.mktemp("run") / "run"
    return train(open_labelled(tree), out, config, supervision="full").run


@contextmanager
def shapes_unchecked() -> Iterator[None]:
    """Without the test run's type checks: torch exports with symbols in the place of numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def exported(run: Path, tree: Path) -> OnnxExport:
    with shapes_unchecked():
        return export_onnx(run, images=tree / "JPEGImages", int8=True)


@pytest.fixture(scope="module")
def model(run: Path) -> SSR:
    return SSR.from_pretrained(run, segment_only=True)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "sides",
    [
        pytest.param((61, 75), id="no whole patches"),
        pytest.param((64, 64), id="CLIP's own size"),
        pytest.param((203, 64), id="portrait"),
        pytest.param((16, 300), id="one patch high"),
    ],
)
@pytest.mark.parametrize("images", [1, 3])
def test_any_size_and_batch_gives_what_torch_gives(
    exported: OnnxExport, model: SSR, tree: Path, sides: tuple[int, int], images: int
) -> None:
    photos = [
        np.array(Image.open(path).convert("RGB").resize(sides[::-1]))
        for path in sorted((tree / "JPEGImages").iterdir())
    ][:images]
    ids, confidence, probabilities = session(exported.file).run(None, {"image": np.stack(photos)})
    assert ids.shape == confidence.shape == (images, *sides) and ids.dtype == np.uint8
    for index, photo in enumerate(photos):
        expected = model.probabilities(torch.from_numpy(photo)).numpy()
        # Pillow 13 resizes the height first where that is less work, with other levels in between
        most = 1e-5 if sides != (203, 64) else 0.01
        np.testing.assert_allclose(probabilities[index], expected, atol=most, rtol=0)
    assert np.array_equal(ids, probabilities.argmax(1))
    assert np.array_equal(confidence, probabilities.max(1))
    assert np.ptp(probabilities[:, 1:]) > 0.05  # it says something


def test_what_it_was_checked_on_is_said(exported: OnnxExport, model: SSR, tree: Path) -> None:
    assert exported.file.name == "model.onnx" and exported.file.parent.name == "onnx"
    assert 0 < exported.difference < 1e-5 and exported.levels <= 2
    assert (exported.photographs, exported.own_photographs) == (3, True)
    assert exported.as_torch.equal > 0.9999 and exported.as_torch.difference < 1e-5
    lines = "\n".join(describe_onnx(exported))
    assert f"probabilities differ by at most {exported.difference:.1g}, resized" in lines
    assert "On 3 photographs: " in lines and "of the package" not in lines


def test_8_bits_cost_what_is_said(exported: OnnxExport, tree: Path) -> None:
    assert exported.int8 is not None and exported.int8_as_fp32 is not None
    assert exported.int8.stat().st_size < 0.8 * exported.file.stat().st_size
    equal = total = 0
    for path in sorted((tree / "JPEGImages").iterdir()):
        image = {"image": read_image(path).numpy()[None]}
        fp32, small = (session(file).run(["ids"], image)[0] for file in exported_files(exported))
        equal, total = equal + int((fp32 == small).sum()), total + fp32.size
    assert exported.int8_as_fp32.equal == pytest.approx(equal / total, abs=1e-12)
    assert 0.8 < equal / total < 1
    said = f"{100 * equal / total:.2f} % of the ids the same"
    assert said in describe_onnx(exported)[-1]


def exported_files(exported: OnnxExport) -> tuple[Path, Path]:
    assert exported.int8 is not None
    return exported.file, exported.int8


def test_the_file_names_its_classes_and_nothing_of_this_machine(
    exported: OnnxExport, model: SSR
) -> None:
    entries = {each.key: each.value for each in onnx.load(exported.file).metadata_props}
    names = json.loads(entries["names"])
    assert names == {"0": "background", **{str(i + 1): c for i, c in enumerate(model.classes)}}
    assert entries["clip_digest"] == model.clip.digest
    for file in exported_files(exported):
        content = file.read_bytes()
        for folder in (Path(ssrseg.__file__).parent, Path(torch.__file__).parent):
            assert str(folder).encode() not in content


def test_weights_are_in_it_once(exported: OnnxExport, model: SSR) -> None:
    """Two scales run through the same encoder; a copy for each would double the file."""
    assert model.decoder is not None
    parts = (model.clip.model.vision_model, model.decoder)
    weights = sum(value.nbytes for part in parts for value in part.parameters())
    assert exported.file.stat().st_size < weights + 400_000


@pytest.mark.slow
def test_a_clip_on_a_stem(tree: Path, dino_dir: Path, tmp_path: Path) -> None:
    clip = tiny_clip(tmp_path / "clip", stem_blocks=16, depth=2)
    settings = ("cam.mode=clip", "optim.iterations=2", "test.flip=false", "affinity.clip_layers=-1")
    config = tiny_config(clip, dino_dir, *settings)
    run = train(open_labelled(tree), tmp_path / "run", config, supervision="full").run
    with shapes_unchecked():
        found = export_onnx(run, tmp_path / "stem.onnx", images=tree / "JPEGImages")
    assert found.file == tmp_path / "stem.onnx" and found.int8 is None
    assert found.difference < 1e-5 and found.as_torch.equal > 0.99


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def made_before(exported: OnnxExport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of the fixture, instead of half a minute's work for the same."""
    monkeypatch.setattr(onnx_file, "onnx_graph", lambda _: onnx.load(exported.file))


@pytest.mark.usefixtures("made_before")
def test_a_graph_that_computes_something_else_is_not_written(
    run: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SSR.scale_probabilities
    monkeypatch.setattr(SSR, "scale_probabilities", lambda *given: right(*given) + 0.002)
    with pytest.raises(OutputError, match=r"at 400 x 300 pixels probabilities differ by 0\.002"):
        export_onnx(run, tmp_path / "out", images=tree / "JPEGImages")
    assert not list((tmp_path / "out").glob("*.onnx"))


@pytest.mark.usefixtures("made_before")
def test_files_of_others_stay(run: Path, tree: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "seg.onnx"
    theirs.write_bytes(b"theirs")
    with pytest.raises(OutputError, match=r"seg\.onnx is there already"):
        export_onnx(run, theirs, images=tree / "JPEGImages")
    assert theirs.read_bytes() == b"theirs"
    theirs.unlink()
    first = export_onnx(run, theirs, images=tree / "JPEGImages", int8=True)
    assert first.int8 == tmp_path / "seg-int8.onnx" and first.int8.is_file()
    export_onnx(run, theirs, images=tree / "JPEGImages")
    assert theirs.is_file() and not first.int8.exists()  # of the earlier graph


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_is_missing(run: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PackageError, match=r'pip install "ssrseg\[onnx\]"'):
        export_onnx(run)


def test_masks_and_models_are_told_apart(run: Path, tmp_path: Path) -> None:
    write_masks(tmp_path)
    with pytest.raises(CheckpointError, match="holds no trained model but masks"):
        export_onnx(tmp_path / "masks")
    with pytest.raises(DataError, match="holds a model and no masks"):
        ssrseg.export_masks(run, "coco")
    unfinished = tmp_path / "begun"
    unfinished.mkdir()
    (unfinished / "checkpoint.safetensors").touch()
    with pytest.raises(CheckpointError, match="a run that is not finished"):
        export_onnx(unfinished)
    with pytest.raises(DataError, match="holds a model and no masks"):
        ssrseg.export_masks(unfinished, "csv")


def test_a_model_without_decoder(clip_dir: Path, dino_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(clip_dir, dino_dir)
    SSR.from_config(config, ["dog", "cat"]).save_pretrained(tmp_path / "kept")
    with pytest.raises(CheckpointError, match="no trained decoder"):
        export_onnx(tmp_path / "kept")


def test_weights_that_no_file_holds(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "_MOST_BYTES", 1_000_000)
    with pytest.raises(CheckpointError, match=r"take 0\.0 GB, and a file of ONNX holds 2"):
        export_onnx(run, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.onnx"))


def test_a_model_of_the_hub_goes_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = run.parent / "cache" / "model.safetensors"
    monkeypatch.setattr("ssrseg.export.trained.model_file", lambda _: cache)
    assert export_folder("lab/leaves", find_trained("lab/leaves"), "onnx") == Path("export/onnx")
    monkeypatch.undo()
    file = run / "model.safetensors"
    for given in (run, file):
        assert export_folder(given, find_trained(given), "onnx") == run / "export" / "onnx"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "onnx", "--overlays"), "--overlays is an option of the formats of masks, not of"),
        (("--to", "onnx", "--tolerance", "1"), "--tolerance is an option of the formats of masks"),
        (("--to", "coco", "--int8"), "--int8 is an option of onnx, not of coco"),
        (("--sheet", "--int8"), "--int8 is an option of onnx, not of pictures"),
    ],
)
def test_options_of_the_other_kind(run: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        app(["export", str(run), *words], exit_on_error=False, result_action="return_value")


@pytest.mark.usefixtures("made_before")
def test_the_command(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx_file, "_MOST_PHOTOS", 2)
    words = ["export", str(run), "--to", "onnx", "--out", str(tmp_path / "seg.onnx")]
    assert app(words, exit_on_error=False, result_action="return_value") == 0
    said = capsys.readouterr().out
    assert f"Written: {tmp_path / 'seg.onnx'} (" in said
    assert "On 2 photographs of the package (--images takes yours): " in said
