"""Synthetic records shared by the tests of what reads them."""

from __future__ import annotations

import numpy as np

from search.record import Cost, Score, TrialRecord

DEVICE = "raspberry-pi-4"


def latency(p50_ms, kind="measured", paced_p95_ms=None):
    """Figures of one device, the paced ones twice the burst ones unless given."""
    paced = {"p95_upper_ms": 2 * p50_ms if paced_p95_ms is None else paced_p95_ms}
    figures = {"kind": kind, "source": "local", "p50_ms": p50_ms, "p95_ms": 1.2 * p50_ms, "rtf": p50_ms / 16}
    return figures | {"paced": paced if kind == "measured" else None}


def student(number, *, pesq=2.0, ms=1.0, kind="measured", status="COMPLETE", **fields):
    """A record with a PESQ of ``pesq`` and a burst p50 of ``ms``; None leaves either out."""
    scores = {} if pesq is None else {"pesq_wb": Score(mean=pesq, n=64, low=pesq - 0.1, high=pesq + 0.1)}
    cost = Cost(parameters=1000, macs_per_s=2.5e6, weight_bytes=4096, state_bytes=512, algorithmic_latency_ms=32.0)
    known = {
        "trial_id": f"t{number}",
        "variant_id": f"t{number}",
        "params": {"student.width": 8 + number},
        "cost": cost,
        "latency": {} if ms is None else {DEVICE: latency(ms, kind)},
        "scores": scores,
    }
    return TrialRecord(number=number, status=status, **(known | fields))


def synthetic_study(seed=0, count=26):
    """Records of a plausible search: bigger students are slower and better, a few are over budget."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        width = int(rng.choice([8, 12, 16, 24, 32, 48]))
        ms = float(0.05 * width**1.1 * rng.uniform(0.6, 1.8))
        pesq = float(1.55 + 0.42 * np.log(width) - 0.35 * rng.exponential(0.6))
        over = ms > 4.0
        status = "INFEASIBLE" if over else "STOPPED" if number % 11 == 5 else "COMPLETE"
        scores = {
            "pesq_wb": Score(mean=pesq, n=64, low=pesq - 0.08, high=pesq + 0.08),
            "estoi": Score(mean=0.5 + pesq / 9, n=64, low=None, high=None),
            "si_sdr_db": Score(mean=4 + 3 * pesq, n=64),
        }
        kind = ["supervised", "one_step", "two_step", "two_step_kept"][number % 4]
        records.append(
            TrialRecord(
                trial_id=f"{number:012x}",
                variant_id=f"{number:012x}",
                number=number,
                status=status,
                params={"student.width": width, "student.family": "gru", "distill.schedule.kind": kind},
                variant={"student.gate.threshold": 0.5} if number % 5 == 0 else {},
                cost=Cost(
                    parameters=width**2 * 55,
                    macs_per_s=width**2 * 3600.0,
                    weight_bytes=width**2 * 220,
                    state_bytes=width * 96,
                    algorithmic_latency_ms=32.0,
                ),
                latency={DEVICE: latency(ms)},
                scores={} if over else scores,
                seconds={"train": None if over else 312.5, "measure": 2.5},
                reason="latency_ms 4.9 over 4.0" if over else None,
            )
        )
    return records
