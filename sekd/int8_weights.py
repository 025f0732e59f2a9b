"""Weights stored as int8 with one scale per channel, made float again when a runtime loads the file."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

Axes = tuple[int, ...]


def _gemm_output(node: NodeProto) -> Axes:
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return (0,) if transposed else (1,)


# Which inputs of an operator are weights, and the axes along which they have a scale each: those of its outputs.
WEIGHTS: dict[str, tuple[tuple[int, ...], Callable[[NodeProto], Axes]]] = {
    "Conv": ((1,), lambda node: (0,)),
    "ConvTranspose": ((1,), lambda node: (1,)),
    "MatMul": ((1,), lambda node: (-1,)),
    "Gemm": ((1,), _gemm_output),
    "GRU": ((1, 2), lambda node: (0, 1)),  # (direction, gates and units, input)
    "LSTM": ((1, 2), lambda node: (0, 1)),
}


def store_as_int8(graph: GraphProto, *, exclude: Container[str] = ()) -> None:
    """Replaces the float weights of all but the ``exclude``-d operator types by int8, where that takes fewer bytes.

    A weight comes back as Cast and Mul and not as DequantizeLinear, which says the same: onnxruntime folds constants
    when it opens a file, but leaves DequantizeLinear to run again at every step.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    restoring: list[NodeProto] = []
    for name, axes in _weights_only(graph, exclude).items():
        if name not in weights:
            continue
        values, scale = quantise(numpy_helper.to_array(weights[name]), axes)
        if values.nbytes + scale.nbytes >= 4 * values.size:
            continue
        graph.initializer.remove(weights[name])
        graph.initializer.append(numpy_helper.from_array(values, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_int8_scale"))
        restoring.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_int8_cast"], to=TensorProto.FLOAT))
        restoring.append(helper.make_node("Mul", [f"{name}_int8_cast", f"{name}_int8_scale"], [name]))
    nodes = [*restoring, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def quantise(weight: np.ndarray, axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Integers of -127 to 127 and their scales, which broadcast; one scale for each place along ``axes``."""
    kept = {axis % weight.ndim for axis in axes}
    largest = np.abs(weight).max(axis=tuple(set(range(weight.ndim)) - kept), keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.round(weight / scale).clip(-127, 127).astype(np.int8), scale


def _weights_only(graph: GraphProto, exclude: Container[str]) -> dict[str, Axes]:
    """Names of tensors that nothing but weighty operators read, and the axes of their scales."""
    found: dict[str, Axes] = {}
    others = {output.name for output in graph.output}
    for node, inside in _nodes(graph):
        places, axes = WEIGHTS.get(node.op_type, ((), lambda node: ()))
        for place, name in enumerate(node.input):
            weighty = place in places and node.op_type not in exclude and not inside
            if not weighty or found.setdefault(name, axes(node)) != axes(node):
                others.add(name)
    return {name: axes for name, axes in found.items() if name not in others}


def _nodes(graph: GraphProto, inside: bool = False) -> Iterator[tuple[NodeProto, bool]]:
    """Every node, and whether it lies in a branch or loop of another."""
    for node in graph.node:
        yield node, inside
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g, inside=True)
