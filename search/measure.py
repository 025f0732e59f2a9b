"""What is known of a student by running it: the latency of its ONNX file, timed in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from search.agent import timing
from search.device import DeviceProfile, require_measurable
from search.device_lock import DeviceLock
from search.latency import Latency, MeasurementFailed, Paced, Spread, latency_from
from sekd.errors import InputError

__all__ = ["CERTIFICATE", "RANKING", "SCREENING", "Latency", "Level", "MeasurementFailed", "Paced", "Spread", "measure"]

STARTUP_S = 30.0  # a loaded machine may take this long to start Python and load onnxruntime


class Level(NamedTuple):
    """How much is measured: frames of each mode and process, and the time that one process may take."""

    name: str
    burst_frames: int
    paced_frames: int
    processes: int
    limit_s: float


SCREENING = Level("screening", 128, 128, 1, 5.0)  # before training: does it fit at all
RANKING = Level("ranking", 662, 221, 3, 15.0)  # of a front: the p99 of all frames together has its bound
CERTIFICATE = Level("certificate", 1024, 1024, 3, 60.0)  # of the student that is handed over


def measure(
    model: Path,
    device: DeviceProfile,
    *,
    level: Level = SCREENING,
    hop_ms: float | None = None,
    lock: DeviceLock | None = None,
) -> Latency:
    """Latency of ``model`` as ``device`` asks (threads, cores ...), each process a fresh one.

    Args:
        model: any ONNX with static float shapes whose states pair, see :mod:`search.agent.timing`.
        hop_ms: time between frames; without it the model's metadata say, else paced figures are None.
        lock: held while a child runs, so that training stands still.

    Raises:
        InputError: latency on the device is not measured.
        MeasurementFailed: the model is no such ONNX, crashed, hung, or was too slow for a median.
    """
    require_measurable(device)
    if device.latency not in _RUN:
        raise InputError(f"device '{device.name}': latency = \"{device.latency}\" is not measured here")
    request = {
        "threads": device.threads,
        "cores": device.cores,
        "hop_ms": hop_ms,
        "burst_frames": level.burst_frames,
        "paced_frames": level.paced_frames,
        "limit_s": level.limit_s,
    }
    replies = []
    for _ in range(level.processes):
        with lock.exclusive() if lock else nullcontext():
            replies.append(_RUN[device.latency](device, model, request))
    try:
        return latency_from(replies, "local")
    except ValueError as error:
        raise MeasurementFailed(f"{model}: {error}") from error


def run_here(device: DeviceProfile, model: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The reply of one fresh process of this machine; raises MeasurementFailed."""
    # -I: neither the folder nor the environment of the caller decides what is imported.
    command = [sys.executable, "-I", timing.__file__]
    text = json.dumps({**request, "model": str(Path(model).resolve())})
    timeout_s = request["limit_s"] + STARTUP_S
    try:
        done = subprocess.run(
            command, input=text, env=_environment(), capture_output=True, text=True, timeout=timeout_s
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


_RUN = {"local": run_here}  # how one process is run, by the profile's ``latency``


def _environment() -> dict[str, str]:
    """As little as Python needs, so that a caller's settings cannot change the figures."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "HOME") if key in os.environ}
    return kept | {"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}


def _how_it_died(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"the measuring process was killed by {signal.Signals(-done.returncode).name}"
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"the measuring process ended with {done.returncode}: {last}"
