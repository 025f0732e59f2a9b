"""The identity of a graph without the values of its weights: networks that differ in training alone have one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.graphs.rules import name_of
from sekd.config import content_hash

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

    from search.graphs.graph import Graph

LENGTH = 16


def graph_hash(model: ModelProto, graph: Graph) -> str:
    """Hash of operators, attributes, edges, shapes and element types, in the order of the file.

    Names do not matter. A constant is told by its type alone, unless it holds 64-bit integers: those are shapes, axes
    and indices, which decide what is computed and are never weights. It stands where it is read, so that it does not
    matter whether equal weights are stored once or twice; what turns stored bytes into weights does (int8 is another).
    """
    opsets = sorted((opset.domain, opset.version) for opset in model.opset_import)
    return content_hash([opsets, _described(graph, {})], LENGTH)


def _described(graph: Graph, outer: dict[str, str]) -> list[Any]:
    names = dict(outer)
    for name in graph.inputs:
        names[name] = f"t{len(names)}"
    lines: list[Any] = [[_type(graph, name) for name in graph.inputs]]
    for node in graph.nodes:
        read = [_source(graph, names, name) for name in node.input]
        for name in node.output:
            if name:
                names[name] = f"t{len(names)}"
        given = [[names[name], _type(graph, name)] if name else None for name in node.output]
        lines.append([name_of(node), read, given, _attributes(graph, names, node)])
    lines.append([_source(graph, names, name) for name in graph.outputs])
    return lines


def _source(graph: Graph, names: dict[str, str], name: str) -> Any:
    if not name:
        return None
    if name not in graph.constants:
        return names.get(name, name)
    weight = graph.weights.get(name)
    if weight is not None:
        return ["constant", _type(graph, name), _integers(weight)]
    if name not in graph.described:
        node = graph.folded[name]
        read = [_source(graph, names, each) for each in node.input]
        made = content_hash([name_of(node), read, _type(graph, name)], LENGTH)
        # An exporter that stores equal weights once hands them out through Identity.
        graph.described[name] = read[0] if node.op_type == "Identity" else made
    return graph.described[name]


def _type(graph: Graph, name: str) -> Any:
    return list(graph.types[name]) if name in graph.types else None


def _integers(weight: TensorProto) -> list[Any] | None:
    from onnx import TensorProto, numpy_helper

    if weight.data_type != TensorProto.INT64 or weight.data_location == TensorProto.EXTERNAL:
        return None
    return numpy_helper.to_array(weight).tolist()


def _attributes(graph: Graph, names: dict[str, str], node: NodeProto) -> list[Any]:
    found = sorted(node.attribute, key=lambda each: each.name)
    branches = iter(graph.branches(node))
    # In the order of the node, which branches() keeps.
    inside = {each.name: _described(next(branches), names) for each in node.attribute if each.HasField("g")}
    return [[each.name, inside.get(each.name, _value(each))] for each in found]


def _value(attribute: AttributeProto) -> Any:
    from onnx import AttributeProto, helper

    if attribute.type == AttributeProto.GRAPH:
        return None
    if attribute.type == AttributeProto.TENSOR:
        return [attribute.t.data_type, list(attribute.t.dims)]
    return repr(helper.get_attribute_value(attribute))
