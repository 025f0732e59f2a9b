"""Recorded results instead of training: searches are tested, replayed and compared in seconds."""

from __future__ import annotations

from collections.abc import Callable

from search.backends.base import Backend, Done, Event
from search.record import TrialRecord
from search.trial import Job


class TableBackend(Backend):
    """Answers each job with what ``lookup`` knows of it, in the order of submission."""

    def __init__(self, lookup: Callable[[Job], TrialRecord], slots: int = 1) -> None:
        self.slots = slots
        self._lookup = lookup
        self._waiting: list[Job] = []
        self.submitted: list[Job] = []

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self.submitted.append(job)

    def collect(self, timeout_s: float) -> list[Event]:
        if not self._waiting:
            return []
        job = self._waiting.pop(0)
        return [Done(job.number, self._lookup(job))]

    def cancel(self, number: int) -> None:
        self._waiting = [job for job in self._waiting if job.number != number]

    def stop(self, *, now: bool = False) -> None:
        self._waiting.clear()
