"""Weights of all branches in the graph around them, each of them once."""

from __future__ import annotations

from typing import Any

from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

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
        """Moves all that ``form`` knows before it runs, and gives its new names. Integers that nodes read as they run
        stay: they are shapes and axes, and from outside they tell nobody the shapes of tensors inside."""
        constants = constants_of(form)
        before = [node for node in form.node if constants.issuperset(node.output)]
        running = [node for node in form.node if not constants.issuperset(node.output)]
        read = {name for node in running for name in node.input}
        names, local = {}, []
        for tensor in form.initializer:
            if tensor.data_type == TensorProto.INT64 and tensor.name in read:
                local.append(tensor)
            names[tensor.name] = self.weight(tensor)
        for node in before:
            self._node(node, names)
        replace(form, 0, running, len(form.node))
        del form.initializer[:]
        form.initializer.extend(local)
        return {name: new for name, new in names.items() if name not in {tensor.name for tensor in local}}

    def _node(self, node: NodeProto, names: dict[str, str]) -> None:
        node.input[:] = [names.get(name, name) for name in node.input]
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
