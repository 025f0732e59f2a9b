"""When a blow falls: at any second, or at the turns of a trial where most could go wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from command import Command

PATIENCE_S = 45.0


class Moment(NamedTuple):
    """What is waited for, and how long after it the blow falls."""

    event: str
    delay_s: float

    def __str__(self) -> str:
        return f"{self.delay_s:.2f} s after {self.event}"


EVENTS = {  # to the longest delay after it, s
    "the start": 14.0,
    "a checkpoint": 0.4,
    "a checkpoint begins": 0.004,
    "the weights": 0.3,
    "a result": 0.06,
    "a line of the driver": 0.08,
    "an export": 0.5,
}
FILES = {
    "a checkpoint": "trials/*/checkpoint.pt",
    "a checkpoint begins": "trials/*/checkpoint.partial",
    "the weights": "trials/*/model.safetensors",
    "a result": "trials/*/result.json",
    "an export": "trials/*/untrained.onnx",
}


def draw(rng: random.Random, events: tuple[str, ...] = tuple(EVENTS)) -> Moment:
    event = rng.choice(events)
    return Moment(event, rng.uniform(0, EVENTS[event]))


def come(moment: Moment, command: Command, folder: Path, rng: random.Random) -> bool:
    """Waits for the moment; False if the command ended before."""
    skipped = rng.randrange(3) if moment.event != "the start" else 0  # not always the first of its kind
    happened = _watch(moment.event, command, folder)
    for _ in range(skipped + 1):
        ends = time.monotonic() + PATIENCE_S
        while not happened():
            if command.ended or time.monotonic() > ends:
                return not command.ended  # it never came: strike now
            time.sleep(0.002)
    ends = time.monotonic() + moment.delay_s
    while time.monotonic() < ends and not command.ended:
        time.sleep(min(0.02, max(0.0, ends - time.monotonic())))
    return not command.ended


def _watch(event: str, command: Command, folder: Path) -> Callable[[], bool]:
    """Whether it has happened since the last time it was asked."""
    if event == "the start":
        return lambda: True

    def state() -> object:
        if event not in FILES:
            return len(command.lines)
        found = []
        for path in folder.glob(FILES[event]):
            try:
                found.append((path, path.stat().st_mtime_ns))
            except FileNotFoundError:
                continue
        return sorted(found)

    last = [state()]

    def happened() -> bool:
        now = state()
        changed = now != last[0] and bool(now)
        last[0] = now
        return changed

    return happened
