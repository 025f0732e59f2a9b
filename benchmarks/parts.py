"""Where the driver's time goes: each moment is put down to the innermost part that is at work."""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from optuna.samplers import GPSampler, RandomSampler, TPESampler

import search.proposals
import search.ranking
import search.tuner
from search.store import Store
from search.variants import Speakers

SAMPLERS = [(TPESampler, "sample_independent"), (RandomSampler, "sample_independent"), (GPSampler, "sample_relative")]
READS = ("get_all_trials", "get_trial", "get_study_user_attrs", "get_study_system_attrs", "get_study_directions")
WRITES = (
    "create_new_trial", "set_trial_param", "set_trial_state_values", "set_trial_user_attr", "set_trial_system_attr",
    "set_study_user_attr",
)  # fmt: skip
NAMES = ("sampler", "twin", "read", "write", "records", "speakers", "front", "rest")
WORKERS = "workers"  # no part of the driver


class Parts:
    """Seconds by part, of the thread that made this."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock, self._thread = clock, threading.get_ident()
        self._at_work, self._since = ["rest"], clock()

    def clear(self) -> None:
        self._turn()
        self.seconds.clear()

    def _turn(self) -> None:
        now = self._clock()
        self.seconds[self._at_work[-1]] += now - self._since
        self._since = now

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        self._turn()
        self._at_work.append(name)
        try:
            yield
        finally:
            self._turn()
            self._at_work.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def work(*args: Any, **options: Any) -> Any:
            if threading.get_ident() != self._thread:  # signs of life of a driver
                return function(*args, **options)
            with self.of(name):
                return function(*args, **options)

        return work

    @contextmanager
    def watching(self, storage: Any) -> Iterator[None]:
        """Times whatever the driver calls of these, and ``storage`` alone of its kind: the twin has one, too."""
        watched: list[tuple[str, Any, str]] = [
            *(("sampler", owner, name) for owner, name in SAMPLERS),
            ("twin", search.proposals, "twin_of"),
            ("twin", search.proposals, "as_today"),
            *(("read", storage, name) for name in READS),
            *(("write", storage, name) for name in WRITES),
            ("records", Store, "records"),
            ("speakers", Speakers, "of"),
            ("front", search.ranking.KeptFront, "keep"),
            ("front", search.tuner, "share_latency"),
        ]
        with ExitStack() as stack:
            for part, owner, name in watched:
                stack.enter_context(mock.patch.object(owner, name, self.timed(part, getattr(owner, name))))
            yield
