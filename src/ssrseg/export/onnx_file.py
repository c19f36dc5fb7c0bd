"""A trained model as a file for onnxruntime, held against torch before it is written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ssrseg.console import note, track
from ssrseg.data.files import only_writer, user_path
from ssrseg.data.images import check_size, read_image
from ssrseg.data.transforms import limit_side, resize, to_unit
from ssrseg.data.walk import list_images
from ssrseg.errors import OutputError, counted
from ssrseg.export.onnx_graph import (
    INPUT,
    OUTPUTS,
    import_onnx,
    onnx_graph,
    quiet_libraries,
    with_outputs,
)
from ssrseg.export.output import Output
from ssrseg.export.trained import export_folder, find_trained
from ssrseg.method.metrics import confusion_matrix, scores
from ssrseg.model import SSR
from ssrseg.packaged import unpacked

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

TOLERANCE = 1e-3
"""Most that a probability may differ from torch's."""
FILE = "model.onnx"

_KIND = "onnx"

_SAMPLE = "ssrseg:photos/sample/images"
_MOST_PHOTOS = 20

_SIZES = ((300, 400), (331, 233), (384, 384), (67, 101))  # height, width
_LEVELS = 2  # of 255: Pillow 13 resizes the height first where that is less work


@dataclass(frozen=True)
class Agreement:
    """How far the masks of a file are those of another.

    Attributes:
        equal: Share of the pixels with the same class, in [0, 1].
        miou: Mean IoU of its masks against the other's, over the classes that these show.
        difference: Largest difference of a probability; photographs are shrunk first as
            ``predict`` shrinks them.
    """

    equal: float
    miou: float
    difference: float


@dataclass(frozen=True)
class OnnxExport:
    """What was written, and how far it can be trusted.

    Attributes:
        file: The model in fp32.
        int8: The one with 8-bit weights, if it was wanted.
        difference: Largest difference of a probability from torch's, for the same resized pixels,
            over several sizes.
        levels: Largest difference of a resized pixel from Pillow's, of 255.
        sizes: Of the photographs that these were measured on, height and width.
        photographs: How many the agreements are of.
        own_photographs: Whether they are the caller's; else they are the package's sample.
        as_torch: The file against torch, at the photographs' own sizes.
        int8_as_fp32: The 8-bit file against the other.
    """

    file: Path
    int8: Path | None
    difference: float
    levels: int
    sizes: tuple[tuple[int, int], ...]
    photographs: int
    own_photographs: bool
    as_torch: Agreement
    int8_as_fp32: Agreement | None


def export_onnx(
    model: str | Path,
    out: str | Path | None = None,
    *,
    images: str | Path | None = None,
    int8: bool = False,
) -> OnnxExport:
    """Write a trained model as one ONNX graph, from photographs to class ids.

    The graph computes what ``SSR.probabilities`` does, with the scales and the mirror image of the
    run's settings, at any size and for any number of photographs of one size; a DenseCRF is not in
    it. Before it is written, onnxruntime's probabilities are held against torch's.

    Args:
        model: Run folder, model.safetensors, or hub id.
        out: A file ``*.onnx``, or a folder for model.onnx; by default export/onnx in the run
            folder (of a hub's model, here). The 8-bit model goes beside it, as model-int8.onnx.
        images: Photographs, up to 20 of which are segmented by torch and by each file; by default
            the package's sample.
        int8: Also write a model whose matrices are of 8 bits.

    Raises:
        CheckpointError: If there is no trained model, but masks, for example.
        DataError: If the photographs cannot be read.
        OutputError: If onnxruntime computes something else, or somebody's file is in the way.
        PackageError: If onnx, onnxscript or onnxruntime is not installed.
    """
    import_onnx()
    source = find_trained(model)
    folder, name = (export_folder(model, source, _KIND), FILE) if out is None else _target(out)
    paths = list_images(unpacked(_SAMPLE) if images is None else images).images
    chosen = paths[:: -(-len(paths) // _MOST_PHOTOS)]  # all through the list
    ssr = SSR.from_pretrained(source, segment_only=True, device="cpu")
    ssr.clip.float()  # a graph has one precision
    ssr.clip.precision = "fp32"
    photos = [_photo(ssr, path) for path in chosen]
    if ssr.config.test.crf:
        note("the run's settings refine masks by a DenseCRF (test.crf), which is in no ONNX graph.")
    if ssr.config.data.range is not None or ssr.config.data.bands is not None:
        note(
            "data.range and data.bands are not in the graph: give it red, green and blue, brought"
            " to uint8 as these settings say."
        )
    small_name = f"{Path(name).stem}-int8.onnx"
    with only_writer(folder):
        output = Output(folder, _KIND)
        with (
            output.file(name) as path,  # first, as somebody's file may be in the way
            output.file(small_name) if int8 else nullcontext() as small_path,
        ):
            note("making the graph takes one to two minutes.")
            graph = onnx_graph(ssr)
            content = graph.SerializeToString()
            difference, levels = _check(graph, ssr, photos)
            fp32 = _runner(_session(content))
            as_torch = _agreement(fp32, ssr.probabilities, photos, "onnxruntime against torch")
            path.write_bytes(content)
            int8_as_fp32 = None
            if small_path is not None:
                small = _quantised(graph)
                eight = _runner(_session(small))
                int8_as_fp32 = _agreement(eight, fp32, photos, "8 bits against fp32")
                small_path.write_bytes(small)
        output.finish()
    return OnnxExport(
        folder / name,
        folder / small_name if int8 else None,
        difference,
        levels,
        _SIZES,
        len(photos),
        images is not None,
        as_torch,
        int8_as_fp32,
    )


def describe_onnx(result: OnnxExport) -> list[str]:
    """What was written and how far it can be trusted, in lines."""
    sizes = ", ".join(f"{width} x {height}" for height, width in result.sizes)
    photos = counted(result.photographs, "photograph", "photographs")
    whose = photos + ("" if result.own_photographs else " of the package (--images takes yours)")
    lines = [
        f"Written: {result.file} ({_megabytes(result.file)}). uint8 RGB, batch x height x width x 3"
        " in; ids, confidence and probabilities out.",
        f"Checked against torch: probabilities differ by at most {result.difference:.1g}, resized"
        f" photographs from Pillow's by {result.levels} of 255 ({sizes} pixels, two at a time).",
        f"On {whose}: {_said(result.as_torch)} as torch's.",
    ]
    if result.int8 is not None and result.int8_as_fp32 is not None:
        lines += [
            f"Written: {result.int8} ({_megabytes(result.int8)}), with matrices of 8 bits.",
            f"On {whose}: {_said(result.int8_as_fp32)} as those of {result.file.name}.",
        ]
    return lines


def _said(found: Agreement) -> str:
    return (
        f"probabilities within {found.difference:.1g}, {100 * found.equal:.2f} % of the ids the"
        f" same (mean IoU {found.miou:.3f})"
    )


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _target(out: str | Path) -> tuple[Path, str]:
    """Folder and name of the file."""
    path = user_path(out, "the ONNX file", OutputError)
    return (path.parent, path.name) if path.suffix.lower() == ".onnx" else (path, FILE)


def _photo(model: SSR, path: Path) -> UInt8[Tensor, "height width 3"]:
    """A photograph at the size at which ``predict`` sees a whole one."""
    settings = model.config.data
    photo = read_image(path, settings.range, settings.bands)
    check_size(photo, path, model.patch_size)
    return limit_side(photo, model.test_side)


def _session(content: bytes) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _check(
    graph: ModelProto, model: SSR, photos: Sequence[UInt8[Tensor, "_ _ 3"]]
) -> tuple[float, int]:
    """Largest differences: of a probability for the same resized pixels, of a pixel from Pillow's.

    Raises:
        OutputError: If one is too large.
    """
    scales = range(len(model.config.test.scales))
    session = _session(with_outputs(graph, [f"small_{each}" for each in scales]))
    difference, levels = 0.0, 0
    for index, size in enumerate(_SIZES):
        photo = resize(photos[index % len(photos)], size)
        batch = torch.stack([photo, photo.flip(0)])
        _, _, found, *small = session.run(None, {INPUT: batch.numpy()})
        images = [torch.from_numpy(each) for each in small]
        expected = model.scale_probabilities(images, size).numpy()
        difference = float(np.maximum(difference, np.abs(found - expected).max()))  # nan stays
        for image in images:
            sides = (image.shape[2], image.shape[3])
            by_pillow = [to_unit(resize(each, sides, bicubic=False)) for each in batch]
            apart = 255 * (image - torch.stack(by_pillow)).abs().max()
            levels = max(levels, round(float(apart)))
        if not difference <= TOLERANCE or levels > _LEVELS:
            import onnxruntime

            raise OutputError(
                f"onnxruntime {onnxruntime.__version__} computes something else than torch"
                f" {torch.__version__} from this model: at {size[1]} x {size[0]} pixels"
                f" probabilities differ by {difference:.2g}, and resized pixels by {levels} of 255."
                " Nothing was written. Try another version of onnxruntime, and tell us."
            )
    return difference, levels


_Segmenter = Callable[[UInt8[Tensor, "height width 3"]], Float[Tensor, "channels height width"]]


def _runner(session: InferenceSession) -> _Segmenter:
    """Probabilities of a photograph by onnxruntime."""

    def probabilities(photo: UInt8[Tensor, "_ _ 3"]) -> Float[Tensor, "_ _ _"]:
        (found,) = session.run([OUTPUTS[2]], {INPUT: photo.numpy()[None]})
        return torch.from_numpy(found[0])

    return probabilities


def _agreement(
    one: _Segmenter, other: _Segmenter, photos: Sequence[UInt8[Tensor, "_ _ 3"]], title: str
) -> Agreement:
    matrix, difference = torch.zeros((), dtype=torch.long), 0.0
    for photo in track(photos, title, len(photos)):
        found, expected = one(photo), other(photo)
        apart = float((found - expected).abs().max())
        difference = float(np.maximum(difference, apart))  # nan stays
        matrix = matrix + confusion_matrix(found.argmax(0), expected.argmax(0), len(expected))
    if not difference <= 1:  # nan
        raise OutputError(
            f"onnxruntime gives numbers that are not finite ({title}). Nothing was written. Try"
            " another version of onnxruntime, or without --int8."
        )
    equal = int(matrix.trace()) / int(matrix.sum())
    return Agreement(equal, scores(matrix).miou, difference)


def _quantised(graph: ModelProto) -> bytes:
    """The same graph with matrices of 8 bits and a scale a column.

    What they are multiplied with is brought to 8 bits as it comes; convolutions stay in fp32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet_libraries(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return path.read_bytes()
