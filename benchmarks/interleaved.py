"""Times of several streaming ONNX files, in turn: what slows the machine for a while slows all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from search.agent.stream import Stream, open_session

WARM_UP = 300


def burst_ms(files: Mapping[str, Path], frames: int, rounds: int) -> dict[str, list[float]]:
    """Single times of ``rounds`` bursts of ``frames`` calls of each file, ms, on one thread of this machine."""
    streams = {name: Stream(open_session(str(path), 1)) for name, path in files.items()}
    found: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(rounds):
        for name, stream in streams.items():
            for _ in range(WARM_UP):
                stream()
            for _ in range(frames):
                began = time.perf_counter()
                stream()
                found[name].append(1000 * (time.perf_counter() - began))
    return found
