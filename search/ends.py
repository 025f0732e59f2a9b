"""When a search ends, and what counts towards it."""

from __future__ import annotations

from collections.abc import Sequence

from search.record import TrialRecord

INFEASIBLE_IN_A_ROW = 200
ASKS_PER_TRIAL = 20
DUPLICATES_IN_A_ROW = 20


class Interrupted(Exception):
    """Ctrl-C: everything finished is on record."""


class NothingFits(Exception):
    """No student keeps to the budget; carries the ones that came nearest."""

    def __init__(self, message: str, nearest: list[TrialRecord]) -> None:
        super().__init__(message)
        self.nearest = nearest


def counts(record: TrialRecord) -> bool:
    """Whether a trial counts against ``trials``: infeasible ones and duplicates are free."""
    return record.status in ("COMPLETE", "STOPPED", "FAILED") and record.duplicate_of is None


def exhausted(records: Sequence[TrialRecord], trials: int) -> str | None:
    """Why asking further is pointless, if it is."""
    if len(records) >= ASKS_PER_TRIAL * trials:
        return f"{len(records)} proposals for {trials} trials: the search ends here"
    tail = [record.status == "INFEASIBLE" for record in records[-INFEASIBLE_IN_A_ROW:]]
    if len(tail) == INFEASIBLE_IN_A_ROW and all(tail):
        return f"{INFEASIBLE_IN_A_ROW} proposals in a row were over budget: the search ends here"
    tail = [record.duplicate_of is not None for record in records[-DUPLICATES_IN_A_ROW:]]
    if len(tail) == DUPLICATES_IN_A_ROW and all(tail):
        return f"{DUPLICATES_IN_A_ROW} proposals in a row were known already: the space is exhausted"
    return None
