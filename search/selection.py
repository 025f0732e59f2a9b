"""Which students fit, which is best, which came nearest: pure functions of what a study recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from search.pareto import non_dominated
from search.record import DIRECTIONS, EXPECTED, Cost, Kind, TrialRecord, Violation
from sekd.errors import InputError, nearest

# A limit bounds a cost from above by its own name, a metric from below as min_<metric>.
LIMITS = {(name if direction == "minimize" else f"min_{name}"): name for name, direction in DIRECTIONS.items()}


def fits(record: TrialRecord, limits: Mapping[str, float], device: str, *, kind: Kind = "measured") -> list[Violation]:
    """The limits that ``record`` does not keep, none when it fits; what is not known never fits."""
    violations = []
    for key, limit in limits.items():
        if key not in LIMITS:
            raise InputError(f"unknown limit '{key}'{nearest(key, LIMITS)}")
        value = record.value(LIMITS[key], device, kind=kind)
        if value is None or (value < limit if key.startswith("min_") else value > limit):
            violations.append(Violation(key=key, value=value, limit=limit))
    return violations


def foreseeable(limits: Mapping[str, float], cost: Cost) -> dict[str, float]:
    """The limits that can be judged before training: not yet those on what gates are expected to save."""
    return {key: limit for key, limit in limits.items() if key not in EXPECTED or not cost.gated}


def best(
    records: Sequence[TrialRecord],
    limits: Mapping[str, float],
    maximize: str,
    device: str,
    *,
    kind: Kind = "measured",
) -> TrialRecord | None:
    """The complete student within ``limits`` that scores most; ties: lower latency, lower number."""
    metrics = [name for name, direction in DIRECTIONS.items() if direction == "maximize"]
    if maximize not in metrics:
        raise InputError(f"cannot maximize '{maximize}'{nearest(maximize, metrics)}")
    ranked = [
        (-score, _or_worst(record.value("latency_ms", device, kind=kind)), record.number, position)
        for position, record in enumerate(records)
        if (score := record.score(maximize)) is not None and _usable(record, limits, device, kind)
    ]
    return records[min(ranked)[-1]] if ranked else None


def nearest_misses(
    records: Sequence[TrialRecord],
    limits: Mapping[str, float],
    device: str,
    count: int = 3,
    *,
    kind: Kind = "measured",
) -> list[TrialRecord]:
    """Up to ``count`` trained or gated students that do not fit, smallest worst relative excess first.

    An unknown figure is an unbounded excess; among those the known figures decide, then the number.
    """
    misses = []
    for position, record in enumerate(records):
        if record.status not in ("COMPLETE", "INFEASIBLE") or record.duplicate_of is not None:
            continue
        violations = fits(record, limits, device, kind=kind)
        if violations:
            excesses = [excess(violation) for violation in violations]
            known = max((value for value in excesses if math.isfinite(value)), default=math.inf)
            misses.append((max(excesses), known, record.number, position))
    return [records[miss[-1]] for miss in sorted(misses)[:count]]


def excess(violation: Violation) -> float:
    """How far a figure is beyond its limit, as a share of the limit; infinite where it is not known."""
    if violation.value is None:
        return math.inf
    beyond = abs(violation.value - violation.limit)
    return beyond / abs(violation.limit) if violation.limit else beyond


def front_of(
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    limits: Mapping[str, float],
    device: str,
    *,
    kind: Kind = "measured",
) -> list[TrialRecord]:
    """The non-dominated students among the complete ones within ``limits``, cheapest first."""
    points = []
    for record in records:
        figures = [record.value(name, device, kind=kind) for name in objectives]
        values = [figure for figure in figures if figure is not None]
        if len(values) == len(figures) and _usable(record, limits, device, kind):
            points.append((values, record))
    if not points:
        return []
    directions = [DIRECTIONS[name] for name in objectives]
    kept = [points[i] for i in non_dominated([values for values, _ in points], directions)]
    costs = [i for i, direction in enumerate(directions) if direction == "minimize"]
    return [record for _, record in sorted(kept, key=lambda p: ([p[0][i] for i in costs], p[1].number))]


def _usable(record: TrialRecord, limits: Mapping[str, float], device: str, kind: Kind) -> bool:
    # A duplicate is the same student under a second number.
    own = record.trained and record.duplicate_of is None
    return own and not fits(record, limits, device, kind=kind)


def _or_worst(value: float | None) -> float:
    return math.inf if value is None else value
