"""Workers that only pass the time: trials of made-up length on a clock that jumps, answers from a table."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable

from search.backends.base import Backend, Done, Event
from search.record import TrialRecord
from search.trial import Job

SPREAD = 0.5  # of the logarithm of a trial's length


def length_s(number: int, mean_s: float) -> float:
    """How long a trial trains: log-normal, drawn by its number."""
    return mean_s * math.exp(random.Random(number).gauss(-(SPREAD**2) / 2, SPREAD))


class FakeClock(Backend):
    """What the driver does between two calls takes the time that it takes; a trial takes none but on the clock."""

    def __init__(
        self, slots: int, mean_s: float, lookup: Callable[[Job], TrialRecord], clock: Callable[[], float]
    ) -> None:
        self.slots, self._mean_s, self._lookup = slots, mean_s, lookup
        self._work: list[tuple[float, int, Job]] = []
        self._freed: deque[float] = deque()
        self._clock = clock
        self._now, self._left = 0.0, clock()
        self.trained_s = self.waited_s = 0.0  # of all workers, from their second trials on

    @property
    def utilisation(self) -> float:
        return self.trained_s / (self.trained_s + self.waited_s)

    def submit(self, job: Job) -> None:
        self._now += self._clock() - self._left
        length = length_s(job.number, self._mean_s)
        heapq.heappush(self._work, (self._now + length, job.number, job))
        if self._freed:
            self.waited_s += self._now - self._freed.popleft()
            self.trained_s += length
        self._left = self._clock()

    def collect(self, timeout_s: float) -> list[Event]:
        self._now += self._clock() - self._left
        ended, number, job = heapq.heappop(self._work)
        self._now = max(self._now, ended)
        self._freed.append(ended)
        record = self._lookup(job)
        self._left = self._clock()
        return [Done(number, record)]

    def cancel(self, number: int) -> None:
        self._work = [work for work in self._work if work[1] != number]
        heapq.heapify(self._work)

    def stop(self, *, now: bool = False) -> None:
        self._work.clear()


def on_paper(
    workers: int, trials: int, mean_s: float, cost_s: Callable[[int], float]
) -> list[tuple[int, float, float]]:
    """The same without a driver: (trials ended, hours, share of the workers' time spent training since the last).

    Args:
        cost_s: what the driver needs for one trial after so many.
    """
    ends: list[float] = []
    now = trained = waited = 0.0
    marks, found = [10**k * m for k in range(1, 7) for m in (1, 3)], []
    for number in range(trials + workers):
        freed = heapq.heappop(ends) if number >= workers else None
        now = max(now, freed or 0.0) + cost_s(number)
        length = length_s(number, mean_s)
        heapq.heappush(ends, now + length)
        if freed is not None:
            waited, trained = waited + now - freed, trained + length
        ended = number - workers + 1
        if ended in marks or ended == trials:
            found.append((ended, now / 3600, trained / (trained + waited)))
            trained = waited = 0.0
    return found
