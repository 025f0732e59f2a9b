"""How much memory the activations of one call need at once, estimated from the lives of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto

    from search.graphs.graph import Graph

VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"))  # same bytes under another shape


def peak_bytes(graph: Graph) -> int | None:
    """Largest sum of the tensors that live at once, in the order of the file; None where a shape is not static.

    Counted are the signal (the first input), everything that a node gives and all outputs, the next states too: with
    the bytes of the states that come in, which are apart, it is what one frame needs besides weights. Inputs and
    outputs of a node live together, views take nothing, no result overwrites an input; runtimes that do so need less,
    runtimes that align or fragment need more.
    """
    if any(name not in graph.types for node in graph.nodes for name in node.output if name):
        return None
    owner = _owners(graph)
    born = {name: 0 for name in graph.inputs[:1]}
    last: dict[str, int] = {}
    inner: list[int] = []
    for step, node in enumerate(graph.nodes):
        for name in _reads(node):
            last[owner.get(name, name)] = step
        born |= {name: step for name in node.output if name and owner[name] == name}
        branches = [peak_bytes(branch) for branch in graph.branches(node)] if node.op_type == "If" else []
        if None in branches:
            return None
        inner.append(max((each for each in branches if each is not None), default=0))
    end = max(len(graph.nodes) - 1, 0)
    last |= {owner.get(name, name): end for name in graph.outputs}
    return _peak(graph, born, last, inner)


def _owners(graph: Graph) -> dict[str, str]:
    """Whose bytes a tensor that a node gives has: its own, or where a view begins."""
    owner: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type in VIEWS and node.domain in ("", "ai.onnx"):
            owner[node.output[0]] = owner.get(node.input[0], node.input[0])
        else:
            owner |= {name: name for name in node.output if name}
    return owner


def _reads(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its branches capture too."""
    yield from (name for name in node.input if name)
    for found in node.attribute:
        if found.HasField("g"):
            for inside in found.g.node:
                yield from _reads(inside)
            yield from (each.name for each in found.g.output)


def _peak(graph: Graph, born: dict[str, int], last: dict[str, int], inner: list[int]) -> int:
    change = [0] * (len(graph.nodes) + 2)
    for name, first in born.items():
        size = graph.types[name].stored_bytes if name in graph.types else 0
        change[first] += size
        change[last.get(name, first) + 1] -= size
    peak = live = 0
    for step in range(len(graph.nodes)):
        live += change[step]
        peak = max(peak, live + inner[step])
    return peak
