import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from streaming_onnx import streaming_model

from search import measure as measuring
from search.device import DeviceProfile, load_device
from search.device_lock import DeviceLock
from search.latency import Latency, latency_from
from search.measure import RANKING, Level, MeasurementFailed, measure
from search.network_latency import network_latency
from sekd.errors import InputError

HERE = load_device("x86-1core")
FEW = Level("few", 50, 20, 1, 0.0, 5.0)


def _reply(samples_us, hop_ms=16.0, busy=0.0):
    """What one process says of samples in microseconds."""
    from search.agent.percentiles import summarise

    summary = summarise([sample / 1e6 for sample in samples_us])
    return {
        "session_ms": 5.0,
        "first_call_ms": 1.0,
        "hop_ms": hop_ms,
        "burst": summary,
        "burst_us": samples_us,
        "paced": summary | {"miss_share": 0.5, "hop_ms": hop_ms} if hop_ms else None,
        "paced_us": samples_us if hop_ms else [],
        "paced_reason": None if hop_ms else "hop unknown",
        "canary_ms": [0.03, 0.03],
        "canary_moved": False,
        "attempts": 1,
        "memory_bytes": {"before_session": 30 << 20, "peak": 50 << 20},
        "temperature_c": [None, None],
        "environment": {"cpu": "fake", "other_busy_cores": busy},
    }


def test_measures_a_model_in_a_fresh_process(tmp_path):
    model = streaming_model(tmp_path / "m.onnx", hop=32)
    found = measure(model, HERE, level=FEW._replace(burst_frames=100, paced_frames=100))
    assert (found.kind, found.source, found.n, found.hop_ms) == ("measured", "local", 100, 2.0)
    assert 0 < found.p50_ms <= found.p95_ms <= found.burst.p95_upper_ms
    assert found.p99_ms is None
    assert found.rtf == found.p50_ms / 2.0
    assert (found.paced.n, found.paced.hop_ms) == (100, 2.0)
    assert found.environment["threads"] == 1
    assert found.peak_memory_bytes > found.model_memory_bytes > 0 and found.level == "few"
    assert Latency.model_validate_json(found.model_dump_json()) == found


def test_without_a_hop_there_is_neither_pace_nor_rtf(tmp_path):
    found = measure(streaming_model(tmp_path / "m.onnx", shape=(1, 64)), HERE, level=FEW)
    assert (found.paced, found.rtf, found.hop_ms) == (None, None, None)
    assert "hop unknown" in found.environment["paced_reason"]


def test_profile_decides_cores_and_the_hop_can_be_given(tmp_path):
    core = min(os.sched_getaffinity(0))
    pinned = HERE.model_copy(update={"cores": (core,)})
    found = measure(streaming_model(tmp_path / "m.onnx"), pinned, level=FEW, hop_ms=1.0)
    assert found.environment["cores"] == [core]
    assert found.paced.hop_ms == 1.0


def test_a_slower_model_measures_slower(tmp_path):
    small = streaming_model(tmp_path / "s.onnx", shape=(1, 64))
    large = streaming_model(tmp_path / "l.onnx", shape=(1, 64), size=256, repeat=50)
    assert measure(large, HERE, level=FEW).p50_ms > 3 * measure(small, HERE, level=FEW).p50_ms


@pytest.mark.parametrize("content", [b"", b"no model at all"])
def test_a_broken_file_is_a_failure_in_one_line(tmp_path, content):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(content)
    with pytest.raises(MeasurementFailed) as error:
        measure(broken, HERE)
    assert "broken.onnx" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import time; time.sleep(60)", "no answer within"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("raise SystemExit('no onnxruntime')", "ended with 1: no onnxruntime"),
    ],
)
def test_a_child_that_hangs_or_dies_gives_no_number(tmp_path, monkeypatch, script, message):
    monkeypatch.setattr(measuring, "CHILD", script)
    monkeypatch.setattr(measuring, "STARTUP_S", 0.5)
    with pytest.raises(MeasurementFailed, match=message):
        measure(tmp_path / "m.onnx", HERE, level=FEW._replace(limit_s=0.5))


def test_a_child_does_not_outlive_who_asked_for_its_figures(tmp_path):
    model = streaming_model(tmp_path / "m.onnx", hop=32)
    code = (
        "import sys; from pathlib import Path; from search.device import load_device; "
        "from search.measure import Level, measure; "
        "measure(Path(sys.argv[1]), load_device('x86-1core'), level=Level('long', 50, 50, 1, 60.0, 90.0))"
    )
    asking = subprocess.Popen([sys.executable, "-c", code, str(model)])
    children = Path(f"/proc/{asking.pid}/task/{asking.pid}/children")
    while not (found := children.read_text().split()):
        time.sleep(0.05)
    time.sleep(0.5)  # it asks for its end as its first act
    asking.kill()
    asking.wait()
    time.sleep(0.5)
    assert not [child for child in found if _alive(child)]


def _alive(process):
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_other_devices_are_never_measured_here(tmp_path):
    with pytest.raises(InputError, match="cannot be measured yet"):
        measure(tmp_path / "m.onnx", load_device("cortex-m7"))
    predicted = DeviceProfile(name="board", description="x", latency="model", cost_model="board.json")
    with pytest.raises(InputError, match="'board': latency = \"model\" is not measured here"):
        measure(tmp_path / "m.onnx", predicted)


def test_holds_the_device_while_it_measures(tmp_path):
    model = streaming_model(tmp_path / "m.onnx", hop=32)
    trainer, busy, waits = DeviceLock(tmp_path), threading.Event(), []

    def step_often():
        while not busy.is_set():
            start = time.perf_counter()
            with trainer.step():
                waits.append(time.perf_counter() - start)
            time.sleep(0.001)

    thread = threading.Thread(target=step_often)
    thread.start()
    measurer = DeviceLock(tmp_path)
    try:
        measure(model, HERE, level=FEW._replace(paced_frames=100), lock=measurer)
    finally:
        busy.set()
        thread.join()
        trainer.close()
        measurer.close()
    assert max(waits) > 0.2  # the 100 paced frames of 2 ms alone


@pytest.fixture
def replies(monkeypatch):
    """Processes that answer at once with what the test puts here."""
    waiting = []
    monkeypatch.setitem(measuring._RUN, "local", lambda *_: waiting.pop(0))
    return waiting


def _moved(canary_ms):
    return _reply([10.0 + canary_ms[1]] * 50) | {"canary_ms": canary_ms}


def test_what_ran_while_the_canary_moved_is_thrown_away(tmp_path, replies):
    replies += [_moved([0.03, 0.04]), _moved([0.04, 0.03]), _moved([0.03, 0.031])]
    found = measure(tmp_path / "m.onnx", HERE, level=FEW)
    assert found.p50_ms == pytest.approx(0.010031) and found.flags == [] and found.n == 50
    assert found.environment["attempts"] == [3]


def test_three_times_is_enough_then_it_is_noisy(tmp_path, replies):
    replies += [_moved([0.03, 0.04])] * 4
    assert measure(tmp_path / "m.onnx", HERE, level=FEW).flags == ["noisy"]
    assert len(replies) == 1


def test_every_single_time_is_kept(tmp_path, replies):
    replies += [_reply([10.0 + k, 20.5] * 20) for k in range(3)]
    latency = measure(tmp_path / "m.onnx", HERE, level=RANKING, samples=tmp_path / "deep" / "kept.npz")
    with np.load(tmp_path / "deep" / "kept.npz") as kept:
        assert sorted(kept) == [f"{mode}_{k}" for mode in ("burst", "paced") for k in range(3)]
        assert kept["burst_2"][:2].tolist() == [120, 205]
    assert (latency.n, latency.burst.p99_upper_ms) == (120, None)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["kept.npz"]


def test_equal_networks_share_one_latency_and_ranking_goes_before_screening(tmp_path, replies):
    model = streaming_model(tmp_path / "m.onnx")
    replies += [_reply([10.0] * 50), *[_reply([14.0] * 50)] * 3]
    first = network_latency(model, HERE, tmp_path / "measured")
    assert network_latency(model, HERE, tmp_path / "measured") == first and first["level"] == "screening"
    ranked = network_latency(model, HERE, tmp_path / "measured", level=RANKING)
    assert ranked["level"] == "ranking" and (tmp_path / ranked["samples"]).exists()
    assert network_latency(model, HERE, tmp_path / "measured") == ranked
    assert ranked["network"] == first["network"] and not replies


def test_what_a_slowed_machine_said_is_replaced_when_it_is_asked_again(tmp_path, replies):
    model, lock = streaming_model(tmp_path / "m.onnx"), DeviceLock(tmp_path / "locks")

    def had(canary_ms):
        replies.append(_at(canary_ms))
        return network_latency(model, HERE, tmp_path / "measured", level=FEW, lock=lock)

    replies.append(_at(0.02))
    measure(model, HERE, level=FEW, lock=lock)
    assert had(0.03)["flags"] == ["slowed"]
    assert had(0.04)["canary_ms"] == 0.03  # no better: what is known stands
    quick = had(0.02)
    assert quick["flags"] == [] and network_latency(model, HERE, tmp_path / "measured", level=FEW) == quick
    lock.close()


def _at(canary_ms, cpu="fake"):
    return _reply([10.0] * 50) | {
        "canary_ms": [canary_ms, canary_ms],
        "environment": {"cpu": cpu, "other_busy_cores": 0.0},
    }


def test_a_machine_that_was_faster_once_is_slowed_now(tmp_path, replies):
    lock = DeviceLock(tmp_path)
    for canary, flags in ((0.030, []), (0.032, []), (0.034, ["slowed"]), (0.020, []), (0.030, ["slowed"])):
        replies.append(_at(canary))
        assert measure(tmp_path / "m.onnx", HERE, level=FEW, lock=lock).flags == flags
    replies.append(_at(0.030, cpu="another"))
    assert measure(tmp_path / "m.onnx", HERE, level=FEW, lock=lock).flags == []
    lock.close()


def test_a_slow_machine_is_waited_for_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PAUSE_S", 0.0)
    asked, waiting = [], [_at(0.02), {"slow_canary_ms": 0.03}, _at(0.02), *[{"slow_canary_ms": 0.03}] * 2, _at(0.03)]
    waiting += [_at(0.03), _at(0.02)]

    def run(device, model, request):
        asked.append(request["canary_at_most_ms"])
        return waiting.pop(0)

    monkeypatch.setitem(measuring._RUN, "local", run)
    lock = DeviceLock(tmp_path)
    found = [measure(tmp_path / "m.onnx", HERE, level=FEW, lock=lock) for _ in range(5)]
    limit = pytest.approx(0.022)
    assert asked == [None, limit, limit, limit, limit, None, None, None]  # in vain: not again for a while
    assert [latency.flags for latency in found] == [[], [], ["slowed"], ["slowed"], []]
    assert [latency.environment["attempts"] for latency in found] == [[1], [2], [3], [1], [1]]
    lock.close()


def test_p50_over_processes_is_the_median_of_their_medians():
    replies = [_reply([us] * 50) for us in (10.0, 90.0, 20.0)]
    found = latency_from(replies, "local")
    assert (found.p50_ms, found.n) == (0.020, 150)
    assert found.p95_ms == pytest.approx(0.090)  # of all samples together, enough of them only so
    assert (found.paced.p50_ms, found.paced.miss_share) == (0.020, 0.5)
    assert found.environment["processes"] == 3


def test_too_few_frames_for_a_median_are_a_failure():
    with pytest.raises(ValueError, match="too slow: 6 frames"):
        latency_from([_reply([1e6] * 6)], "local")


@pytest.mark.parametrize(
    ("samples", "busy", "flags"),
    [
        ([10.0] * 20, 0.1, []),
        ([10.0] * 20, None, []),
        ([10.0] * 20, 0.9, ["contended"]),
        ([10.0, 12.0] * 10, 0.0, ["noisy"]),
    ],
)
def test_flags(samples, busy, flags):
    assert latency_from([_reply([10.0] * 20), _reply(samples, busy=busy)], "agent").flags == flags


@pytest.mark.parametrize(
    "figures",
    [
        {"kind": "measured", "source": "local"},
        {"kind": "measured", "source": "model", "p50_ms": 1.0},
        {"kind": "predicted", "source": "local", "p50_ms": 1.0},
        {"kind": "unmeasured", "p50_ms": 1.0},
        {"kind": "predicted", "source": "model", "p50_ms": float("nan")},
    ],
)
def test_no_number_passes_under_a_false_name(figures):
    with pytest.raises(ValueError):
        Latency(**figures)
    assert Latency(kind="unmeasured").p50_ms is None


def test_measuring_does_not_load_torch():
    code = "import search.measure, sys; print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
