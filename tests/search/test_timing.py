import ast
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from streaming_onnx import streaming_model

from benchmarks.timing_inputs import canary, timing_audio
from search.agent import pacing, signals, stream, timing
from search.agent.percentiles import percentile

AGENT = Path(timing.__file__).parent


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


def test_burst_times_the_calls_alone():
    time = FakeTime([0.001, 0.002, 0.003, 0.004])
    assert pacing.time_burst(time.call, 3, 10.0, time.clock) == pytest.approx([0.001, 0.002, 0.003])


def test_burst_ends_in_time():
    time = FakeTime([1.0] * 9)
    assert len(pacing.time_burst(time.call, 9, 2.5, time.clock)) == 3


def test_pace_keeps_absolute_deadlines_and_counts_what_came_late():
    # Due at 10, 20, 30, 40 ms. The second call takes 25 ms: it misses, the third starts late (45 ms) but
    # is due by 40, so it misses too; the fourth starts at 46 ms, at once, and is done by 50.
    time = FakeTime([0.001, 0.025, 0.001, 0.001])
    samples, missed = pacing.time_paced(time.call, 4, 0.010, 1.0, time.clock, time.sleep)
    assert time.starts == pytest.approx([0.010, 0.020, 0.045, 0.046])
    assert samples == pytest.approx([0.001, 0.025, 0.001, 0.001])
    assert time.slept == pytest.approx([0.010, 0.009])
    assert missed == 2


def test_pace_ends_in_time():
    time = FakeTime([0.001] * 100)
    samples, missed = pacing.time_paced(time.call, 100, 0.010, 0.055, time.clock, time.sleep)
    assert (len(samples), missed) == (5, 0)


@pytest.mark.parametrize(
    ("costs", "least_s", "calls"),
    [
        ([0.001] * 400, 0.0, 64),
        ([0.001] * 400, 0.2, 224),  # steady at once, and still for 0.2 s: the clock of the core may rise
        ([0.01] * 32 + [0.001] * 200, 0.0, 96),
        ([i / 1000 for i in range(1, 500)], 0.0, 200),
    ],
)
def test_warm_up_lasts_its_time_and_ends_when_two_medians_agree(costs, least_s, calls):
    time = FakeTime(costs)
    assert pacing.warm_up(time.call, least_s, 19.95, time.clock) == calls


def test_every_kind_of_audio_has_its_share():
    heard = signals.audio(1000, 16000).reshape(4, 1000)
    assert not heard[0].any()
    for part in heard[1:]:
        assert -35 < 10 * np.log10(np.mean(part**2)) < -18
    assert len(signals.audio(3000, 48000)) == 12000
    assert np.ptp(signals.audio(20_000, 16000)[-4000:]) > 0  # a clip of one second is repeated


def test_the_files_beside_the_agent_are_those_that_the_benchmark_makes():
    with np.load(AGENT / "audio.npz") as kept:
        made = timing_audio()
        assert set(kept) == set(made)
        for kind in kept:
            assert np.array_equal(kept[kind], made[kind])
    assert onnx.load(AGENT / "canary.onnx") == canary()


def test_hops_of_a_wave_follow_each_other():
    hops = signals.signal_frames([1, 128], {"contract": "wave", "sample_rate": "16000"})
    assert np.array_equal(hops.reshape(-1), signals.audio(32 * 128, 16_000)) and hops.shape == (128, 1, 128)


def test_frames_are_spectra_of_the_audio():
    spectra = signals.signal_frames([1, 257, 1, 2], {"hop_length": "128"})
    assert spectra.shape == (128, 1, 257, 1, 2)
    levels = np.abs(spectra).sum(axis=(1, 2, 3, 4)) > 0
    assert not levels[:32].any() and levels[36:].all()
    assert signals.signal_frames([1, 257, 1, 2], {"sample_rate": "48000"}).shape == (128, 1, 257, 1, 2)


def test_states_are_fed_back(tmp_path):
    path = streaming_model(tmp_path / "m.onnx", size=1)
    fed = stream.Stream(stream.open_session(str(path), 1))
    frames = signals.signal_frames([1, 33, 1, 2], {}).astype(np.float32)
    expected = 0.0
    for frame in frames[:80]:
        fed()
        expected = 0.5 * expected + frame.mean()
    assert fed._states[0].item() == pytest.approx(expected, rel=1e-4)
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
        stream.check_contract(inputs, outputs)
    with pytest.raises(ValueError, match="1 inputs and 2 outputs"):
        stream.check_contract(inputs[1:], outputs)


def _run(*command, **request):
    done = subprocess.run(
        [sys.executable, *command], input=json.dumps(request), capture_output=True, text=True, timeout=60
    )
    return done.returncode, json.loads(done.stdout)


def test_one_request_one_reply(tmp_path):
    path = streaming_model(tmp_path / "m.onnx", hop=64)
    code, reply = _run("-m", "search.agent.timing", model=str(path), burst_frames=100, paced_frames=20, warmup_s=0.2)
    assert code == 0
    assert (reply["hop_ms"], reply["burst"]["n"], len(reply["burst_us"])) == (4.0, 100, 100)
    assert reply["burst"]["p50_ms"] == pytest.approx(percentile(reply["burst_us"], 0.5) / 1000, abs=1e-4)
    assert reply["burst"]["p99_ms"] is None
    assert (reply["paced"]["n"], reply["paced"]["hop_ms"]) == (20, 4.0)
    assert reply["session_ms"] > 0 and reply["first_call_ms"] > 0
    before, after = reply["canary_ms"]
    assert 0 < before < 10 and 0 < after < 10
    assert reply["memory_bytes"]["peak"] > reply["memory_bytes"]["before_session"] > 2**20
    assert len(reply["temperature_c"]) == 2
    assert reply["environment"]["onnxruntime"] == onnxruntime.__version__


def test_without_a_hop_there_is_no_pace_but_a_reason(tmp_path):
    path = streaming_model(tmp_path / "m.onnx", shape=(1, 256))
    reply = timing.answer({"model": str(path), "burst_frames": 20, "warmup_s": 0.05})
    assert reply["paced"] is None and "hop unknown" in reply["paced_reason"]
    assert timing.answer({"model": str(path), "hop_ms": 2, "paced_frames": 8})["paced"]["n"] == 8


def test_a_slow_machine_is_told_before_anything_is_measured(tmp_path):
    path = streaming_model(tmp_path / "m.onnx", hop=64)
    reply = timing.answer({"model": str(path), "canary_at_most_ms": 1e-6})
    assert list(reply) == ["slow_canary_ms"] and reply["slow_canary_ms"] > 1e-6
    assert timing.answer({"model": str(path), "canary_at_most_ms": 1e4, "warmup_s": 0.0})["burst"]["n"] == 128


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


@pytest.mark.parametrize(
    ("key", "value"),
    [("threads", 0), ("threads", "1"), ("threads", True), ("burst_frames", 1.5), ("burst_frames", 10**9)]
    + [("limit_s", float("nan")), ("limit_s", -1), ("cores", "0"), ("cores", [-1]), ("spinning", 1), ("provider", 3)]
    + [("hop_ms", "16"), ("paced_s", 1e9), ("model", ["x"])],
)
def test_a_figure_that_makes_no_sense_is_refused(key, value):
    with pytest.raises(ValueError, match="model" if key == "model" else key):
        timing.checked({"model": "x", key: value})


def test_a_provider_that_is_not_there_is_never_replaced(tmp_path):
    with pytest.raises(ValueError, match="no QNNExecutionProvider, only .*CPUExecutionProvider"):
        timing.answer({"model": str(streaming_model(tmp_path / "m.onnx")), "provider": "QNNExecutionProvider"})


@pytest.mark.parametrize(("hop_ms", "frames"), [(16.0, 1024), (2.0, 5000), (None, 0)])
def test_a_certificate_paces_for_its_frames_and_its_time(hop_ms, frames):
    assert timing.paced_frames({"paced_frames": 1024, "paced_s": 10.0}, hop_ms) == frames


def test_the_agent_is_python_3_9_and_needs_nothing_of_the_project():
    for file in AGENT.glob("*.py"):
        tree = ast.parse(file.read_text(), feature_version=(3, 9))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        own = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1]
        names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n not in own}
        assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "numpy", "onnxruntime"}, file
