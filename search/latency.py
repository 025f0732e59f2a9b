"""A latency and all that it needs to be believed: where, how, when, out of how many, with what spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from search.agent.percentiles import percentile, summarise
from sekd.config import Frozen

NOISY_SPREAD = 0.10  # interquartile range / median, where torch.utils.benchmark begins to warn
CONTENDED_CORES = 0.25  # of other processes: above what an idle system's own services take

Source = Literal["local", "agent", "model"]


class MeasurementFailed(Exception):
    """No latency could be had; one line says why. There is no number then, not even a bad one."""


class DeviceAway(MeasurementFailed):
    """The device did not answer: nothing is wrong with the model, and it may be asked again another day."""


class Spread(Frozen):
    """Percentiles of ``n`` calls, ms, each with its upper bound at 99 % confidence.

    None where ``n`` is too small for one (7, 44, 90 and 459). Limits are compared with bounds: a promise must hold.
    """

    p50_ms: FiniteFloat | None
    p90_ms: FiniteFloat | None = None
    p95_ms: FiniteFloat | None
    p99_ms: FiniteFloat | None
    p50_upper_ms: FiniteFloat | None = None
    p90_upper_ms: FiniteFloat | None = None
    p95_upper_ms: FiniteFloat | None
    p99_upper_ms: FiniteFloat | None = None
    n: int


class Paced(Spread):
    """One call per hop; ``miss_share`` of them were done later than one hop after they came due."""

    miss_share: FiniteFloat | None
    hop_ms: FiniteFloat


class Shut(Frozen):
    """Of a network with gates, the frame in which all are shut; had as the figures that it lies beside."""

    p50_ms: FiniteFloat
    p95_ms: FiniteFloat | None = None
    p99_ms: FiniteFloat | None = None
    rtf: FiniteFloat | None = None
    interval_ms: tuple[FiniteFloat, FiniteFloat] | None = None
    n: int = 0
    flags: list[str] = Field(default_factory=list)
    burst: Spread | None = None
    paced: Paced | None = None
    samples: str | None = None


class Latency(Frozen):
    """Time of one frame on one device. The flat figures repeat ``burst``; what was not measured is None.

    Of a network with gates they are of the worst frame, all gates open; ``expected_ms`` is the mean of p50 over the
    frames of which ``load`` is the open share.

    ``flags``: "contended" if other processes kept more than a quarter of a core busy meanwhile; "noisy" if the
    canary moved through three attempts, or the interquartile range of a burst is over 10 % of its median;
    "slowed" if the canary took over 10 % longer than it has taken on this device before.
    """

    kind: Literal["measured", "predicted", "unmeasured"]
    source: Source | None = None
    p50_ms: FiniteFloat | None = None
    p95_ms: FiniteFloat | None = None
    p99_ms: FiniteFloat | None = None
    hop_ms: FiniteFloat | None = None
    rtf: FiniteFloat | None = None
    level: str | None = None  # how much was measured
    canary_ms: FiniteFloat | None = None  # of the fixed reference network meanwhile, median
    peak_memory_bytes: int | None = None  # of the process, Python and onnxruntime with it
    model_memory_bytes: int | None = None  # what the session and its calls added to that
    samples: str | None = None  # file of all single times
    network: str | None = None  # which network this is the latency of, whatever its weights
    interval_ms: tuple[FiniteFloat, FiniteFloat] | None = None  # 90 % interval of a predicted p50
    n: int = 0
    flags: list[str] = Field(default_factory=list)
    burst: Spread | None = None
    paced: Paced | None = None
    shut: Shut | None = None
    load: FiniteFloat | None = None
    expected_ms: FiniteFloat | None = None
    environment: dict[str, Any] = Field(default_factory=dict)
    at: str | None = None

    @model_validator(mode="after")
    def _no_number_under_a_false_name(self) -> Latency:
        if self.kind == "measured" and (self.source not in ("local", "agent") or self.p50_ms is None):
            raise ValueError("a measured latency has a p50 and comes from 'local' or 'agent'")
        if self.kind == "predicted" and (self.source != "model" or self.p50_ms is None):
            raise ValueError("a predicted latency has a p50 and comes from 'model'")
        if self.shut is None and (self.load, self.expected_ms) != (None, None):
            raise ValueError("a latency without gates has no load and no expectation")
        if self.kind == "unmeasured" and (self.source, self.p50_ms, self.burst, self.paced) != (None,) * 4:
            raise ValueError("an unmeasured latency has no figures and no source")
        return self


def latency_from(
    replies: Sequence[dict[str, Any]], source: Literal["local", "agent"], *, level: str | None = None
) -> Latency:
    """The latency that the replies of :mod:`search.agent.timing` amount to, one from each fresh process.

    p50 is the median over processes of their medians (memory layout differs between processes more than
    samples do within one); p95 and p99 are of all samples together.

    Raises:
        ValueError: a process made too few calls for a median.
    """
    burst = _pooled([reply["burst"] for reply in replies], [reply["burst_us"] for reply in replies])
    if burst["p50_ms"] is None:
        raise ValueError(f"too slow: {burst['n']} frames within the time limit are too few for a median")
    hop_ms = replies[0]["hop_ms"]
    return Latency(
        kind="measured",
        source=source,
        level=level,
        canary_ms=statistics.median(time for reply in replies for time in reply["canary_ms"]),
        **_memory(replies),
        p50_ms=burst["p50_ms"],
        p95_ms=burst["p95_ms"],
        p99_ms=burst["p99_ms"],
        hop_ms=hop_ms,
        rtf=burst["p50_ms"] / hop_ms if hop_ms else None,
        n=burst["n"],
        flags=_flags(replies),
        burst=Spread(**burst),
        paced=_paced(replies),
        environment=_environment(replies),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _memory(replies: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    """The largest over the processes; what the system does not say is None."""
    known = [reply["memory_bytes"] for reply in replies if None not in reply["memory_bytes"].values()]
    return {
        "peak_memory_bytes": max((memory["peak"] for memory in known), default=None),
        "model_memory_bytes": max((memory["peak"] - memory["before_session"] for memory in known), default=None),
    }


def _pooled(summaries: Sequence[dict[str, Any]], samples_us: Sequence[Sequence[float]]) -> dict[str, Any]:
    medians = [summary["p50_ms"] for summary in summaries]
    pooled = summarise([sample / 1e6 for samples in samples_us for sample in samples])
    if None in medians:
        return pooled | {"p50_ms": None, "p50_upper_ms": None}
    # Processes differ by more than their samples do: the median's bound is that of the slowest of them.
    bound = max(summary["p50_upper_ms"] for summary in summaries)
    return pooled | {"p50_ms": statistics.median_high(medians), "p50_upper_ms": bound}


def _paced(replies: Sequence[dict[str, Any]]) -> Paced | None:
    paced = [reply["paced"] for reply in replies]
    if None in paced or not all(each["n"] for each in paced):
        return None
    missed = sum(each["miss_share"] * each["n"] for each in paced) / sum(each["n"] for each in paced)
    pooled = _pooled(paced, [reply["paced_us"] for reply in replies])
    return Paced(**pooled, miss_share=missed, hop_ms=paced[0]["hop_ms"])


def _flags(replies: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader must know before believing the figures."""
    others = [reply["environment"].get("other_busy_cores") for reply in replies]
    spreads = [_relative_spread(reply["burst_us"]) for reply in replies]
    flags = {
        "contended": any(cores is not None and cores > CONTENDED_CORES for cores in others),
        "noisy": any(reply["canary_moved"] for reply in replies) or any(spread > NOISY_SPREAD for spread in spreads),
    }
    return [flag for flag, raised in flags.items() if raised]


def _relative_spread(samples: Sequence[float]) -> float:
    """Interquartile range / median."""
    return (percentile(samples, 0.75) - percentile(samples, 0.25)) / percentile(samples, 0.5)


def _environment(replies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first process's, with what is told apart by process as the median over them."""
    over_processes: dict[str, Any] = {
        key: statistics.median_high([reply[key] for reply in replies]) for key in ("session_ms", "first_call_ms")
    }
    over_processes["temperature_c"] = [reply["temperature_c"] for reply in replies]
    over_processes["canary_ms"] = [reply["canary_ms"] for reply in replies]
    over_processes["attempts"] = [reply["attempts"] for reply in replies]
    notice = {"paced_reason": replies[0]["paced_reason"]} if replies[0]["paced_reason"] else {}
    return {**replies[0]["environment"], **over_processes, "processes": len(replies), **notice}
