"""What `sekd measure` tells of a file besides its latency: counted facts, one line and one JSON object."""

from __future__ import annotations

from typing import Any

from search.onnx_graph import GraphFacts


def cost_document(facts: GraphFacts, hop_ms: float | None) -> dict[str, Any]:
    """The JSON object ``cost``; per second only where the hop is known.

    Args:
        hop_ms: instead of what the file says.
    """
    hop = hop_ms or facts.hop_ms
    return {
        "graph_nodes": facts.nodes,
        "operators": facts.operators,
        "macs_per_frame": facts.macs,
        "macs_per_s": facts.macs * 1000 / hop if hop else None,
        "macs_by_operator": facts.macs_by_operator,
        "mac_coverage": facts.coverage,
        "uncounted": facts.uncounted,
        "weight_bytes": facts.weight_bytes,
        "activation_bytes": facts.activation_bytes,
        "graph_hash": facts.graph_hash,
    }


def cost_line(cost: dict[str, Any]) -> str:
    """``counted: 238 nodes, 260,000 MACs per frame ...``"""
    at_least = "at least " if cost["uncounted"] else ""
    activations = cost["activation_bytes"]
    parts = [
        f"{cost['graph_nodes']} nodes",
        f"{at_least}{cost['macs_per_frame']:,} MACs per frame",
        *([] if cost["macs_per_s"] is None else [f"{at_least}{cost['macs_per_s'] / 1e6:.2f} M MACs/s"]),
        f"{cost['mac_coverage']:.0%} of operators covered{_uncounted(cost['uncounted'])}",
        f"weights {cost['weight_bytes'] / 1024:.1f} KiB",
        *([] if activations is None else [f"activations about {activations / 1024:.1f} KiB"]),
    ]
    return f"counted: {', '.join(parts)}"


def _uncounted(operators: dict[str, int]) -> str:
    return f" (not {', '.join(f'{name} {times}x' for name, times in operators.items())})" if operators else ""
