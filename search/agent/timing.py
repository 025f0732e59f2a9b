"""Times a streaming ONNX model frame by frame: one JSON request on stdin, one JSON reply on stdout.

The request holds ``model`` and, optionally, the other keys of ``REQUEST``. A failure is a reply with the one key
``error`` and exit code 1. ``burst`` calls back to back (capacity); ``paced`` calls once per hop, as in use, where
caches have gone cold and the core has slept. Both feed real audio and the states back. Times are those of the call
alone; a paced frame is missed if it is done later than one hop after it came due, whatever the reason.

A small fixed network, the canary, is timed before and after: where it changed speed, so may the model have done.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

from .machine import Load, affinity, fingerprint, memory_bytes, pin, temperature_c
from .pacing import Call, Clock, Sleep, time_burst, time_paced, warm_up
from .percentiles import percentile, summarise
from .signals import data_file
from .stream import Stream, open_session

REQUEST: dict[str, Any] = {
    "model": None,
    "threads": 1,
    "spinning": False,
    "provider": "CPUExecutionProvider",
    "cores": None,
    "hop_ms": None,
    "burst_frames": 128,
    "paced_frames": 128,
    "paced_s": 0.0,  # at least so long at one frame per hop
    "canary_at_most_ms": None,  # a slower machine is not measured; the reply then has the one key ``slow_canary_ms``
    "warmup_s": 1.0,  # at least
    "limit_s": 5.0,
}
MOST = {"threads": 256, "burst_frames": 10**6, "paced_frames": 10**6, "paced_s": 3600, "warmup_s": 60, "limit_s": 3600}
CANARY_FRAMES = 256
CANARY_WARMUP_S = 0.05


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
    load, warmth, canary = Load(), temperature_c(), Canary(clock)
    canary.time()
    if request["canary_at_most_ms"] is not None and canary.medians_ms[0] > request["canary_at_most_ms"]:
        return {"slow_canary_ms": canary.medians_ms[0]}
    memory = memory_bytes()["now"]
    before = clock()
    session = open_session(
        request["model"], request["threads"], spinning=request["spinning"], provider=request["provider"]
    )
    opened = clock()
    stream = Stream(session)
    prepared = clock()
    stream()
    first = clock()
    hop_ms = hop_of(request, stream.metadata)
    reply = time_steadily(stream, request, hop_ms, until - canary.seconds, clock, sleep)
    peak = memory_bytes()["peak"]
    canary.time()
    return {
        "session_ms": 1000 * (opened - before),
        "first_call_ms": 1000 * (first - prepared),
        "hop_ms": hop_ms,
        **reply,
        "canary_ms": canary.medians_ms,
        "memory_bytes": {"before_session": memory, "peak": peak},
        "temperature_c": [warmth, temperature_c()],
        "seconds": clock() - began,
        "environment": {**fingerprint(), "threads": request["threads"], "cores": affinity(), **load.figures()},
    }


class Canary:
    """A fixed network on one thread of the processor, whatever the model runs on."""

    def __init__(self, clock: Clock) -> None:
        began = clock()
        self._clock, self._call = clock, Stream(open_session(data_file("canary.onnx"), 1))
        self.seconds = clock() - began  # of making it, and later of one timing
        self.medians_ms: list[float] = []

    def time(self) -> None:
        """One median more."""
        began, forever = self._clock(), math.inf
        warm_up(self._call, CANARY_WARMUP_S, began + 1.0, self._clock)
        self.medians_ms.append(1000 * percentile(time_burst(self._call, CANARY_FRAMES, forever, self._clock), 0.5))
        self.seconds = self._clock() - began


def time_steadily(
    call: Call, request: dict[str, Any], hop_ms: float | None, until: float, clock: Clock, sleep: Sleep
) -> dict[str, Any]:
    """Warm-up, burst, pace. Pace keeps its share of the time that is left, at most half of it."""
    left = until - clock()
    frames = paced_frames(request, hop_ms)
    burst_until = until - min((frames + 1) * (hop_ms or 0) / 1000, left / 2)
    # What does not settle within twice the least is not going to: its spread will say so.
    warm_until = clock() + min(2 * request["warmup_s"], (burst_until - clock()) / 2)
    warm = warm_up(call, request["warmup_s"], warm_until, clock)
    burst = time_burst(call, request["burst_frames"], burst_until, clock)
    reply: dict[str, Any] = {"warmup_calls": warm, "burst": summarise(burst), "burst_us": _us(burst)}
    if hop_ms is None:
        reason = "hop unknown: not in the model's metadata and not given"
        return {**reply, "paced": None, "paced_reason": reason, "paced_us": []}
    paced, missed = time_paced(call, frames, hop_ms / 1000, until, clock, sleep)
    share = {"miss_share": missed / len(paced) if paced else None, "hop_ms": hop_ms}
    return {**reply, "paced": {**summarise(paced), **share}, "paced_reason": None, "paced_us": _us(paced)}


def paced_frames(request: dict[str, Any], hop_ms: float | None) -> int:
    """How many frames are called at their own pace."""
    if hop_ms is None or not request["paced_frames"]:
        return 0
    return max(request["paced_frames"], math.ceil(1000 * request["paced_s"] / hop_ms))


def _us(samples_s: list[float]) -> list[float]:
    return [round(1e6 * sample, 1) for sample in samples_s]


def hop_of(request: dict[str, Any], metadata: dict[str, str]) -> float | None:
    """ms between frames: as requested, else as the model's metadata say, else unknown."""
    if request["hop_ms"] is not None:
        return float(request["hop_ms"])
    try:
        hop_ms = 1000 * float(metadata["hop_length"]) / float(metadata["sample_rate"])
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    return hop_ms if 0 < hop_ms < math.inf else None


def checked(request: dict[str, Any]) -> dict[str, Any]:
    """The request with defaults filled in; raises ValueError for a key or figure that makes no sense."""
    unknown = sorted(set(request) - set(REQUEST))
    if unknown:
        raise ValueError(f"unknown key '{unknown[0]}' in the request")
    full = {**REQUEST, **request}
    if not isinstance(full["model"], str) or not full["model"]:
        raise ValueError("the request names no model")
    for key, most in MOST.items():
        _number(key, full[key], 0, most, whole=isinstance(REQUEST[key], int))
    for key in ("threads", "burst_frames", "limit_s"):
        if not full[key] > 0:
            raise ValueError(f"{key} = {full[key]}: must be above 0")
    for key in ("hop_ms", "canary_at_most_ms"):
        if full[key] is not None:
            _number(key, full[key], 0, 1e5)
            if not full[key] > 0:
                raise ValueError(f"{key} = {full[key]}: must be above 0")
    if not isinstance(full["spinning"], bool) or not isinstance(full["provider"], str):
        raise ValueError("spinning is true or false, provider the name of an execution provider")
    cores = full["cores"]
    if cores is not None and not (isinstance(cores, list) and all(type(core) is int and core >= 0 for core in cores)):
        raise ValueError(f"cores = {cores}: must be a list of indices")
    return full


def _number(key: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ValueError(f"{key} = {value!r}: must be a {'whole ' if whole else ''}number from {low:g} to {high:g}")


def main() -> int:
    try:
        reply = answer(json.loads(sys.stdin.read()))
    except Exception as error:  # whatever goes wrong on a device must come back as one line
        print(json.dumps({"error": " ".join(str(error or type(error).__name__).split())}))
        return 1
    print(json.dumps(reply))
    return 0


if __name__ == "__main__":
    sys.exit(main())
