"""Surgery on ONNX graphs: branches, names, and what depends on weights alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import GraphProto, NodeProto, TensorProto, helper


def branches(node: NodeProto) -> list[GraphProto]:
    """Of an ``If``: those for true and for false, in this order; none of another node."""
    found = {attribute.name: attribute.g for attribute in node.attribute if attribute.HasField("g")}
    return [found["then_branch"], found["else_branch"]] if node.op_type == "If" else []


def ifs(graph: GraphProto) -> list[NodeProto]:
    return [node for node in graph.node if node.op_type == "If"]


def stored(graph: GraphProto) -> Iterator[TensorProto]:
    """All initializers, those of branches too."""
    yield from graph.initializer
    for node in graph.node:
        for branch in branches(node):
            yield from stored(branch)


def running(graph: GraphProto, constants: frozenset[str] = frozenset()) -> list[NodeProto]:
    """The nodes that run for every frame; the others depend on ``constants``, or weights, alone: onnxruntime computes
    those when it loads the file."""
    known = constants_of(graph, constants)
    return [node for node in graph.node if not known.issuperset(node.output)]


def constants_of(graph: GraphProto, outer: frozenset[str] = frozenset()) -> frozenset[str]:
    """Names of weights and of all that follows from them and from ``outer``."""
    known = {"", *outer, *(weight.name for weight in graph.initializer)}
    for node in graph.node:
        if not branches(node) and known.issuperset(node.input):
            known.update(node.output)
    return frozenset(known)


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Every tensor of ``graph``, which has no branches, that ``names`` lists."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for named in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        named.name = names.get(named.name, named.name)


def replace(graph: GraphProto, place: int, nodes: list[NodeProto], count: int = 1) -> None:
    """``nodes`` for the ``count`` nodes from ``place`` on."""
    after = [*graph.node[:place], *nodes, *graph.node[place + count :]]
    del graph.node[:]
    graph.node.extend(after)


def identity(source: str, target: str) -> NodeProto:
    return helper.make_node("Identity", [source], [target], name=target)
