"""What a backend is: somewhere trials run. It decides nothing and records nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from search.record import TrialRecord
from search.trial import Job


class Progress(NamedTuple):
    """A running trial told where it is; ``share`` of the stage is done."""

    number: int
    stage: str
    share: float


class Done(NamedTuple):
    """A trial ended with a record of its own."""

    number: int
    record: TrialRecord


class Died(NamedTuple):
    """A trial ended without one: its process was killed or crashed."""

    number: int
    reason: str
    disk_full: bool = False  # then it is the machine's fault, and trying again does not help
    final: bool = False  # the backend has tried again as often as is worth it


Event = Progress | Done | Died


class Backend(ABC):
    """Runs jobs, at most ``slots`` at once."""

    slots: int

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Starts ``job`` with its resources; the caller keeps to ``slots``."""

    @abstractmethod
    def collect(self, timeout_s: float) -> list[Event]:
        """What happened, waiting up to ``timeout_s`` for something to happen."""

    @abstractmethod
    def cancel(self, number: int) -> None:
        """Ends one trial, which saves a checkpoint first if it can; no later event is of it."""

    @abstractmethod
    def stop(self, *, now: bool = False) -> None:
        """Ends all work: running trials save a checkpoint first, unless ``now``."""
