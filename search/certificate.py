"""The promise that goes with a student: measured longer than any other, in the file that is handed over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.device import DeviceProfile
from search.device_lock import DeviceLock
from search.gated_latency import Had, of_each_frame, with_expectation
from search.measure import CERTIFICATE, Latency, Level, for_hop, measure
from search.record import LATENCIES, TrialRecord
from sekd.config import Frozen


class Promise(Frozen):
    """One limit on a latency: ``value`` is an upper bound at 99 % confidence, not the figure of the sample."""

    key: str
    value: float | None
    limit: float

    @property
    def kept(self) -> bool:
        return self.value is not None and self.value <= self.limit


class Certificate(Frozen):
    """What was measured, and what may be said of it."""

    latency: Latency
    promises: list[Promise]
    broken: list[str]  # limits that it does not keep
    weak: list[str]  # what keeps it from promising anything

    @property
    def reasons(self) -> list[str]:
        """Why it is none; empty where it is one."""
        return [*self.broken, *self.weak]

    @property
    def certified(self) -> bool:
        return not self.reasons

    def document(self) -> dict[str, Any]:
        """As JSON, the verdict first."""
        return {"certified": self.certified, "reasons": self.reasons, **self.model_dump(mode="json")}


def certify(
    model: Path,
    record: TrialRecord,
    device: DeviceProfile,
    limits: Mapping[str, float],
    *,
    lock: DeviceLock | None = None,
    level: Level = CERTIFICATE,
) -> Certificate:
    """Measures ``model``, the file that is handed over, and compares its bounds with ``limits``.

    Of one with gates those are of the worst frame, all open; of what to expect, those of both frames by its load.

    Raises:
        MeasurementFailed: it could not be measured.
    """
    latency = _each_frame(model, record, lambda file, _: measure(file, device, level=level, lock=lock))
    promises = [Promise(key=key, value=_bound(key, latency, record), limit=limits[key]) for key in _timed(limits)]
    broken = [
        f"{promise.key} is at most {'unknown' if promise.value is None else f'{promise.value:.4g}'}, "
        f"the limit is {promise.limit:.4g}"
        for promise in promises
        if not promise.kept
    ]
    return Certificate(latency=latency, promises=promises, broken=broken, weak=_too_weak(latency, level))


def _each_frame(model: Path, record: TrialRecord, had: Had) -> Latency:
    """What was ``had`` of the file; of one with gates, of both frames, with what to expect by the student's load."""
    if record.cost is None or not record.cost.gated:
        return had(model, "")
    latency = of_each_frame(model, had)
    return Latency.model_validate(with_expectation(latency.model_dump(mode="json"), record.cost))


def _timed(limits: Mapping[str, float]) -> list[str]:
    return [key for key in limits if key in LATENCIES]


def _bound(key: str, latency: Latency, record: TrialRecord) -> float | None:
    burst = latency.burst.p50_upper_ms if latency.burst else None
    if key == "paced_p95_ms":
        return latency.paced.p95_upper_ms if latency.paced else None
    if key == "expected_latency_ms" and latency.shut is not None:
        shut = latency.shut.burst.p50_upper_ms if latency.shut.burst else None
        if burst is None or shut is None or latency.load is None:
            return None
        return latency.load * burst + (1 - latency.load) * shut
    if burst is None or key in ("latency_ms", "expected_latency_ms"):
        return burst
    if key == "rtf":
        return burst / latency.hop_ms if latency.hop_ms else None
    return record.cost.algorithmic_latency_ms + burst if record.cost else None


def _too_weak(latency: Latency, level: Level) -> list[str]:
    """What keeps a measurement from being a promise, whatever its figures."""
    level = for_hop(level, latency.hop_ms)
    reasons = []
    if "noisy" in latency.flags:
        reasons.append("the machine changed speed while it was measured (noisy)")
    for mode, spread, frames in (
        ("burst", latency.burst, level.burst_frames),
        ("paced", latency.paced, level.paced_frames),
    ):
        wanted = frames * level.processes
        if spread is not None and spread.n < wanted:
            reasons.append(f"{mode}: {spread.n} frames within the time limit, {wanted} are needed")
    return reasons
