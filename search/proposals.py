"""The next proposal, as a pure function of a study's record: equal records and numbers give equal proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.device import had_kind
from search.record import TrialRecord
from search.sampler import constraints, distributions, filled, kind_of, lapsed, make_sampler, propose, stored, told
from search.study import StudyDefinition
from search.variants import Speakers, flat


def proposal(
    study: StudyDefinition,
    trials: Sequence[FrozenTrial],
    records: Mapping[int, TrialRecord],
    unprocessed: Mapping[str, Any],
) -> dict[str, Any]:
    """What the sampler says after ``trials``, asked on a twin of the study.

    Args:
        trials: all of the study, those under way too: what is being tried already is not proposed again.
        records: of the finished ones.
        unprocessed: scores of unprocessed audio.
    """
    number, first = len(trials), study.first()
    twin = optuna.create_study(directions=study.objectives.directions, sampler=make_sampler(study, number))
    standing = [t for t in trials if t.number not in records or not lapsed(records[t.number], study)]
    heard, students = speakers(study, list(records.values()), unprocessed), flat(list(records.values()))
    twin.add_trials([as_today(trial, heard, students, study) for trial in standing])
    if number < len(first):
        twin.enqueue_trial(stored(first[number], study))
    return propose(twin, study)


def as_today(
    trial: FrozenTrial, heard: Mapping[int, TrialRecord], known: Sequence[TrialRecord], study: StudyDefinition
) -> FrozenTrial:
    """A trial as it would be told under today's budget, which may have changed since; constraints in one order."""
    record = heard.get(trial.number)
    params, spaces = trial.params, trial.distributions
    if kind_of(study) == "gp":
        params, spaces = filled(params, study), distributions(study)
    if record is None:
        return optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=spaces)
    state, values = told(record, study, known)
    limits = constraints(record, study)
    return optuna.create_trial(state=state, values=values, params=params, distributions=spaces, constraints=limits)


def speakers(
    study: StudyDefinition, records: list[TrialRecord], unprocessed: Mapping[str, Any]
) -> dict[int, TrialRecord]:
    """Which variant speaks for each trial under today's budget."""
    kind, limits, device = had_kind(study.device), study.budget.limits(), study.device_name
    return Speakers(study.objectives.names, limits, device, kind=kind, unprocessed=unprocessed).of(records)
