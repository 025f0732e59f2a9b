"""A record gives each figure in the unit of its name, and nothing for what was not measured."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError
from records import DEVICE, latency, student

from search.record import DIRECTIONS, Score, TrialRecord
from sekd.errors import InputError


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("pesq_wb", 2.5),
        ("latency_ms", 0.8),
        ("paced_p95_ms", 1.6),
        ("rtf", 0.05),
        ("total_latency_ms", 32.8),
        ("macs_per_s", 2.5e6),
        ("weight_kib", 4.0),
        ("state_kib", 0.5),
        ("parameters", 1000),
        ("estoi", None),
    ],
)
def test_value_of_every_objective(objective, expected):
    assert student(0, pesq=2.5, ms=0.8).value(objective, DEVICE) == pytest.approx(expected)


@pytest.mark.parametrize("objective", ["latency_ms", "rtf", "total_latency_ms", "paced_p95_ms"])
def test_a_predicted_latency_never_passes_for_a_measured_one(objective):
    record = student(0, ms=0.8, kind="predicted")
    assert record.value(objective, DEVICE) is None
    assert record.latency_kind(DEVICE) == "predicted"
    assert (record.value(objective, DEVICE, kind="predicted") is None) == (objective == "paced_p95_ms")
    assert student(0, ms=0.8).value(objective, DEVICE, kind="predicted") is None


def test_what_is_unknown_is_none():
    bare = TrialRecord(trial_id="a", variant_id="a", number=0, status="FAILED", scores={"estoi": None})
    assert [bare.value(name, DEVICE) for name in DIRECTIONS] == [None] * len(DIRECTIONS)
    assert student(0).value("latency_ms", "another-device") is None
    odd = student(0, latency={DEVICE: latency(float("nan"))})
    assert odd.value("latency_ms", DEVICE) is None and odd.value("paced_p95_ms", DEVICE) is None
    assert student(0, cost=None).value("total_latency_ms", DEVICE) is None


def test_json_round_trips_and_the_document_has_plain_scores():
    record = student(3, variant={"student.steps": 2}, violations=[{"key": "rtf", "value": None, "limit": 1}])
    assert TrialRecord.model_validate_json(record.model_dump_json()) == record
    document = json.loads(json.dumps(record.document(), allow_nan=False))
    assert document["scores"] == {"pesq_wb": 2.0}
    assert document["score_details"]["pesq_wb"] == {
        "mean": 2.0,
        "n": 64,
        "low": 1.9,
        "high": 2.1,
        "missing": [],
    }
    assert document["latency"][DEVICE]["p50_ms"] == 1.0
    assert document["seconds"] == {"train": None, "evaluate": None, "measure": None}


def test_a_score_is_a_number_or_absent():
    with pytest.raises(ValidationError):
        Score(mean=float("nan"), n=3)
    with pytest.raises(ValidationError):
        student(0, status="DONE")


def test_an_unknown_objective_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'latency_ms'"):
        student(0).value("latency", DEVICE)
    assert {name for name, way in DIRECTIONS.items() if way == "maximize"} == {
        "pesq_wb", "pesq_nb", "estoi", "si_sdr_db", "dnsmos_ovrl"
    }  # fmt: skip
