"""Selection against tables of cases and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from records import DEVICE, student, synthetic_study

from search.record import Violation
from search.selection import best, fits, front_of, nearest_misses
from sekd.errors import InputError


@pytest.mark.parametrize(
    ("limits", "violated"),
    [
        ({}, []),
        ({"latency_ms": 1.0, "weight_kib": 4.0, "min_pesq_wb": 2.0}, []),
        ({"latency_ms": 0.99}, [("latency_ms", 1.0)]),
        ({"paced_p95_ms": 1.5, "total_latency_ms": 33.0}, [("paced_p95_ms", 2.0)]),
        ({"macs_per_s": 2e6, "state_kib": 0.25}, [("macs_per_s", 2.5e6), ("state_kib", 0.5)]),
        ({"min_pesq_wb": 2.1, "min_estoi": 0.1}, [("min_pesq_wb", 2.0), ("min_estoi", None)]),
    ],
)
def test_fits(limits, violated):
    expected = [Violation(key=key, value=value, limit=limits[key]) for key, value in violated]
    assert fits(student(0, pesq=2.0, ms=1.0), limits, DEVICE) == expected


def test_an_unmeasured_latency_never_fits():
    for record in (student(0, ms=None), student(0, kind="predicted")):
        assert fits(record, {"latency_ms": 1e9}, DEVICE) == [Violation(key="latency_ms", value=None, limit=1e9)]
    assert fits(student(0, kind="predicted"), {"latency_ms": 1.0}, DEVICE, kind="predicted") == []


@pytest.mark.parametrize("seed", range(10))
def test_best_is_brute_force(seed):
    rng = np.random.default_rng(seed)
    records = [
        student(int(n), pesq=float(rng.integers(20, 24)) / 10, ms=float(rng.integers(1, 5)))
        for n in rng.permutation(30)
    ]
    chosen = None
    for record in sorted(records, key=lambda r: r.number):
        pesq, ms = record.score("pesq_wb"), record.value("latency_ms", DEVICE)
        if ms > 3:
            continue
        if chosen is None or (pesq, -ms) > (chosen.score("pesq_wb"), -chosen.value("latency_ms", DEVICE)):
            chosen = record
    assert best(records, {"latency_ms": 3}, "pesq_wb", DEVICE) is chosen


def test_best_passes_over_what_is_not_a_finished_student():
    records = [
        student(0, pesq=3.0, status="STOPPED"),
        student(1, pesq=3.0, duplicate_of=4),
        student(2, pesq=None),
        student(3, pesq=1.5, ms=None),
    ]
    assert best(records, {}, "pesq_wb", DEVICE) is records[3]
    assert best(records, {"latency_ms": 5}, "pesq_wb", DEVICE) is None
    assert best([], {}, "pesq_wb", DEVICE) is None


def test_nearest_misses_order_by_worst_relative_excess():
    records = [
        student(0, ms=4.0, status="INFEASIBLE", pesq=None),
        student(1, ms=2.5),
        student(2, ms=None),
        student(3, ms=2.2, status="FAILED"),
        student(4, ms=2.2, status="INFEASIBLE", pesq=None),
        student(5, ms=1.0),
        student(6, ms=2.2, duplicate_of=4),
    ]
    found = nearest_misses(records, {"latency_ms": 2.0, "weight_kib": 3.5}, DEVICE, count=9)
    assert [record.number for record in found] == [4, 5, 1, 0, 2]
    assert len(nearest_misses(records, {"latency_ms": 2.0}, DEVICE)) == 3
    assert nearest_misses(records, {"state_kib": 0.5}, DEVICE) == []


def test_a_quality_floor_ranks_trained_students_before_untrained_ones():
    records = [student(0, pesq=None, status="INFEASIBLE"), student(1, pesq=2.4), student(2, pesq=2.9)]
    found = nearest_misses(records, {"min_pesq_wb": 3.0}, DEVICE)
    assert [record.number for record in found] == [2, 1, 0]


def test_front_holds_the_feasible_non_dominated_students_cheapest_first():
    records = [
        student(0, pesq=2.8, ms=3.0),
        student(1, pesq=2.0, ms=1.0),
        student(2, pesq=2.0, ms=2.0),
        student(3, pesq=2.0, ms=1.0),
        student(4, pesq=3.5, ms=9.0),
        student(5, pesq=2.5, ms=0.5, status="STOPPED"),
        student(6, pesq=2.5, ms=0.5, kind="predicted"),
    ]
    front = front_of(records, ["pesq_wb", "latency_ms"], {"latency_ms": 4.0}, DEVICE)
    assert [record.number for record in front] == [1, 0]
    predicted = front_of(records, ["pesq_wb", "latency_ms"], {}, DEVICE, kind="predicted")
    assert [record.number for record in predicted] == [6]
    assert front_of([], ["pesq_wb", "latency_ms"], {}, DEVICE) == []


def test_best_within_the_budget_lies_on_the_front():
    records, limits = synthetic_study(), {"latency_ms": 2.0}
    front = front_of(records, ["pesq_wb", "latency_ms"], limits, DEVICE)
    assert best(records, limits, "pesq_wb", DEVICE) is front[-1]


def test_mistyped_names_are_input_errors():
    with pytest.raises(InputError, match="did you mean 'latency_ms'"):
        fits(student(0), {"latency": 1.0}, DEVICE)
    with pytest.raises(InputError, match="did you mean 'pesq_wb'"):
        best([student(0)], {}, "pesq", DEVICE)
