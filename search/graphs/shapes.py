"""Types of all tensors of an ONNX model, those behind onnxruntime's quantised operators included."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from search.graphs.rules import attribute, name_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto


class TensorType(NamedTuple):
    """Element type, as ONNX numbers them, and a shape without unknowns."""

    dtype: int
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        from onnx import TensorProto, helper

        if self.dtype in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
            return -(-self.elements // 2)
        if self.dtype == TensorProto.STRING:
            return 0
        return self.elements * int(helper.tensor_dtype_to_np_dtype(self.dtype).itemsize)


def type_of(info: ValueInfoProto) -> TensorType | None:
    """None for what is no tensor, or has no static shape."""
    tensor = info.type.tensor_type
    sizes = tensor.shape.dim
    if not tensor.HasField("shape") or not all(size.HasField("dim_value") for size in sizes):
        return None
    return TensorType(tensor.elem_type, tuple(size.dim_value for size in sizes))


def types_of(graph: GraphProto) -> dict[str, TensorType]:
    """Of every tensor of ``graph`` itself (its branches have their own) whose static shape is known."""
    found = [(info.name, type_of(info)) for info in [*graph.input, *graph.value_info, *graph.output]]
    known = {name: kind for name, kind in found if kind is not None}  # an output may be noted twice
    return known | {weight.name: TensorType(weight.data_type, tuple(weight.dims)) for weight in graph.initializer}


def with_shapes(model: ModelProto) -> ModelProto:
    """``model`` with the type of every tensor that follows from its inputs; local functions are written out."""
    from onnx import inliner, shape_inference

    if model.functions:
        model = inliner.inline_local_functions(model)
    model = shape_inference.infer_shapes(model, data_prop=True)
    # ONNX stops at an operator that it does not know; each round gets past at least one of them.
    for _ in model.graph.node:
        if not any([_add_foreign(graph) for graph in _graphs(model.graph)]):
            break
        model = shape_inference.infer_shapes(model, data_prop=True)
    return model


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for found in node.attribute:
            if found.HasField("g"):
                yield from _graphs(found.g)


def _add_foreign(graph: GraphProto) -> bool:
    """Notes the outputs of operators of onnxruntime's own whose inputs are known; whether there were any."""
    from onnx import helper

    known, added = types_of(graph), False
    for node in graph.node:
        rule = _FOREIGN.get(name_of(node))
        if rule is None or all(name in known for name in node.output if name):
            continue
        inputs = [known.get(name) for name in node.input]
        try:
            outputs = rule(node, inputs)
        except (AttributeError, IndexError, ValueError):  # an input is not known yet, or never will be
            continue
        for name, kind in zip(node.output, outputs, strict=False):
            if name and name not in known:
                graph.value_info.append(helper.make_tensor_value_info(name, kind.dtype, kind.shape))
                known[name], added = kind, True
    return added


Inputs = Sequence[TensorType | None]
ShapeRule = Callable[["NodeProto", Inputs], list[TensorType]]
FLOAT = 1


def _same(node: NodeProto, inputs: Inputs) -> list[TensorType]:
    return [TensorType(inputs[0].dtype, inputs[0].shape)]  # type: ignore[union-attr]


def _dequantised(node: NodeProto, inputs: Inputs) -> list[TensorType]:
    return [TensorType(FLOAT, inputs[0].shape)]  # type: ignore[union-attr]


def _broadcast(node: NodeProto, inputs: Inputs) -> list[TensorType]:
    left, right = inputs[0], inputs[3]
    return [TensorType(left.dtype, np.broadcast_shapes(left.shape, right.shape))]  # type: ignore[union-attr]


def _concatenated(node: NodeProto, inputs: Inputs) -> list[TensorType]:
    parts = [part.shape for part in inputs[2::3]]  # type: ignore[union-attr]
    axis = attribute(node, "axis", 0) % len(parts[0])
    total = sum(part[axis] for part in parts)
    return [TensorType(inputs[2].dtype, (*parts[0][:axis], total, *parts[0][axis + 1 :]))]  # type: ignore[union-attr]


def _product(node: NodeProto, inputs: Inputs) -> list[TensorType]:
    left, right = inputs[0].shape, inputs[1].shape  # type: ignore[union-attr]
    return [TensorType(FLOAT, (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1]))]


def _gemm(node: NodeProto, inputs: Inputs) -> list[TensorType]:
    left, right = inputs[0], inputs[3]
    rows = left.shape[1 if attribute(node, "transA", 0) else 0]  # type: ignore[union-attr]
    columns = right.shape[0 if attribute(node, "transB", 0) else 1]  # type: ignore[union-attr]
    quantised = len(node.input) > 8 and bool(node.input[8])
    return [TensorType(left.dtype if quantised else FLOAT, (rows, columns))]  # type: ignore[union-attr]


def _packed_product(node: NodeProto, inputs: Inputs) -> list[TensorType]:
    return [TensorType(inputs[0].dtype, (*inputs[0].shape[:-1], attribute(node, "N", 0)))]  # type: ignore[union-attr]


def _lstm(node: NodeProto, inputs: Inputs) -> list[TensorType]:
    steps, batch, _ = inputs[0].shape  # type: ignore[union-attr]
    directions, hidden = inputs[1].shape[0], attribute(node, "hidden_size", 0)  # type: ignore[union-attr]
    last = TensorType(FLOAT, (directions, batch, hidden))
    return [TensorType(FLOAT, (steps, directions, batch, hidden)), last, last]


_FOREIGN: dict[str, ShapeRule] = {
    f"com.microsoft.{name}": rule
    for name, rule in {
        **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"), _same),
        **dict.fromkeys(("QLinearAdd", "QLinearMul"), _broadcast),
        "DequantizeLinear": _dequantised,
        "QLinearConcat": _concatenated,
        "MatMulIntegerToFloat": _product,
        "DynamicQuantizeMatMul": _product,
        "QGemm": _gemm,
        "MatMulNBits": _packed_product,
        "DynamicQuantizeLSTM": _lstm,
    }.items()
}
