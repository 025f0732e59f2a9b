"""A trial whose student was tried at several settings: its variants side by side, and the one that speaks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from search.pareto import Direction, hypervolume_gain, non_dominated, reference_point
from search.record import DIRECTIONS, Kind, TrialRecord
from search.selection import excess, fits
from sekd.config import content_hash


def variant_id(trial_id: str, setting: Mapping[str, Any]) -> str:
    """The trial's own id at no setting, for a trial without free knobs is its only variant."""
    return content_hash([trial_id, dict(setting)], 16) if setting else trial_id


def model_file(run: Path, record: TrialRecord) -> Path:
    """Where a trained student's ONNX lies: beside its weights, or in the folder of its variant."""
    return variant_folder(run / "trials" / str(record.number), record.variant, record.variant_id) / "model.onnx"


def variant_folder(trial: Path, setting: Mapping[str, Any], identity: str) -> Path:
    """The trial's folder itself where there is nothing to set."""
    return trial / "variants" / identity if setting else trial


def points(trial: TrialRecord) -> list[TrialRecord]:
    """The students that a trial came to, flat: its variants where it trained any, else itself."""
    if not trial.variants:
        return [trial]
    if not any(variant.trained for variant in trial.variants):
        return [trial.model_copy(update={"variants": []})]
    # Number and settings are the trial's: a duplicate repeats another trial's variants under its own.
    own = {"number": trial.number, "params": trial.params, "duplicate_of": trial.duplicate_of}
    return [variant.model_copy(update=own) for variant in trial.variants]


def flat(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The points of all trials, as they were recorded."""
    return [point for trial in trials for point in points(trial)]


def students(
    trials: Sequence[TrialRecord], limits: Mapping[str, float], device: str, *, kind: Kind = "measured"
) -> list[TrialRecord]:
    """The points of all trials; a trained variant over today's limits says so, with what it exceeds."""
    return [_judged(point, limits, device, kind) for point in flat(trials)]


def _judged(point: TrialRecord, limits: Mapping[str, float], device: str, kind: Kind) -> TrialRecord:
    if not point.variant or not point.trained:
        return point
    broken = fits(point, limits, device, kind=kind)
    return point.model_copy(update={"status": "INFEASIBLE", "violations": broken}) if broken else point


def cheapest(settings: Sequence[TrialRecord]) -> TrialRecord:
    """Of settings that do not fit, the one whose worst violation is least; what is unknown is worst; tie: the first."""

    def worst(setting: TrialRecord) -> tuple[float, float]:
        excesses = [excess(violation) for violation in setting.violations] or [math.inf]
        return max(excesses), max((value for value in excesses if math.isfinite(value)), default=math.inf)

    return min(settings, key=worst)


def reference_for(
    values: Sequence[Sequence[float]],
    objectives: Sequence[str],
    limits: Mapping[str, float],
    unprocessed: Mapping[str, Any],
) -> list[float]:
    """Unprocessed audio at the budget's edge: what a student must beat to be worth anything."""
    reference = reference_point(values, [DIRECTIONS[name] for name in objectives])
    for place, name in enumerate(objectives):
        if name in limits:
            reference[place] = limits[name]
        score = unprocessed.get(name)
        if score and score["mean"] is not None:
            reference[place] = score["mean"]
    return reference


class _Spoken(NamedTuple):
    """Where the order of trials stands after one of them."""

    trial: TrialRecord
    speaker: TrialRecord
    extremes: list[list[float]]  # the least and the greatest of each objective of every student so far
    front: list[list[float]]


class Speakers:
    """Which variant speaks for each trial: the feasible one that adds most hypervolume to the front before it.

    Trials are taken in the order of their numbers, whenever they ended, so that every reading of one record gives
    the same answer. What was said of the first of them holds until one of these is another.
    """

    def __init__(
        self,
        objectives: Sequence[str],
        limits: Mapping[str, float],
        device: str,
        *,
        kind: Kind = "measured",
        unprocessed: Mapping[str, Any] | None = None,
    ) -> None:
        self._objectives, self._limits, self._device, self._kind = objectives, limits, device, kind
        self._unprocessed = unprocessed or {}
        self._directions: list[Direction] = [DIRECTIONS[name] for name in objectives]
        self._known: list[_Spoken] = []
        self._spoken: dict[int, TrialRecord] = {}

    def of(self, trials: Sequence[TrialRecord]) -> dict[int, TrialRecord]:
        """By number, each trial as the sampler hears of it; those without variants as they are."""
        if not any(trial.variants for trial in trials):
            return {trial.number: trial for trial in trials}
        ordered = sorted(trials, key=lambda one: one.number)
        both = enumerate(zip(self._known, ordered, strict=False))
        shorter = min(len(self._known), len(ordered))
        same = next((place for place, (known, trial) in both if known.trial is not trial), shorter)
        for known in self._known[same:]:
            del self._spoken[known.trial.number]
        del self._known[same:]
        for trial in ordered[same:]:
            self._known.append(self._next(trial))
            self._spoken[trial.number] = self._known[-1].speaker
        return dict(self._spoken)

    def _next(self, trial: TrialRecord) -> _Spoken:
        extremes, front = (self._known[-1].extremes, self._known[-1].front) if self._known else ([], [])
        own = points(trial)
        first = None if trial.duplicate_of is None else self._spoken.get(trial.duplicate_of)
        if first is not None:  # told what the first was told
            same = [point for point in own if point.variant_id == first.variant_id]
            return _Spoken(trial, (same or own)[0], extremes, front)
        figures = [values for point in own if (values := self._values(point)) is not None]
        if figures:
            columns = list(zip(*extremes, *figures, strict=True))
            extremes = [[min(column) for column in columns], [max(column) for column in columns]]
        speaker = self._speaker(own, front, extremes)
        fitting = [self._values(point) for point in own if self._fits(point)]
        new = [values for values in fitting if values is not None]
        return _Spoken(trial, speaker, extremes, self._front(front + new) if new else front)

    def _speaker(self, own: list[TrialRecord], front: list[list[float]], seen: list[list[float]]) -> TrialRecord:
        if len(own) == 1:
            return own[0]
        feasible = [point for point in own if self._values(point) is not None and self._fits(point)]
        if not feasible:
            judged = [_judged(point, self._limits, self._device, self._kind) for point in own if point.trained]
            return cheapest(judged).model_copy(update={"status": "COMPLETE"})  # it was trained: it has scores to tell
        reference = reference_for(seen, self._objectives, self._limits, self._unprocessed)
        gains = [hypervolume_gain(self._values(p) or [], front, reference, self._directions) for p in feasible]
        return feasible[gains.index(max(gains))]

    def _values(self, point: TrialRecord) -> list[float] | None:
        """The objectives of a trained student, all of them or nothing."""
        figures = [point.value(name, self._device, kind=self._kind) for name in self._objectives]
        values = [figure for figure in figures if figure is not None]
        return values if point.trained and len(values) == len(figures) else None

    def _fits(self, point: TrialRecord) -> bool:
        return not fits(point, self._limits, self._device, kind=self._kind)

    def _front(self, values: list[list[float]]) -> list[list[float]]:
        return [values[place] for place in non_dominated(values, self._directions)] if values else []
