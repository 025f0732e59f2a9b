"""What of a study is this driver's: its own trials, those of the dead, and what others are at."""

from __future__ import annotations

import time
from collections.abc import Collection

from search.drivers import Roll
from search.store import Store


class Sharing:
    """Trials under way as one driver sees them, beside others or alone.

    What others do is read at once where there are any, else every ``every_s``, to see whether there are.
    """

    def __init__(self, store: Store, roll: Roll, every_s: float) -> None:
        self._store, self._roll, self._every_s = store, roll, every_s
        self._look()

    def _look(self) -> None:
        self._looked = time.monotonic()
        self._at_work = {self._roll.me.id, *(driver.id for driver in self._roll.others())}

    def look_around(self) -> bool:
        """Reads what others wrote, if it is time; whether it did."""
        due = time.monotonic() - self._looked >= self._every_s
        if due:
            self._look()
        if due or len(self._at_work) > 1:
            self._store.refresh()
            return True
        return False

    def seems_orphaned(self, own: Collection[int]) -> bool:
        """Whether a trial has no driver, by what was seen last: a driver that has just come is not known yet."""
        mine, under_way = self._roll.me.id, self._store.running()
        # One of this driver's that it does not know: asked for, and the answer was lost with the connection.
        return any(n not in own if trial.owner == mine else trial.owner not in self._at_work
                   for n, trial in under_way.items())  # fmt: skip

    def orphan(self, own: Collection[int]) -> int | None:
        """An interrupted trial that nobody is at work on; it is this driver's from now on."""
        if not self.seems_orphaned(own):
            return None
        self._look()
        mine = self._roll.me.id

        def is_orphan(number: int, owner: str | None) -> bool:
            # Read anew, after the trials were: whoever owns one was on the roll before.
            return number not in own if owner == mine else not self._roll.is_at_work(owner)

        return self._store.take_over(is_orphan, mine)

    def lost(self, own: Collection[int]) -> list[int]:
        """Trials that another driver has taken over, having seen no sign of life of this one."""
        under_way = self._store.running()
        return [n for n in own if n not in under_way or under_way[n].owner != self._roll.me.id]

    def is_twin(self, number: int) -> bool:
        """Whether a trial with a lower number and the same settings has not ended."""
        under_way = self._store.running()
        own = under_way.get(number)
        if own is None:  # another driver's by now: `lost` says so at the next look around
            return True
        return any(other < number and trial.settings == own.settings for other, trial in under_way.items())
