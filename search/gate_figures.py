"""What is shown of students with gates: how often these are open, and what a frame costs either way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from search.labels import ABSENT, heading, shown
from search.record import Cost, Kind, TrialRecord


class GateFigure(NamedTuple):
    """A figure as text, and how it was had."""

    title: str
    text: str
    how: str


def gated(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those with gates whose figures are known."""
    return [record for record in records if record.cost is not None and record.cost.gated]


def gate_figures(record: TrialRecord, device: str, kind: Kind) -> list[GateFigure]:
    """Open, shut and expected; none of a student without gates."""
    cost = record.cost
    if cost is None or not cost.gated:
        return []
    latency = record.latency.get(device, {}) if record.latency_kind(device) == kind else {}
    shut_ms = (latency.get("shut") or {}).get("p50_ms")
    by_load = f"by the load, {kind}"
    return [
        GateFigure("gate threshold", _number(cost.gate_threshold, "g"), "set after training"),
        GateFigure("load", _load(cost), "open gates, mean over the mix"),
        GateFigure("mix", cost.load_mix or ABSENT, "noisy validation pairs"),
        GateFigure(f"{heading('macs_per_s')}, gates open", shown("macs_per_s", cost.macs_per_s), "counted"),
        GateFigure(f"{heading('macs_per_s')}, gates shut", shown("macs_per_s", cost.macs_shut_per_s), "counted"),
        _expected(record, "expected_macs_per_s", device, kind, "by the load, counted"),
        GateFigure("graph nodes, gates open", _number(cost.graph_nodes, "d"), "counted"),
        GateFigure("graph nodes, gates shut", _number(cost.graph_nodes_shut, "d"), "counted"),
        GateFigure("latency p50, gates open, ms", shown("latency_ms", latency.get("p50_ms")), kind),
        GateFigure("latency p50, gates shut, ms", shown("latency_ms", shut_ms), kind),
        _expected(record, "expected_latency_ms", device, kind, by_load),
    ]


def _expected(record: TrialRecord, name: str, device: str, kind: Kind, how: str) -> GateFigure:
    return GateFigure(heading(name), shown(name, record.value(name, device, kind=kind)), how)


def _load(cost: Cost) -> str:
    if cost.load is None or cost.loads is None:
        return ABSENT
    each = f" ({', '.join(f'{load:.2f}' for load in cost.loads)})" if len(cost.loads) > 1 else ""
    return f"{cost.load:.3f}{each}"


def _number(value: float | None, digits: str) -> str:
    return ABSENT if value is None else f"{value:{digits}}"
