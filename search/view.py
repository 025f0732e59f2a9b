"""Somebody who watches a search."""

from __future__ import annotations

from typing import Any

from search.record import TrialRecord


class View:
    """Hears of every event; the commands print, tests collect, and this one does neither."""

    def say(self, line: str) -> None:
        """An event worth a line."""

    def trial_started(self, number: int, params: dict[str, Any]) -> None:
        """A trial was given to a worker."""

    def trial_moved(self, number: int, stage: str, share: float) -> None:
        """A running trial told how far it is."""

    def trial_ended(self, record: TrialRecord, done: int, wanted: int) -> None:
        """A trial is on record."""

    def close(self) -> None:
        """The search is over."""
