"""Times a streaming ONNX model frame by frame: one JSON request on stdin, one JSON reply on stdout.

Runs as ``python -m search.agent.timing`` and, copied alone to a device, as a plain script: it needs the
standard library, numpy and onnxruntime only. The request holds ``model`` and, optionally, ``threads``,
``cores``, ``hop_ms``, ``burst_frames``, ``paced_frames``, ``warmup_s`` and ``limit_s``. A failure is a reply
with the one key ``error`` and exit code 1.

``burst`` calls back to back (capacity); ``paced`` calls once per hop, as in use, where caches have gone cold
and the core has slept. Both feed the states back. Times are those of the call alone; a paced frame is
missed if it is done later than one hop after it came due, whatever the reason.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

REQUEST: dict[str, Any] = {
    "model": None,
    "threads": 1,
    "cores": None,
    "hop_ms": None,
    "burst_frames": 128,
    "paced_frames": 128,
    "warmup_s": 1.0,
    "limit_s": 5.0,
}
CONFIDENCE = 0.99
WINDOW = 32  # calls whose median warm-up compares with that of the next ones
STABLE = 0.02
LEVEL_DBFS = -25.0
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}

Clock = Callable[[], float]  # seconds
Sleep = Callable[[float], None]


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample at or above ``share`` (0 to 1) of the sorted samples: never a value between two samples."""
    ordered = sorted(samples)
    return ordered[math.ceil((len(ordered) - 1) * share)]


def samples_needed(share: float) -> int:
    """How many samples say anything of the percentile ``share``: 7 of p50, 90 of p95, 459 of p99.

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
    """Percentiles, ms; None where there are too few samples for one."""
    n = len(samples_s)

    def at(share: float) -> float | None:
        return 1000 * percentile(samples_s, share) if n >= samples_needed(share) else None

    bound = upper_bound(samples_s, 0.95)
    return {
        "p50_ms": at(0.50),
        "p95_ms": at(0.95),
        "p95_upper_ms": None if bound is None else 1000 * bound,
        "p99_ms": at(0.99),
        "n": n,
    }


def time_burst(call: Callable[[], Any], frames: int, until_s: float, clock: Clock) -> list[float]:
    """Seconds of each call, back to back; fewer than ``frames`` if ``until_s`` on the clock comes first."""
    samples: list[float] = []
    while len(samples) < frames and clock() < until_s:
        start = clock()
        call()
        samples.append(clock() - start)
    return samples


def time_paced(
    call: Callable[[], Any], frames: int, hop_s: float, until_s: float, clock: Clock, sleep: Sleep
) -> tuple[list[float], int]:
    """Seconds of each call, one due every ``hop_s``, and how many were done later than a hop after due.

    A late frame delays the next ones, none is dropped: an enhancer must hear all of its input.
    """
    samples: list[float] = []
    missed = 0
    due = clock() + hop_s
    while len(samples) < frames and max(due, clock()) < until_s:
        wait = due - clock()
        if wait > 0:
            sleep(wait)
        start = clock()
        call()
        end = clock()
        samples.append(end - start)
        missed += end > due + hop_s
        due += hop_s
    return samples, missed


def warm_up(call: Callable[[], Any], until_s: float, clock: Clock) -> int:
    """Calls until the medians of two windows agree within 2 %, or until ``until_s``; how many it took."""
    before, calls = 0.0, 0
    while clock() < until_s:
        window = time_burst(call, WINDOW, until_s, clock)
        calls += len(window)
        if not window:
            break
        now = percentile(window, 0.5)
        if len(window) == WINDOW and abs(now - before) <= STABLE * before:
            break
        before = now
    return calls


def speech_like(samples: int, sample_rate: int) -> np.ndarray:
    """Mono, always the same: a quarter silence, half voiced, a quarter noisy; -25 dBFS where it sounds.

    Real silence matters: it drives recurrent states towards denormal numbers.
    """
    time_s = np.arange(samples) / sample_rate
    pitch_hz = 120 * (1 + 0.1 * np.sin(2 * np.pi * 3 * time_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / sample_rate
    voiced = sum(np.sin(k * phase) / k for k in range(1, 21))
    noisy = np.random.default_rng(0).standard_normal(samples)
    part = np.arange(samples) / max(samples, 1)
    sounding = np.where(part < 0.75, voiced / np.std(voiced), noisy / np.std(noisy))
    return np.where(part < 0.25, 0.0, sounding) * 10 ** (LEVEL_DBFS / 20)


def stft_frames(bins: int, hop: int, sample_rate: int, frames: int) -> np.ndarray:
    """Spectra of :func:`speech_like`, ``(frame, 1, bins, 1, 2)``."""
    n_fft = 2 * (bins - 1)
    signal = speech_like(n_fft + hop * (frames - 1), sample_rate)
    pieces = np.stack([signal[i * hop : i * hop + n_fft] for i in range(frames)])
    spectrum = np.fft.rfft(pieces * np.sqrt(np.hanning(n_fft + 1)[:-1]))
    return np.stack([spectrum.real, spectrum.imag], -1)[:, None, :, None, :]


def signal_frames(shape: Sequence[int], metadata: dict[str, str], frames: int = 64) -> np.ndarray:
    """What is fed in turn: spectra to a model that takes one ``[1, F, 1, 2]`` frame, hops of the signal to one whose
    contract is ``wave``, else seeded noise."""
    if metadata.get("contract") == "wave":
        signal = speech_like(frames * math.prod(shape), int(metadata.get("sample_rate", 16000)))
        return signal.reshape(frames, *shape)
    if len(shape) == 4 and shape[0] == shape[2] == 1 and shape[3] == 2 and shape[1] > 1:
        hop = int(metadata.get("hop_length", shape[1] - 1))
        return stft_frames(shape[1], hop, int(metadata.get("sample_rate", 16000)), frames)
    noise = np.random.default_rng(0).standard_normal((frames, *shape))
    return noise * 10 ** (LEVEL_DBFS / 20)


class Stream:
    """The model as a call that takes no arguments: the next frame in, the states fed back."""

    def __init__(self, session: Any) -> None:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        check_contract(inputs, outputs)
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        signal, *states = inputs
        frames = signal_frames(signal.shape, self.metadata).astype(FLOATS[signal.type])
        self._frames = self._forever(frames)
        self._session, self._signal = session, signal.name
        self._names = [state.name for state in states]
        self._states = [np.zeros(state.shape, FLOATS[state.type]) for state in states]

    def __call__(self) -> None:
        feed = dict(zip(self._names, self._states, strict=True))
        feed[self._signal] = next(self._frames)
        self._states = self._session.run(None, feed)[1:]

    @staticmethod
    def _forever(frames: np.ndarray) -> Iterator[np.ndarray]:
        contiguous = [np.ascontiguousarray(frame) for frame in frames]
        while True:
            yield from contiguous


def check_contract(inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Raises ValueError unless all is static and float, and states pair by order and shape."""
    for value in [*inputs, *outputs]:
        if value.type not in FLOATS:
            raise ValueError(f"'{value.name}' is {value.type}, not a float tensor")
    for value in inputs:
        if not all(isinstance(size, int) for size in value.shape):
            raise ValueError(f"input '{value.name}' has the dynamic shape {value.shape}")
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs: states must pair in order")
    for before, after in zip(inputs[1:], outputs[1:], strict=True):
        if before.shape != after.shape or before.type != after.type:
            raise ValueError(f"state '{before.name}' {before.shape} comes back as '{after.name}' {after.shape}")


def hop_of(request: dict[str, Any], metadata: dict[str, str]) -> float | None:
    """ms between frames: as requested, else as the model's metadata say, else unknown."""
    if request["hop_ms"] is not None:
        return float(request["hop_ms"])
    try:
        return 1000 * float(metadata["hop_length"]) / float(metadata["sample_rate"])
    except (KeyError, ValueError, ZeroDivisionError):
        return None


def open_session(model: str, threads: int) -> Any:
    """The exact file with the options of streaming: no profiler, no spinning threads, denormals as zero."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_profiling = False
    options.log_severity_level = 4
    for name, value in (("intra_op.allow_spinning", "0"), ("inter_op.allow_spinning", "0")):
        options.add_session_config_entry(f"session.{name}", value)
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answer(request: dict[str, Any], clock: Clock = time.perf_counter, sleep: Sleep = time.sleep) -> dict[str, Any]:
    """The reply to ``request``, within its ``limit_s``.

    Raises:
        ValueError: the request or the model cannot be used. Errors of onnxruntime pass through.
    """
    began = clock()
    request = checked(request)
    until = began + request["limit_s"]
    if request["cores"]:
        pin(request["cores"])
    load = Load()
    before = clock()
    session = open_session(request["model"], request["threads"])
    opened = clock()
    stream = Stream(session)
    prepared = clock()
    stream()
    first = clock()
    hop_ms = hop_of(request, stream.metadata)
    reply = time_steadily(stream, request, hop_ms, until, clock, sleep)
    return {
        "session_ms": 1000 * (opened - before),
        "first_call_ms": 1000 * (first - prepared),
        "hop_ms": hop_ms,
        **reply,
        "seconds": clock() - began,
        "environment": environment(request["threads"]) | load.figures(),
    }


def time_steadily(
    call: Callable[[], Any],
    request: dict[str, Any],
    hop_ms: float | None,
    until: float,
    clock: Clock,
    sleep: Sleep,
) -> dict[str, Any]:
    """Warm-up, burst, pace. Pace keeps its share of the time that is left, at most half of it."""
    left = until - clock()
    pace = 0.0 if hop_ms is None else (request["paced_frames"] + 1) * hop_ms / 1000
    burst_until = until - min(pace, left / 2)
    warm = warm_up(call, clock() + min(request["warmup_s"], (burst_until - clock()) / 2), clock)
    burst = time_burst(call, request["burst_frames"], burst_until, clock)
    reply: dict[str, Any] = {"warmup_calls": warm, "burst": summarise(burst), "burst_us": _us(burst)}
    if hop_ms is None:
        reason = "hop unknown: not in the model's metadata and not given"
        return reply | {"paced": None, "paced_reason": reason, "paced_us": []}
    paced, missed = time_paced(call, request["paced_frames"], hop_ms / 1000, until, clock, sleep)
    share = {"miss_share": missed / len(paced) if paced else None, "hop_ms": hop_ms}
    return reply | {"paced": summarise(paced) | share, "paced_reason": None, "paced_us": _us(paced)}


def _us(samples_s: Sequence[float]) -> list[float]:
    return [round(1e6 * sample, 1) for sample in samples_s]


def pin(cores: Sequence[int]) -> None:
    """Keeps this process on ``cores``; raises ValueError where they are not to be had."""
    try:
        os.sched_setaffinity(0, cores)
    except (AttributeError, OSError) as error:
        raise ValueError(f"cannot run on cores {list(cores)}: {error}") from error


class Load:
    """What else ran on the machine since this was made; figures are None where the system does not say."""

    def __init__(self) -> None:
        self._wall, self._own, self._busy = time.perf_counter(), time.process_time(), busy_seconds()

    def figures(self) -> dict[str, Any]:
        """``other_busy_cores``: cores that other processes kept busy meanwhile, from /proc/stat."""
        busy, wall = busy_seconds(), time.perf_counter() - self._wall
        other = None
        if busy is not None and self._busy is not None and wall > 0:
            own = time.process_time() - self._own
            other = max(0.0, (busy - self._busy - own) / wall)
        return {"other_busy_cores": other, "load_average": list(os.getloadavg())}


def busy_seconds() -> float | None:
    """CPU seconds of all processes since the machine started: user, nice, system, irq, softirq, steal."""
    try:
        with open("/proc/stat") as file:
            fields = [int(field) for field in file.readline().split()[1:9]]
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def environment(threads: int) -> dict[str, Any]:
    """Where and with what this ran."""
    import onnxruntime

    return {
        "cpu": cpu_model(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "threads": threads,
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }


def cpu_model() -> str | None:
    """The processor's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line.split(":", 1) for line in file if ":" in line]
    except OSError:
        lines = []
    names = {key.strip().lower(): value.strip() for key, value in lines}
    return names.get("model name") or names.get("model") or names.get("hardware") or platform.processor() or None


def checked(request: dict[str, Any]) -> dict[str, Any]:
    """The request with defaults filled in; raises ValueError for a key or figure that makes no sense."""
    unknown = sorted(request.keys() - REQUEST.keys())
    if unknown:
        raise ValueError(f"unknown key '{unknown[0]}' in the request")
    full = REQUEST | request
    if not full["model"]:
        raise ValueError("the request names no model")
    for key in ("threads", "burst_frames", "limit_s"):
        if not full[key] > 0:
            raise ValueError(f"{key} = {full[key]}: must be above 0")
    if full["hop_ms"] is not None and not full["hop_ms"] > 0:
        raise ValueError(f"hop_ms = {full['hop_ms']}: must be above 0")
    return full


def main() -> int:
    try:
        reply = answer(json.loads(sys.stdin.read()))
    except Exception as error:  # whatever goes wrong on a device must come back as one line
        print(json.dumps({"error": " ".join(f"{error or type(error).__name__}".split())}))
        return 1
    print(json.dumps(reply))
    return 0


if __name__ == "__main__":
    sys.exit(main())
