"""What a cost model is linear in, read from the graph: each figure costs a fixed time on a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from search.graphs.graph import Graph, NodeFacts, graph_hop_ms, load_graph
from search.graphs.rules import kind_of_operator

KIB = 1024


class Features(NamedTuple):
    """Of one frame. ``figures``: the unit of each in its name, thousands (k) so that all are of one order."""

    figures: dict[str, float]
    operators: tuple[str, ...]  # those with MACs
    uncounted: tuple[str, ...]
    hop_ms: float | None


# Beyond what a core's caches hold, weights come from memory at every frame; how much that is depends on the device.
CACHES_KIB = (1024, 4096, 8192)


def features_of(path: Path) -> Features:
    """Of the file at ``path``; raises InputError where it is no ONNX file."""
    model = load_graph(path)
    nodes = Graph(model.graph).node_facts
    return Features(
        figures=figures_of(nodes),
        operators=tuple(sorted({node.operator for node in nodes if node.macs})),
        uncounted=tuple(sorted({node.operator for node in nodes if node.macs is None})),
        hop_ms=graph_hop_ms(model),
    )


def figures_of(nodes: Sequence[NodeFacts]) -> dict[str, float]:
    kinds = {"conv": 0, "matmul": 0, "recurrent": 0}
    for node in nodes:
        kinds[_kind(node)] += node.macs or 0
    weights_kib = sum(node.weight_bytes for node in nodes if node.macs) / KIB
    return {
        "nodes": len(nodes),
        "recurrent_nodes": sum(_kind(node) == "recurrent" for node in nodes),
        "values_k": sum(node.elements for node in nodes) / 1e3,
        "macs_k": sum(kinds.values()) / 1e3,
        **{f"{kind}_macs_k": macs / 1e3 for kind, macs in kinds.items()},
        **{f"weights_kib_over_{cache}": max(0.0, weights_kib - cache) for cache in CACHES_KIB},
    }


def _kind(node: NodeFacts) -> str:
    kind = kind_of_operator(node.operator)
    if kind.startswith("conv"):
        return "conv"
    return "recurrent" if kind == "recurrent" else "matmul"
