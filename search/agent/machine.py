"""The machine a measurement ran on: what it is, how busy it was, how warm. What the system does not say is None."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

THERMAL = Path("/sys/class/thermal")
CPUS = Path("/sys/devices/system/cpu")


def pin(cores: Sequence[int]) -> None:
    """Keeps this process on ``cores``; raises ValueError where they are not to be had."""
    try:
        os.sched_setaffinity(0, cores)
    except (AttributeError, OSError) as error:
        raise ValueError(f"cannot run on cores {list(cores)}: {error}") from error


class Load:
    """What else ran on the machine since this was made."""

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


def fingerprint() -> dict[str, Any]:
    """What makes two measurements comparable: processor, cores, governor, system, versions."""
    import onnxruntime

    return {
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "governor": governor(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def affinity() -> list[int] | None:
    """Cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def governor() -> str | None:
    """How the first core's clock is governed."""
    return _text(CPUS / "cpu0" / "cpufreq" / "scaling_governor")


def temperature_c() -> float | None:
    """The hottest sensor, degrees Celsius."""
    readings = [_text(zone / "temp") for zone in sorted(THERMAL.glob("thermal_zone*"))]
    degrees = [int(text) / 1000 for text in readings if text is not None and text.lstrip("-").isdigit()]
    return max(degrees, default=None)


def cpu_model() -> str | None:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line.split(":", 1) for line in file if ":" in line]
    except OSError:
        lines = []
    names = {key.strip().lower(): value.strip() for key, value in lines}
    return names.get("model name") or names.get("model") or names.get("hardware") or platform.processor() or None


def memory_bytes() -> dict[str, int | None]:
    """Resident memory of this process: ``now`` and ``peak``."""
    lines = (_text(Path("/proc/self/status")) or "").splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}
    now, peak = found.get("VmRSS"), found.get("VmHWM")
    return {"now": int(now) * 1024 if now else None, "peak": int(peak) * 1024 if peak else None}


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None
