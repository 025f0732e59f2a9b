"""Order statistics of times: a percentile is a sample, and its bound holds with 99 % confidence or is absent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

CONFIDENCE = 0.99
SHARES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample at or above ``share`` (0 to 1) of the sorted samples: never a value between two samples."""
    ordered = sorted(samples)
    return ordered[math.ceil((len(ordered) - 1) * share)]


def samples_needed(share: float) -> int:
    """How many samples say anything of the percentile ``share``: 7 of p50, 44 of p90, 90 of p95, 459 of p99.

    With fewer, even the largest of them is below the percentile in more than 1 % of experiments (MLPerf
    Inference, early stopping).
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(share))


def upper_bound(samples: Sequence[float], share: float) -> float | None:
    """A value that the percentile ``share`` exceeds in 1 % of experiments at most; None for too few samples.

    The smallest order statistic k with P(Binomial(n, share) >= k) <= 1 %.
    """
    n = len(samples)
    found, tail = None, 0.0
    for k in range(n, 0, -1):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        tail += math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))
        if tail > 1 - CONFIDENCE:
            break
        found = k
    return None if found is None else sorted(samples)[found - 1]


def summarise(samples_s: Sequence[float]) -> dict[str, Any]:
    """Percentiles and their upper bounds, ms; None where there are too few samples for one."""
    figures: dict[str, Any] = {}
    for name, share in SHARES.items():
        enough = len(samples_s) >= samples_needed(share)
        bound = upper_bound(samples_s, share) if enough else None
        figures[f"{name}_ms"] = 1000 * percentile(samples_s, share) if enough else None
        figures[f"{name}_upper_ms"] = None if bound is None else 1000 * bound
    return {**figures, "n": len(samples_s)}
