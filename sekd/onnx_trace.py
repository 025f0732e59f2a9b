"""PyTorch code as an ONNX graph, by the exporter that can write an opset that old runtimes load."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

OPSET = 17  # with IR 8 the newest that the oldest supported onnxruntime loads
IR_VERSION = 8
TABLE_BYTES = 4096  # from here on equal constants are told


def traced(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    fold: bool = True,
    domain: str | None = None,
) -> onnx.ModelProto:
    """What ``module`` does with ``examples``. Constants are initializers: the nodes that remain are the ones that run.

    Args:
        fold: whether what depends on weights alone is stored as it comes out; otherwise weights stay as they are.
        domain: of operators of our own among what is traced.
    """
    buffer = io.BytesIO()
    with _without_known_warnings(), torch.no_grad():
        torch.onnx.export(
            module.eval(),  # the exporter leaves all in the mode of what it was given
            examples,
            buffer,  # type: ignore[arg-type]  # a file object is taken too
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=fold,
            autograd_inlining=False,  # a stand-in is one node, whatever is behind it
            custom_opsets={domain: 1} if domain else None,
            input_names=list(inputs),
            output_names=list(outputs),
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.ir_version = IR_VERSION
    _constants_to_weights(model.graph)
    return model


@contextmanager
def _without_known_warnings() -> Iterator[None]:
    """Of the tracing exporter, which is deprecated, but the newer one cannot write opset 17."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # one frame, one signal: branches are constant
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1", UserWarning)
        yield


def _constants_to_weights(graph: onnx.GraphProto) -> None:
    """Tables that the exporter writes out wherever they are read (buffers outside the weights) are stored once."""
    kept: dict[bytes, str] = {}
    names: dict[str, str] = {}
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        weight = node.attribute[0].t
        weight.ClearField("name")
        content = weight.SerializeToString()
        name = kept.setdefault(content, node.output[0]) if len(content) >= TABLE_BYTES else node.output[0]
        if name == node.output[0]:
            weight.name = name
            graph.initializer.append(weight)
        names[node.output[0]] = name
        graph.node.remove(node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
