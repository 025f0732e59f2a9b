"""What `sekd measure` tells of a file besides its measured latency: counted facts, and a prediction if asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.device import DeviceProfile
from search.graphs.graph import GraphFacts
from search.latency import Latency
from search.prediction.cost_model import CostModel, cost_model_of, load_cost_model, require_same_runtime
from search.study import home


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


def cost_model_file(device: DeviceProfile) -> Path:
    """Where `sekd calibrate` writes, and `sekd measure --predict` looks."""
    return home() / "cost_models" / f"{device.name}.json"


def chosen_cost_model(device: DeviceProfile, asked: bool, file: str | None) -> CostModel | None:
    """What predicts: the file that was named, the profile's own, the calibration of this device; None unless asked.

    Raises:
        InputError: no cost model there, or one of another way to run networks.
    """
    if file is None and device.latency == "model":
        return cost_model_of(device)
    if file is None and not asked:
        return None
    model = load_cost_model(Path(file) if file else cost_model_file(device))
    require_same_runtime(model, device)
    return model


def predicted_line(predicted: Latency, measured: Latency | None) -> str:
    """``predicted: p50 0.1234 ms, 90 % interval 0.1000 to 0.1500 ms ...``"""
    assert predicted.p50_ms is not None and predicted.interval_ms is not None
    low, high = predicted.interval_ms
    told = predicted.environment["calibration"]
    parts = [
        f"predicted: p50 {predicted.p50_ms:.4f} ms, 90 % interval {low:.4f} to {high:.4f} ms",
        f"by {told['networks']} networks measured on {told['device']}, {told['at']}",
    ]
    if measured is not None and measured.p50_ms is not None:
        off = predicted.p50_ms / measured.p50_ms - 1
        within = "within" if low <= measured.p50_ms <= high else "outside"
        parts.append(f"{off:+.0%} of the measured {measured.p50_ms:.4f} ms, which is {within} the interval")
    if predicted.flags:
        parts.append(f"flags: {', '.join(predicted.flags)} ({', '.join(predicted.environment['outside'])})")
    return "; ".join(parts)
