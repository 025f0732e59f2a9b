import pytest
from records import student

from search import certificate
from search.certificate import certify
from search.device import load_device
from search.latency import Latency, Paced, Spread
from search.measure import CERTIFICATE

HERE = load_device("x86-1core")
BURST = {"p50_ms": 0.10, "p50_upper_ms": 0.11, "p95_ms": 0.2, "p95_upper_ms": 0.25, "p99_ms": 0.3, "n": 3072}
PACED = BURST | {"p95_ms": 0.9, "p95_upper_ms": 0.95, "miss_share": 0.0, "hop_ms": 16.0}


@pytest.fixture
def measured(monkeypatch):
    """What the device will have said; the test may change it."""
    said = {
        "kind": "measured", "source": "local", "p50_ms": 0.10, "hop_ms": 16.0, "n": 3072, "flags": [],
        "burst": Spread(**BURST), "paced": Paced(**PACED),
    }  # fmt: skip
    monkeypatch.setattr(certificate, "measure", lambda *_, **__: Latency(**said))
    return said


def _certify(tmp_path, **limits):
    return certify(tmp_path / "m.onnx", student(0), HERE, limits)


@pytest.mark.parametrize(
    ("limits", "value"),
    [({"latency_ms": 0.2}, 0.11), ({"paced_p95_ms": 1.0}, 0.95), ({"rtf": 0.01}, 0.11 / 16)]
    + [({"total_latency_ms": 40.0}, 32.11)],
)
def test_a_promise_is_the_bound_and_not_the_figure(tmp_path, measured, limits, value):
    found = _certify(tmp_path, **limits)
    assert found.certified and found.promises[0].value == pytest.approx(value)


def test_a_limit_between_the_figure_and_its_bound_is_not_promised(tmp_path, measured):
    found = _certify(tmp_path, latency_ms=0.105, macs_per_s=1e6)
    assert not found.certified
    assert found.reasons == ["latency_ms is at most 0.11, the limit is 0.105"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"flags": ["noisy"]}, "changed speed"),
        ({"burst": Spread(**BURST | {"n": 500})}, "burst: 500 frames within the time limit, 3072 are needed"),
        ({"paced": Paced(**PACED | {"n": 99})}, "paced: 99 frames"),
    ],
)
def test_a_weak_measurement_promises_nothing(tmp_path, measured, change, reason):
    measured |= change
    found = _certify(tmp_path, latency_ms=1.0)
    assert not found.certified and reason in found.reasons[0]


def test_without_a_pace_there_is_no_paced_promise(tmp_path, measured):
    measured["paced"] = None
    assert _certify(tmp_path, latency_ms=1.0).certified
    assert _certify(tmp_path, paced_p95_ms=1.0).reasons == ["paced_p95_ms is at most unknown, the limit is 1"]


def test_a_certificate_is_no_less_than_the_protocol_asks():
    assert CERTIFICATE.processes == 3 and CERTIFICATE.paced_s >= 10
    assert min(CERTIFICATE.burst_frames, CERTIFICATE.paced_frames) >= 1024
