"""The next proposal, as a pure function of a study's record: equal records and numbers give equal proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.device import had_kind
from search.record import TrialRecord
from search.sampler import constraints, distributions, filled, kind_of, lapsed, propose, stored, told, twin_of
from search.study import StudyDefinition
from search.variants import Speakers, flat


class Proposer:
    """Asks the sampler; what it worked out of one record it keeps for the next time."""

    def __init__(self, study: StudyDefinition) -> None:
        self._study = study
        self._speakers: tuple[Mapping[str, Any], Speakers] | None = None
        self._today: dict[int, tuple[TrialRecord | None, FrozenTrial]] = {}
        self._lapsed: dict[int, tuple[TrialRecord, bool]] = {}

    def propose(
        self, trials: Sequence[FrozenTrial], records: Sequence[TrialRecord], unprocessed: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the sampler says after ``trials``, asked on a twin of the study.

        Args:
            trials: all of the study, those under way too: what is being tried already is not proposed again.
            records: of the finished ones.
            unprocessed: scores of unprocessed audio.
        """
        number, first = len(trials), self._study.first()
        known = {record.number: record for record in records}
        heard, students = self.heard(records, unprocessed), flat(records)
        standing = [t for t in trials if t.number not in known or not self.lapsed(known[t.number])]
        twin = twin_of(self._study, number, [self._as_today(t, heard.get(t.number), students) for t in standing])
        if number < len(first):
            twin.enqueue_trial(stored(first[number], self._study))
        return propose(twin, self._study)

    def heard(self, records: Sequence[TrialRecord], unprocessed: Mapping[str, Any]) -> dict[int, TrialRecord]:
        """By number, each trial as the sampler hears of it: the variant that speaks for it under today's budget."""
        if self._speakers is None or self._speakers[0] != unprocessed:
            study = self._study
            kind, limits = had_kind(study.device), study.budget.limits()
            names, device = study.objectives.names, study.device_name
            self._speakers = unprocessed, Speakers(names, limits, device, kind=kind, unprocessed=unprocessed)
        return self._speakers[1].of(records)

    def lapsed(self, record: TrialRecord) -> bool:
        """Whether nothing speaks against a trial today (see ``sampler.lapsed``)."""
        known = self._lapsed.get(record.number)
        if known is None or known[0] is not record:
            known = self._lapsed[record.number] = record, lapsed(record, self._study)
        return known[1]

    def _as_today(self, trial: FrozenTrial, record: TrialRecord | None, students: Sequence[TrialRecord]) -> FrozenTrial:
        known = self._today.get(trial.number)
        if known is None or known[0] is not record:
            made = as_today(trial, record, students, self._study)
            if record is not None and record.status != "COMPLETE" and kind_of(self._study) == "gp":
                return made  # told the worst seen, which changes
            known = self._today[trial.number] = record, made
        return known[1]


def as_today(
    trial: FrozenTrial, record: TrialRecord | None, known: Sequence[TrialRecord], study: StudyDefinition
) -> FrozenTrial:
    """A trial as it would be told under today's budget, which may have changed since; constraints in one order."""
    params, spaces = trial.params, trial.distributions
    if kind_of(study) == "gp":
        params, spaces = filled(params, study), distributions(study)
    if record is None:
        return optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=spaces)
    state, values = told(record, study, known)
    limits = constraints(record, study)
    return optuna.create_trial(state=state, values=values, params=params, distributions=spaces, constraints=limits)


def whole(study: StudyDefinition, settings: Mapping[str, Any], attributes: Mapping[str, Any]) -> FrozenTrial:
    """A trial of ``settings`` that is under way, to be written in one piece."""
    spaces = distributions(study)
    return optuna.create_trial(
        state=TrialState.RUNNING,
        params=stored(settings, study),
        distributions={key: spaces[key] for key in settings},
        user_attrs=dict(attributes),
    )
