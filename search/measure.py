"""What is known of a student by running it: the latency of its ONNX file, timed in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from search.canary import MOVED, Reference
from search.device import DeviceProfile, require_measurable
from search.device_lock import DeviceLock
from search.graphs.graph import graph_facts
from search.latency import Latency, MeasurementFailed, latency_from
from search.remote import run_on_agent
from sekd.errors import InputError

__all__ = ["CERTIFICATE", "LEVELS", "RANKING", "SCREENING", "Latency", "Level", "MeasurementFailed", "measure"]

ROOT = Path(__file__).parents[1]
CHILD = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: nobody waits for the figures of a worker that was killed
if os.getppid() != int(sys.argv[2]):  # it died before we asked to be told
    sys.exit(1)
sys.path.insert(0, sys.argv[1])
from search.agent.timing import main
sys.exit(main())
"""
STARTUP_S = 30.0  # a loaded machine may take this long to start Python and load onnxruntime
ATTEMPTS = 3  # at a process through which the canary kept its speed
PAUSE_S = 1.0  # before a device that is slower than it was is asked again


class Level(NamedTuple):
    """How much is measured: frames of each mode and process, least time at one frame per hop, and time limit, s."""

    name: str
    burst_frames: int
    paced_frames: int
    processes: int
    paced_s: float
    limit_s: float


SCREENING = Level("screening", 128, 128, 1, 0.0, 5.0)  # before training: does it fit at all
RANKING = Level("ranking", 662, 221, 3, 0.0, 20.0)  # of a front: paced, 662 frames in all three processes together
CERTIFICATE = Level("certificate", 1024, 1024, 3, 10.0, 120.0)  # of the student that is handed over
LONG_HOP_MS = 100.0  # from here on a hop is a segment: nobody waits for hundreds of them, one a second
SEGMENTS = {"screening": (44, 30.0), "ranking": (90, 60.0), "certificate": (153, 300.0)}  # how many, and limit, s
LEVELS = {level.name: level for level in (SCREENING, RANKING, CERTIFICATE)}


def for_hop(level: Level, hop_ms: float | None) -> Level:
    """``level``, or, of a network that hears segments, what it is for them: fewer calls, all of them back to back."""
    if hop_ms is None or hop_ms < LONG_HOP_MS:
        return level
    calls, limit_s = SEGMENTS[level.name]
    return level._replace(burst_frames=calls, paced_frames=0, paced_s=0.0, limit_s=limit_s)


def measure(
    model: Path,
    device: DeviceProfile,
    *,
    level: Level = SCREENING,
    hop_ms: float | None = None,
    lock: DeviceLock | None = None,
    samples: Path | None = None,
) -> Latency:
    """Latency of ``model`` as ``device`` asks (threads, cores ...), each process a fresh one.

    Args:
        model: any ONNX with static float shapes whose states pair, see :mod:`search.agent.timing`.
        hop_ms: time between frames; without it the model's metadata say, else paced figures are None.
        lock: held while a process runs, so that training stands still; beside it lies how fast the device can be.
        samples: where every single time goes, as ``.npz``.

    Raises:
        InputError: latency on the device is not measured.
        MeasurementFailed: the model is no such ONNX, crashed, hung, or was too slow for a median.
    """
    require_measurable(device)
    level = for_hop(level, hop_ms or _hop_ms(model))
    if device.latency not in _RUN:
        raise InputError(f"device '{device.name}': latency = \"{device.latency}\" is not measured here")
    request = {
        "threads": device.threads,
        "spinning": device.spinning,
        "provider": device.provider,
        "cores": None if device.cores is None else list(device.cores),
        "hop_ms": hop_ms,
        "burst_frames": level.burst_frames,
        "paced_frames": level.paced_frames,
        "paced_s": level.paced_s,
        "limit_s": level.limit_s,
    }
    reference = None if lock is None else Reference(lock.folder / f"canary-{device.name}.json")
    replies = [_undisturbed(device, model, request, lock, reference) for _ in range(level.processes)]
    try:
        latency = latency_from(replies, device.latency, level=level.name)  # type: ignore[arg-type]
    except ValueError as error:
        raise MeasurementFailed(f"{model}: {error}") from error
    if samples is not None:
        keep_samples(replies, samples)
    return latency if reference is None else reference.compared(latency)


def _hop_ms(model: Path) -> float | None:
    """What the file says; what is wrong with it, the process that opens it will say."""
    try:
        return graph_facts(model).hop_ms
    except InputError:
        return None


def _undisturbed(
    device: DeviceProfile,
    model: Path,
    request: dict[str, Any],
    lock: DeviceLock | None,
    reference: Reference | None,
) -> dict[str, Any]:
    """The reply of a process before and after which the canary was as fast as ever.

    A slow canary is waited for, a moved one makes the reply worth nothing; the third reply is taken as it is.
    """
    attempts, moved, reply = 0, True, {}
    while moved and attempts < ATTEMPTS:
        attempts += 1
        limit = reference.at_most_ms() if reference is not None and attempts < ATTEMPTS else None
        # A reserved core has nothing of ours on it but measurements, which still exclude each other.
        with lock.exclusive(trainers=not device.reserve) if lock else nullcontext():
            reply = _RUN[device.latency](device, model, {**request, "canary_at_most_ms": limit})
        if "slow_canary_ms" in reply:
            time.sleep(PAUSE_S)
            continue
        before, after = reply["canary_ms"]
        moved = max(before, after) > (1 + MOVED) * min(before, after)
    return {**reply, "attempts": attempts, "canary_moved": moved}


def keep_samples(replies: Sequence[dict[str, Any]], path: Path) -> None:
    """Every time of every process in units of 0.1 us, whole or not at all: ``burst_0``, ``paced_0``, ``burst_1`` ..."""
    times = {
        f"{mode}_{process}": np.round(np.multiply(10, reply[f"{mode}_us"])).astype(np.int32)
        for process, reply in enumerate(replies)
        for mode in ("burst", "paced")
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(partial, **times)  # type: ignore[arg-type]
    partial.replace(path)


def run_here(device: DeviceProfile, model: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The reply of one fresh process of this machine; raises MeasurementFailed."""
    # -I: neither the folder nor the environment of the caller decides what is imported.
    command = [sys.executable, "-I", "-c", CHILD, str(ROOT), str(os.getpid())]
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


_RUN = {"local": run_here, "agent": run_on_agent}  # how one process is run, by the profile's ``latency``


def _environment() -> dict[str, str]:
    """As little as Python needs, so that a caller's settings cannot change the figures."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "HOME") if key in os.environ}
    return kept | {"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}


def _how_it_died(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"the measuring process was killed by {signal.Signals(-done.returncode).name}"
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"the measuring process ended with {done.returncode}: {last}"
