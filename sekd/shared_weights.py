"""Weights of all branches in the graph around them, each of them once."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from sekd.onnx_graph import constants_of, replace

Key = tuple[Any, ...]


class Shared:
    """What branches take from ``graph``: weights, and what follows from weights alone, so that it is computed when the
    file is loaded. What is equal is there once, whatever its name.

    Args:
        apart: weights that are no others', however equal: their values may change in the file.
    """

    def __init__(self, graph: GraphProto, *, apart: tuple[str, ...] = ()) -> None:
        self.graph = graph
        self.names: dict[Key, str] = {_content(each): each.name for each in graph.initializer if each.name not in apart}
        self.nodes: list[NodeProto] = []

    def weight(self, tensor: TensorProto) -> str:
        """The name under which ``tensor`` is in the graph from now on."""
        content = _content(tensor)
        if content not in self.names:
            self.names[content] = tensor.name
            self.graph.initializer.append(tensor)
        return self.names[content]

    def take(self, form: GraphProto) -> dict[str, str]:
        """Moves all that ``form`` knows before it runs, and gives its new names. Shapes and axes that nodes read as
        they run are worked out and stay: from outside they would tell nobody the shapes of tensors inside."""
        constants = constants_of(form)
        known = {tensor.name: tensor for tensor in form.initializer}
        names: dict[str, str] = {}
        runs: list[NodeProto] = []
        for node in form.node:
            if not constants.issuperset(node.output):
                runs.append(node)
            elif all(name in known and known[name].data_type == TensorProto.INT64 for name in node.input):
                known |= _computed(node, known)
            else:
                self._node(node, known, names)
        read = {name for node in runs for name in node.input} | {output.name for output in form.output}
        used = [tensor for name, tensor in known.items() if name in read]
        del form.initializer[:]
        form.initializer.extend(tensor for tensor in used if tensor.data_type == TensorProto.INT64)
        names |= {tensor.name: self.weight(tensor) for tensor in used if tensor.data_type != TensorProto.INT64}
        replace(form, 0, runs, len(form.node))
        return names

    def _node(self, node: NodeProto, known: dict[str, TensorProto], names: dict[str, str]) -> None:
        """Moves a node that makes a weight of weights, or finds it there already."""
        node.input[:] = [names.get(name) or self.weight(known[name]) if name else "" for name in node.input]
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        keys = [(node.domain, node.op_type, *node.input, *attributes, place) for place in range(len(node.output))]
        if keys[0] not in self.names:
            self.nodes.append(node)
        names.update((name, self.names.setdefault(key, name)) for name, key in zip(node.output, keys, strict=True))

    def write(self) -> None:
        """Puts the nodes that make weights of weights before all others."""
        replace(self.graph, 0, self.nodes, 0)


def _content(tensor: TensorProto) -> Key:
    return tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes()


def _computed(node: NodeProto, known: dict[str, TensorProto]) -> dict[str, TensorProto]:
    inputs = {name: numpy_helper.to_array(known[name]) for name in node.input}
    results = ReferenceEvaluator(node).run(None, inputs)
    return {
        name: numpy_helper.from_array(np.asarray(value), name) for name, value in zip(node.output, results, strict=True)
    }
