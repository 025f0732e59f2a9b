"""When frames are called: warm-up, back to back, or one per hop. Clocks come from outside: tests have their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .percentiles import percentile

WINDOW = 32  # calls whose median warm-up compares with that of the next ones
STABLE = 0.02

Clock = Callable[[], float]  # seconds
Sleep = Callable[[float], None]
Call = Callable[[], Any]


def time_burst(call: Call, frames: int, until_s: float, clock: Clock) -> list[float]:
    """Seconds of each call, back to back; fewer than ``frames`` if ``until_s`` on the clock comes first."""
    samples: list[float] = []
    while len(samples) < frames and clock() < until_s:
        start = clock()
        call()
        samples.append(clock() - start)
    return samples


def time_paced(
    call: Call, frames: int, hop_s: float, until_s: float, clock: Clock, sleep: Sleep
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


def warm_up(call: Call, least_s: float, until_s: float, clock: Clock) -> int:
    """Calls for ``least_s`` and until the medians of two windows agree within 2 %; how many it took.

    It ends at ``until_s`` on the clock in any case.
    """
    began, before, calls = clock(), 0.0, 0
    while clock() < until_s:
        window = time_burst(call, WINDOW, until_s, clock)
        calls += len(window)
        if not window:
            break
        now = percentile(window, 0.5)
        steady = len(window) == WINDOW and abs(now - before) <= STABLE * before
        if steady and clock() - began >= least_s:
            break
        before = now
    return calls
