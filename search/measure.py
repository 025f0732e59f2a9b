"""What is known of a student by running it: the latency of its ONNX file, timed in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from search.agent import timing
from search.device import DeviceProfile, require_measurable
from search.device_lock import DeviceLock
from search.latency import Latency, Paced, Spread, latency_from
from sekd.errors import InputError

__all__ = ["Latency", "MeasurementFailed", "Paced", "Spread", "measure"]

LIMIT_S = 5.0
STARTUP_S = 30.0  # a loaded machine may take this long to start Python and load onnxruntime


class MeasurementFailed(Exception):
    """No latency could be had; one line says why. There is no number then, not even a bad one."""


def measure(
    model: Path,
    device: DeviceProfile,
    *,
    hop_ms: float | None = None,
    frames: int = 128,
    burst_frames: int = 1000,
    processes: int = 1,
    paced: bool = True,
    lock: DeviceLock | None = None,
    limit_s: float = LIMIT_S,
) -> Latency:
    """Latency of ``model`` on this machine as ``device`` asks (threads, cores), in fresh child processes.

    Args:
        model: any ONNX with static float shapes whose states pair, see :mod:`search.agent.timing`.
        hop_ms: time between frames; without it the model's metadata say, else paced figures are None.
        frames: calls at one per hop, in each process; they take as long as the audio they stand for.
        burst_frames: calls back to back, which cost next to nothing.
        processes: how many children; between two the median differs by 1 to 2 % on an idle machine.
        paced: False leaves out the frames at their own pace.
        lock: held while a child runs, so that training stands still.
        limit_s: of each child, shortening what would take longer.

    Raises:
        InputError: latency on the device is not obtained on this machine.
        MeasurementFailed: the model is no such ONNX, crashed, hung, or was too slow for a median.
    """
    require_measurable(device)
    if device.latency != "local":
        raise InputError(f"device '{device.name}': latency = \"{device.latency}\" is not measured here")
    request = {
        "model": str(Path(model).resolve()),
        "threads": device.threads,
        "cores": device.cores,
        "hop_ms": hop_ms,
        "burst_frames": burst_frames,
        "paced_frames": frames if paced else 0,
        "limit_s": limit_s,
    }
    replies = []
    for _ in range(processes):
        with lock.exclusive() if lock else nullcontext():
            replies.append(_in_child(request, timeout_s=limit_s + STARTUP_S))
    try:
        return latency_from(replies, "local")
    except ValueError as error:
        raise MeasurementFailed(f"{model}: {error}") from error


def _in_child(request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The reply of one fresh process; raises MeasurementFailed."""
    model = request["model"]
    # -I: neither the folder nor the environment of the caller decides what is imported.
    command = [sys.executable, "-I", timing.__file__]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), env=_environment(), capture_output=True, text=True,
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise MeasurementFailed(f"{model}: no answer within {timeout_s:g} s") from error
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        raise MeasurementFailed(f"{model}: {_how_it_died(done)}") from None
    if "error" in reply:
        raise MeasurementFailed(f"{model}: {reply['error']}")
    return reply


def _environment() -> dict[str, str]:
    """As little as Python needs, so that a caller's settings cannot change the figures."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "HOME") if key in os.environ}
    return kept | {"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}


def _how_it_died(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"the measuring process was killed by {signal.Signals(-done.returncode).name}"
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"the measuring process ended with {done.returncode}: {last}"
