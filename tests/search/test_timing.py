import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from streaming_onnx import streaming_model

from search.agent import timing


class FakeTime:
    """A clock that only moves when someone works or sleeps."""

    def __init__(self, costs_s):
        self.now, self.costs, self.slept, self.starts = 0.0, iter(costs_s), [], []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def call(self):
        self.starts.append(self.now)
        self.now += next(self.costs)


@pytest.mark.parametrize("n", [1, 2, 7, 90, 128, 459, 1000])
def test_percentile_equals_numpys_higher_order_statistic(n):
    samples = list(np.random.default_rng(n).lognormal(size=n))
    for share in (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0):
        found = timing.percentile(samples, share)
        assert found == np.quantile(samples, share, method="higher")
        assert found in samples


def test_samples_needed_are_those_of_mlperf():
    assert [timing.samples_needed(p) for p in (0.5, 0.9, 0.95, 0.99, 0.999)] == [7, 44, 90, 459, 4603]


@pytest.mark.parametrize(("n", "from_top"), [(89, None), (90, 1), (129, 1), (130, 2)])
def test_upper_bound_of_p95_discards_as_mlperf_does(n, from_top):
    samples = [float(i) for i in range(n)]
    assert timing.upper_bound(samples, 0.95) == (None if from_top is None else n - from_top)


def test_upper_bound_equals_the_binomial_sum_and_survives_many_samples():
    n = 300
    bound = timing.upper_bound(list(range(n)), 0.95)
    tails = [sum(math.comb(n, j) * 0.95**j * 0.05 ** (n - j) for j in range(k, n + 1)) for k in range(n + 1)]
    assert bound == next(k for k in range(1, n + 1) if tails[k] <= 0.01) - 1
    assert 0.95 * 24576 < timing.upper_bound(list(range(24576)), 0.95) < 0.96 * 24576


@pytest.mark.parametrize("n", [6, 7, 89, 90, 458, 459])
def test_a_percentile_needs_its_samples(n):
    found = timing.summarise([0.002] * n)
    present = {key: found[f"{key}_ms"] is not None for key in ("p50", "p95", "p95_upper", "p99")}
    assert present == {"p50": n >= 7, "p95": n >= 90, "p95_upper": n >= 90, "p99": n >= 459}


def test_burst_times_the_calls_alone():
    time = FakeTime([0.001, 0.002, 0.003, 0.004])
    assert timing.time_burst(time.call, 3, 10.0, time.clock) == pytest.approx([0.001, 0.002, 0.003])


def test_burst_ends_in_time():
    time = FakeTime([1.0] * 9)
    assert len(timing.time_burst(time.call, 9, 2.5, time.clock)) == 3


def test_pace_keeps_absolute_deadlines_and_counts_what_came_late():
    # Due at 10, 20, 30, 40 ms. The second call takes 25 ms: it misses, the third starts late (45 ms) but
    # is due by 40, so it misses too; the fourth starts at 46 ms, at once, and is done by 50.
    time = FakeTime([0.001, 0.025, 0.001, 0.001])
    samples, missed = timing.time_paced(time.call, 4, 0.010, 1.0, time.clock, time.sleep)
    assert time.starts == pytest.approx([0.010, 0.020, 0.045, 0.046])
    assert samples == pytest.approx([0.001, 0.025, 0.001, 0.001])
    assert time.slept == pytest.approx([0.010, 0.009])
    assert missed == 2


def test_pace_ends_in_time():
    time = FakeTime([0.001] * 100)
    samples, missed = timing.time_paced(time.call, 100, 0.010, 0.055, time.clock, time.sleep)
    assert (len(samples), missed) == (5, 0)


@pytest.mark.parametrize(
    ("costs", "calls"),
    [([0.001] * 200, 64), ([0.01] * 32 + [0.001] * 200, 96), ([i / 1000 for i in range(1, 500)], 200)],
)
def test_warm_up_ends_when_two_medians_agree_or_time_is_up(costs, calls):
    time = FakeTime(costs)
    assert timing.warm_up(time.call, 19.95, time.clock) == calls


def test_speech_like_has_its_parts_and_its_level():
    signal = timing.speech_like(16000, 16000)
    assert np.array_equal(signal, timing.speech_like(16000, 16000))
    silence, *sounding = np.split(signal, 4)
    assert not silence.any()
    for part in sounding:
        assert 10 * np.log10(np.mean(part**2)) == pytest.approx(-25, abs=1.0)


def test_hops_of_a_wave_follow_each_other():
    hops = timing.signal_frames([1, 128], {"contract": "wave", "sample_rate": "16000"})
    assert np.array_equal(hops.reshape(-1), timing.speech_like(64 * 128, 16_000)) and hops.shape == (64, 1, 128)


def test_frames_are_spectra_for_an_enhancer_and_noise_for_others():
    spectra = timing.signal_frames([1, 257, 1, 2], {"hop_length": "128"})
    assert spectra.shape == (64, 1, 257, 1, 2)
    assert not spectra[0].any() and spectra[-1].any()
    noise = timing.signal_frames([1, 256], {})
    assert noise.shape == (64, 1, 256)
    assert 10 * np.log10(np.mean(noise**2)) == pytest.approx(-25, abs=0.2)


def test_states_are_fed_back(tmp_path):
    path = streaming_model(tmp_path / "m.onnx", size=1)
    stream = timing.Stream(timing.open_session(str(path), 1))
    frames = timing.signal_frames([1, 33, 1, 2], {}).astype(np.float32)
    expected = 0.0
    for frame in frames[:40]:
        stream()
        expected = 0.5 * expected + frame.mean()
    assert stream._states[0].item() == pytest.approx(expected, rel=1e-4)
    assert expected != 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1, "bins", 1, 2)}, "'mix' has the dynamic shape"),
        ({"state_out": [1, 9]}, "comes back as 'state_out'"),
        ({"kind": TensorProto.INT64}, "not a float tensor"),
    ],
)
def test_a_model_outside_the_contract_is_refused(changes, message):
    class Value:
        def __init__(self, name, shape, kind="tensor(float)"):
            self.name, self.shape, self.type = name, list(shape), kind

    kind = "tensor(int64)" if "kind" in changes else "tensor(float)"
    inputs = [Value("mix", changes.get("shape", (1, 33, 1, 2)), kind), Value("state", (1, 8))]
    outputs = [Value("enh", (1, 33, 1, 2)), Value("state_out", changes.get("state_out", (1, 8)))]
    with pytest.raises(ValueError, match=message):
        timing.check_contract(inputs, outputs)
    with pytest.raises(ValueError, match="1 inputs and 2 outputs"):
        timing.check_contract(inputs[1:], outputs)


def _run(*command, **request):
    done = subprocess.run(
        [sys.executable, *command], input=json.dumps(request), capture_output=True, text=True, timeout=60
    )
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("command", [("-m", "search.agent.timing"), ("-I", timing.__file__)])
def test_one_request_one_reply(tmp_path, command):
    path = streaming_model(tmp_path / "m.onnx", hop=64)
    code, reply = _run(*command, model=str(path), burst_frames=100, paced_frames=20, warmup_s=0.2)
    assert code == 0
    assert (reply["hop_ms"], reply["burst"]["n"], len(reply["burst_us"])) == (4.0, 100, 100)
    assert reply["burst"]["p50_ms"] == pytest.approx(timing.percentile(reply["burst_us"], 0.5) / 1000, abs=1e-4)
    assert reply["burst"]["p99_ms"] is None
    assert (reply["paced"]["n"], reply["paced"]["hop_ms"]) == (20, 4.0)
    assert reply["session_ms"] > 0 and reply["first_call_ms"] > 0
    assert reply["environment"]["onnxruntime"] == onnxruntime.__version__


def test_without_a_hop_there_is_no_pace_but_a_reason(tmp_path):
    path = streaming_model(tmp_path / "m.onnx", shape=(1, 256))
    reply = timing.answer({"model": str(path), "burst_frames": 20, "warmup_s": 0.05})
    assert reply["paced"] is None and "hop unknown" in reply["paced_reason"]
    assert timing.answer({"model": str(path), "hop_ms": 2, "paced_frames": 8})["paced"]["n"] == 8


def test_the_whole_call_stays_within_its_limit(tmp_path):
    path = streaming_model(tmp_path / "m.onnx", size=700, repeat=100, hop=1600)
    reply = timing.answer({"model": str(path), "limit_s": 1.0, "burst_frames": 10**6})
    assert reply["seconds"] < 3  # one second and a call; the margin is for a loaded machine
    assert reply["burst"]["n"] < 10**6


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "names no model"),
        ({"model": "x", "thread": 1}, "unknown key 'thread'"),
        ({"model": "x", "hop_ms": 0}, "hop_ms = 0"),
        ({"model": "/nowhere.onnx"}, "/nowhere.onnx"),
        ({"model": "x", "cores": [1000]}, "cannot run on cores [1000]"),
    ],
)
def test_a_failure_is_one_line_and_no_number(monkeypatch, capsys, request_, message):
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request_)))
    assert timing.main() == 1
    reply = json.loads(capsys.readouterr().out)
    assert list(reply) == ["error"] and message in reply["error"] and "\n" not in reply["error"]


def test_the_script_needs_nothing_of_the_project(tmp_path):
    alone = tmp_path / "timing.py"
    alone.write_text(Path(timing.__file__).read_text())
    path = streaming_model(tmp_path / "m.onnx")
    assert _run("-I", str(alone), model=str(path), burst_frames=10, warmup_s=0.05)[0] == 0
    assert "import sekd" not in alone.read_text() and "from sekd" not in alone.read_text()
