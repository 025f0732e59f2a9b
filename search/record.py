"""What a study records of one student: frozen types, and one way to read a figure from them."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, FiniteFloat

from search.pareto import Direction
from sekd.config import Frozen
from sekd.errors import InputError, nearest

Status = Literal["COMPLETE", "INFEASIBLE", "STOPPED", "FAILED", "RUNNING"]
# How a latency came about. A reader asks for one kind, so that no front ever mixes two.
Kind = Literal["measured", "predicted", "unmeasured"]

AWAY = "away"  # flag of a trial whose device did not answer: it may be proposed again
UNSCORED = "unscored"  # flag of a student whose scores at its gate threshold nobody measured

METRICS = ("pesq_wb", "pesq_nb", "estoi", "si_sdr_db", "dnsmos_ovrl")
LATENCIES = ("latency_ms", "paced_p95_ms", "total_latency_ms", "rtf", "expected_latency_ms")
COSTS = ("macs_per_s", "weight_kib", "state_kib", "parameters", "expected_macs_per_s")
EXPECTED = ("expected_latency_ms", "expected_macs_per_s")  # of a network with gates known once it is trained

DIRECTIONS: dict[str, Direction] = {
    **dict.fromkeys(METRICS, "maximize"),
    **dict.fromkeys(LATENCIES + COSTS, "minimize"),
}


class Cost(Frozen):
    """What is known of a student without training it."""

    parameters: int
    macs_per_s: FiniteFloat
    weight_bytes: int
    state_bytes: int
    algorithmic_latency_ms: FiniteFloat
    segment_ms: FiniteFloat | None = None  # of a network that hears segments: how much audio it takes at once
    # Of the exported graph; absent in records of earlier versions.
    graph_nodes: int | None = None
    activation_bytes: int | None = None  # estimate of what one frame needs at once besides weights and state
    mac_coverage: FiniteFloat | None = None  # share of the executed operators that are counted or known to be free
    # Of a network with gates alone. What stands above is of a frame with all of them open, policy included.
    macs_shut_per_s: FiniteFloat | None = None  # all shut
    gate_macs_per_s: tuple[FiniteFloat, ...] | None = None  # what each gate adds where it is open
    graph_nodes_shut: int | None = None
    # Once it is trained, at its threshold, on the named mix: how often gates are open, and what a frame costs by that.
    gate_threshold: FiniteFloat | None = None
    load: FiniteFloat | None = None  # mean of all gates
    loads: tuple[FiniteFloat, ...] | None = None  # of each gate
    load_mix: str | None = None
    expected_macs_per_s: FiniteFloat | None = None

    @property
    def gated(self) -> bool:
        return self.macs_shut_per_s is not None


class Score(Frozen):
    """A metric's mean over ``n`` files with its 95 % interval; ``missing`` names files without a value."""

    mean: FiniteFloat | None
    n: int
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    missing: list[str] = Field(default_factory=list)


class Seconds(Frozen):
    """Wall time spent on a trial, s; absent where that stage never ran."""

    train: FiniteFloat | None = None
    evaluate: FiniteFloat | None = None
    measure: FiniteFloat | None = None


class Violation(Frozen):
    """A limit that is not kept; ``value`` is absent where the figure is not known."""

    key: str
    value: FiniteFloat | None
    limit: FiniteFloat


class TrialRecord(Frozen):
    """One trial, or one variant of it: a trained student at one setting of the free knobs."""

    trial_id: str
    variant_id: str
    number: int
    status: Status
    params: dict[str, Any] = Field(default_factory=dict)
    variant: dict[str, Any] = Field(default_factory=dict)
    cost: Cost | None = None
    latency: dict[str, dict[str, Any]] = Field(default_factory=dict)
    scores: dict[str, Score | None] = Field(default_factory=dict)
    seconds: Seconds = Seconds()
    reason: str | None = None
    violations: list[Violation] = Field(default_factory=list)
    duplicate_of: int | None = None
    teacher_beaten: bool | None = None
    flags: list[str] = Field(default_factory=list)
    # Of a trial with free knobs: what it came to at each setting, with figures of its own (see search.variants).
    variants: list[TrialRecord] = Field(default_factory=list)

    @property
    def trained(self) -> bool:
        """Whether there is a trained student with scores; at reading it may be over a budget all the same."""
        return self.status == "COMPLETE" or (self.status == "INFEASIBLE" and bool(self.scores))

    def score(self, metric: str) -> float | None:
        """Mean of ``metric`` over the validation pairs."""
        found = self.scores.get(metric)
        return None if found is None else found.mean

    def latency_kind(self, device: str) -> Kind:
        """How the latency on ``device`` came about."""
        return self.latency.get(device, {}).get("kind", "unmeasured")

    def value(self, objective: str, device: str, *, kind: Kind = "measured") -> float | None:
        """``objective`` in the unit of its name; a latency only where it is of ``kind`` on ``device``."""
        if objective not in DIRECTIONS:
            raise InputError(f"unknown objective '{objective}'{nearest(objective, DIRECTIONS)}")
        if objective in METRICS:
            return self.score(objective)
        if objective in COSTS:
            return _cost_value(self.cost, objective)
        if self.latency_kind(device) != kind:
            return None
        return _latency_value(self.latency.get(device, {}), self.cost, objective)

    def document(self) -> dict[str, Any]:
        """The JSON object that commands print: ``scores`` are means, ``score_details`` their intervals."""
        document = self.model_dump(mode="json", exclude={"variants"})
        details = document["scores"]
        document["scores"] = {name: self.score(name) for name in self.scores}
        return document | {"score_details": details}


def _cost_value(cost: Cost | None, objective: str) -> float | None:
    if cost is None:
        return None
    values: dict[str, float] = {
        "macs_per_s": cost.macs_per_s,
        "weight_kib": cost.weight_bytes / 1024,
        "state_kib": cost.state_bytes / 1024,
        "parameters": cost.parameters,
    }
    if objective != "expected_macs_per_s":
        return float(values[objective])
    return cost.expected_macs_per_s if cost.gated else cost.macs_per_s


def _latency_value(figures: dict[str, Any], cost: Cost | None, objective: str) -> float | None:
    p50_ms = _finite(figures.get("p50_ms"))
    if objective == "expected_latency_ms" and cost is not None and cost.gated:
        return _finite(figures.get("expected_ms"))
    if objective in ("latency_ms", "expected_latency_ms"):
        return p50_ms
    if objective == "rtf":
        return _finite(figures.get("rtf"))
    if objective == "paced_p95_ms":
        # A promise, hence the 99 % upper bound of the percentile and not the percentile of the sample.
        return _finite((figures.get("paced") or {}).get("p95_upper_ms"))
    if p50_ms is None or cost is None:
        return None
    return cost.algorithmic_latency_ms + p50_ms


def _finite(value: Any) -> float | None:
    """A figure, or nothing: NaN and infinity written by a failed measurement are not values."""
    return float(value) if value is not None and math.isfinite(value) else None
