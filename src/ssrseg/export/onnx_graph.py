"""A trained model as one ONNX graph: photographs of any size in, class ids of that size out.

The middle, CLIP and the decoder, is exported by torch. What stands before and behind it is written
here in ONNX's own text: torch resizes photographs by Pillow, outside of any graph, and its exporter
knows no size that is computed from another.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssrseg.data.ignored_warnings import IgnoredWarnings
from ssrseg.errors import CheckpointError, PackageError
from ssrseg.export.onnx_resize import DOUBLE, FLOAT, INT64, OPSET, RESIZE, UINT8
from ssrseg.model import SSR

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT, OUTPUTS = "image", ("ids", "confidence", "probabilities")

_MOST_BYTES = 2_000_000_000  # a file of ONNX is a message of protobuf, of less than 2 GiB


class _Middle(nn.Module):
    """Photographs at each test scale, cut into patches -> logits on their grids.

    Patches with axes of their own tell the exporter that sides are whole numbers of them. Else it
    spends minutes on what becomes of odd sides.
    """

    def __init__(self, model: SSR) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tiled: Tensor) -> tuple[Tensor, ...]:
        # (batch, 3, rows, patch, columns, patch)
        return tuple(self.model.grid_logits(each.flatten(4).flatten(2, 3)) for each in tiled)


def onnx_graph(model: SSR) -> ModelProto:
    """What ``SSR.probabilities`` computes, for batches of photographs of one size.

    Input ``image`` is uint8 RGB, (batch, height, width, 3), of any size. Outputs are ``ids``
    (uint8, 0 = background), ``confidence`` (the probability of that class) and ``probabilities``
    (batch, 1 + classes, height, width), at the size of the photographs. The metadata entry
    ``names`` gives the name of each id as JSON.

    Raises:
        CheckpointError: If there is no decoder, or one file of ONNX cannot hold the weights.
        PackageError: If onnx or onnxscript is not installed.
    """
    onnx = import_onnx()
    if model.decoder is None:
        raise CheckpointError(
            "This model has no trained decoder, so it cannot segment without labels, and there is"
            " nothing to export. Train one (ssrseg train)."
        )
    parts: tuple[nn.Module, ...] = (model.clip.model.vision_model, model.decoder)
    weights = sum(each.nbytes for part in parts for each in part.parameters())
    if weights > _MOST_BYTES:
        raise CheckpointError(
            f"The weights of {model.config.backbones.clip} and the decoder take"
            f" {weights / 1e9:.1f} GB, and a file of ONNX holds 2. Train with a smaller CLIP, such"
            " as a ViT-L/14."
        )
    graph = _middle(model)
    before, behind = (onnx.parser.parse_graph(text) for text in (_before(model), _behind(model)))
    nodes = [*before.node, *graph.graph.node, *behind.node]
    merged = onnx.helper.make_graph(
        nodes, "ssrseg", before.input, behind.output, initializer=graph.graph.initializer
    )
    resize = [onnx.parser.parse_function(text) for text in RESIZE]
    made = onnx.helper.make_model(
        merged,
        functions=[*graph.functions, *resize],
        opset_imports=[*graph.opset_import, onnx.helper.make_opsetid("ssrseg", 1)],
        ir_version=graph.ir_version,
        producer_name="ssrseg",
        producer_version=version("ssrseg"),
    )
    made = onnx.inliner.inline_local_functions(made)
    onnx.helper.set_model_props(made, _metadata(model))
    _strip(made)
    onnx.checker.check_model(made, full_check=True)
    return made


def with_outputs(graph: ModelProto, names: Sequence[str]) -> bytes:
    """The graph as a file that hands out more, such as ``small_0``, the resized photographs."""
    from onnx import TensorProto, helper

    more = type(graph)()
    more.CopyFrom(graph)
    more.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    return more.SerializeToString()


def import_onnx() -> Any:
    """The package, with what torch's exporter and the check need beside it.

    Raises:
        PackageError: If one of them is not installed.
    """
    try:
        import onnx
        import onnx.inliner
        import onnx.parser
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise PackageError(
            f"ONNX files are written with onnx, onnxscript and onnxruntime ({error}):"
            ' pip install "ssrseg[onnx]".'
        ) from error
    return onnx


def _middle(model: SSR) -> ModelProto:
    """CLIP and the decoder: ``tiled_i`` in [0, 1] to ``logits_i``, every size free."""
    patch, scales = model.patch_size, range(len(model.config.test.scales))
    free = torch.export.Dim.DYNAMIC
    # no two sizes alike, and none that of CLIP's own grid: the exporter would take them for one
    own = model.clip.model.config.vision_config.image_size // patch
    examples = tuple(
        torch.rand(2, 3, own + 2 + 2 * each, patch, own + 3 + 2 * each, patch) for each in scales
    )
    with quiet_libraries():
        program = torch.onnx.export(
            _Middle(model).eval(),
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=[f"tiled_{each}" for each in scales],
            output_names=[f"logits_{each}" for each in scales],
            dynamic_shapes=(tuple({0: free, 2: free, 4: free} for _ in scales),),
            verbose=False,
        )
    assert program is not None
    made = program.model_proto
    _turn_weights(made)
    return made


def _turn_weights(made: ModelProto) -> None:
    """Store matrices as they are multiplied, where the exporter turns them in every run.

    A quantiser looks for weights there.
    """
    from onnx import numpy_helper

    graph = made.graph
    weights = {each.name: each for each in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    for node in list(graph.node):
        weight = weights.get(node.input[0]) if node.op_type == "Transpose" else None
        if weight is not None and len(weight.dims) == 2 and uses[weight.name] == 1:
            turned = numpy_helper.to_array(weight).T.copy()
            weight.CopyFrom(numpy_helper.from_array(turned, node.output[0]))
            graph.node.remove(node)


_WITHOUT_WARNINGS = IgnoredWarnings((FutureWarning, ""), (DeprecationWarning, ""))


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Nothing of the exporter's own affairs, such as that there is no torchvision."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with _WITHOUT_WARNINGS:
            yield
    finally:
        logging.disable(before)


def _before(model: SSR) -> str:
    """Resized as by Pillow, to whole patches, in [0, 1]; sizes in fp64, as Python has them."""
    test, patch = model.config.test, model.patch_size
    lines = [
        "upright = Transpose<perm = [0, 3, 2, 1]>(image)",  # columns before rows
        "batch_and_channels = Shape<start = 0, end = 2>(upright)",
        "size = Shape<start = 1, end = 3>(image)",
        f"sides = Cast<to = {DOUBLE}>(size)",
        "height, width = Split<num_outputs = 2>(sides)",
        "longer = ReduceMax(sides)",
        f"patch = Constant<value = double {{{float(patch)!r}}}>()",
        "one = Constant<value = double {1.0}>()",
        f"whole_patch = Constant<value = int64[1] {{{patch}}}>()",
        "white = Constant<value = float {255.0}>()",
    ]
    for i, scale in enumerate(test.scales):
        lines += [
            f"long_{i} = Constant<value = double {{{float(test.long_side * scale)!r}}}>()",
            f"factor_{i} = Div(long_{i}, longer)",
            f"scaled_{i} = Mul(sides, factor_{i})",
            f"patches_{i} = Div(scaled_{i}, patch)",
            f"rounded_{i} = Round(patches_{i})",
            f"grid_{i} = Max(rounded_{i}, one)",
            f"small_sides_{i} = Mul(grid_{i}, patch)",
            f"small_height_{i}, small_width_{i} = Split<num_outputs = 2>(small_sides_{i})",
            # width first, rounded to whole levels in between
            f"columns_of_{i}, column_weights_{i} = ssrseg.taps(width, small_width_{i})",
            f"narrow_{i} = ssrseg.resample(upright, columns_of_{i}, column_weights_{i})",
            f"lines_{i} = Transpose<perm = [0, 1, 3, 2]>(narrow_{i})",
            f"rows_of_{i}, row_weights_{i} = ssrseg.taps(height, small_height_{i})",
            f"levels_{i} = ssrseg.resample(lines_{i}, rows_of_{i}, row_weights_{i})",
            f"numbers_{i} = Cast<to = {FLOAT}>(levels_{i})",
            f"small_{i} = Div(numbers_{i}, white)",
            f"whole_grid_{i} = Cast<to = {INT64}>(grid_{i})",
            f"rows_{i}, columns_{i} = Split<num_outputs = 2>(whole_grid_{i})",
            f"tiled_shape_{i} = Concat<axis = 0>"
            f"(batch_and_channels, rows_{i}, whole_patch, columns_{i}, whole_patch)",
            f"tiled_{i} = Reshape(small_{i}, tiled_shape_{i})",
        ]
    outputs = ", ".join(f"float[b, 3, r, {patch}, c, {patch}] tiled_{i}" for i in _each(model))
    head = f"before (uint8[batch, height, width, 3] image) => ({outputs})"
    return f"{head} {{\n" + "\n".join(lines) + "\n}"


def _behind(model: SSR) -> str:
    """The mean of the logits at the photograph's size, and what it says."""
    channels = model.n_classes + 1
    lines = [
        "images = Shape<start = 0, end = 1>(image)",
        f"channels = Constant<value = int64[1] {{{channels}}}>()",
        "shape = Concat<axis = 0>(images, channels, size)",
        *(f'large_{i} = Resize<mode = "linear">(logits_{i}, , , shape)' for i in _each(model)),
        f"total = Sum({', '.join(f'large_{i}' for i in _each(model))})",
        f"scales = Constant<value = float {{{float(len(_each(model)))!r}}}>()",
        "logits = Div(total, scales)",
        "probabilities = Softmax<axis = 1>(logits)",
        "axis = Constant<value = int64[1] {1}>()",
        "confidence = ReduceMax<keepdims = 0>(probabilities, axis)",
        "best = ArgMax<axis = 1, keepdims = 0>(probabilities)",
        f"ids = Cast<to = {UINT8}>(best)",
    ]
    outputs = (
        "uint8[batch, height, width] ids, float[batch, height, width] confidence,"
        f" float[batch, {channels}, height, width] probabilities"
    )
    return f"behind () => ({outputs}) {{\n" + "\n".join(lines) + "\n}"


def _each(model: SSR) -> range:
    return range(len(model.config.test.scales))


def _metadata(model: SSR) -> dict[str, str]:
    """What a program that opens the file has to know."""
    names = dict(enumerate(("background", *model.classes)))
    return {
        "names": json.dumps(names, ensure_ascii=False),
        "input": "image: uint8 RGB, batch x height x width x 3, any size",
        "outputs": "ids: class of each pixel; confidence: its probability; probabilities: of all",
        "clip": model.config.backbones.clip,
        "clip_digest": model.clip.digest,
    }


def _strip(made: ModelProto) -> None:
    """Remove what the exporter notes of this machine: lines and folders of the source code."""
    graphs = [made.graph, *made.functions]
    for each in graphs:
        for part in (*each.node, *each.value_info):
            del part.metadata_props[:]
            part.doc_string = ""
