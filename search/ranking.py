"""Who deserves more frames: a student that enters the front is measured again, and so are its equals with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.gated_latency import with_expectation
from search.network_latency import is_better
from search.record import DIRECTIONS, Kind, TrialRecord
from search.selection import fits, front_of
from search.store import Store
from search.variants import flat
from sekd.cache import write_json


class KeptFront:
    """The front as figures in a file, for workers to compare theirs with; only what is new is compared again."""

    def __init__(
        self, path: Path, objectives: Sequence[str], limits: Mapping[str, float], device: str, kind: Kind
    ) -> None:
        self._path, self._objectives, self._limits, self._device, self._kind = path, objectives, limits, device, kind
        self._seen: set[int] = set()
        self._version: int | None = None
        self._front: list[TrialRecord] = []

    def keep(self, store: Store) -> None:
        """Brings the file up to date with the record."""
        if store.version != self._version:  # figures of earlier trials have changed
            self._seen, self._front, self._version = set(), [], store.version
        new = [trial for trial in store.records() if trial.number not in self._seen]
        self._seen.update(trial.number for trial in new)
        self._front = front_of(
            [*self._front, *flat(new)], self._objectives, self._limits, self._device, kind=self._kind
        )
        figures = [[s.value(name, self._device, kind=self._kind) for name in self._objectives] for s in self._front]
        write_json(self._path, figures)


def enters_front(
    student: TrialRecord, path: Path, objectives: Sequence[str], limits: Mapping[str, float], device: str
) -> bool:
    """Whether nobody on the front that was kept last is at least as good in everything.

    Fronts only move forward: whoever does not enter this one enters no later one.
    """
    if not objectives or fits(student, limits, device):
        return False
    values = [value for name in objectives if (value := student.value(name, device)) is not None]
    if len(values) < len(objectives):
        return False
    signs = [1 if DIRECTIONS[name] == "minimize" else -1 for name in objectives]
    front = json.loads(path.read_text()) if path.exists() else []
    return not any(
        all(sign * theirs <= sign * own for sign, theirs, own in zip(signs, other, values, strict=True))
        for other in front
    )


def share_latency(trial: TrialRecord, store: Store, device: str) -> None:
    """Gives what was last had of a network to all students that are that network and have less."""
    had: dict[str, dict[str, Any]] = {}  # the best of each: variants may be one network, and not all of them ranked
    for student in flat([trial]):
        latency = student.latency.get(device, {})
        network = latency.get("network")
        if network is not None and (network not in had or is_better(latency, had[network])):
            had[network] = latency
    news: dict[tuple[int, str | None], dict[str, Any]] = {}
    for student in flat(store.records()) if had else []:
        known = student.latency.get(device, {})
        better = had.get(known.get("network") or "")
        if better is not None and is_better(better, known):
            shared = with_expectation(better, student.cost)
            news[student.number, student.variant_id if student.variant else None] = shared
    if news:
        store.add_latency(device, news)
