"""The next proposal, as a pure function of a study's record: equal records and numbers give equal proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.device import had_kind
from search.record import TrialRecord
from search.sampler import OptunaTrial, as_today, kind_of, lapsed, needs_worst, propose, stored, twin_of
from search.study import StudyDefinition
from search.variants import Speakers, flat


class Proposer:
    """Asks the sampler; what it worked out of one record it keeps for the next time."""

    def __init__(self, study: StudyDefinition) -> None:
        self._study = study
        self._speakers: tuple[Mapping[str, Any], Speakers] | None = None
        self._today: dict[int, tuple[TrialRecord | None, OptunaTrial]] = {}
        self._lapsed: dict[int, tuple[TrialRecord, bool]] = {}

    def propose(
        self, trials: Sequence[OptunaTrial], records: Sequence[TrialRecord], unprocessed: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the sampler says after ``trials``, asked on a twin of the study.

        Args:
            trials: all of the study, those under way too: what is being tried already is not proposed again.
            records: of the finished ones.
            unprocessed: scores of unprocessed audio.
        """
        number, first = len(trials), self._study.first()
        known = {record.number: record for record in records}
        heard = self.heard(records, unprocessed)
        students = flat(records) if kind_of(self._study) == "gp" else []
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

    def _as_today(self, trial: OptunaTrial, record: TrialRecord | None, students: Sequence[TrialRecord]) -> OptunaTrial:
        known = self._today.get(trial.number)
        if known is None or known[0] is not record:
            made = as_today(trial, record, students, self._study)
            if record is not None and needs_worst(record, self._study):
                return made  # that changes
            known = self._today[trial.number] = record, made
        return known[1]
