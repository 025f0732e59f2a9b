"""The record of a study: an Optuna study in persistent storage, written by the driver alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.device import had_kind
from search.record import TrialRecord
from search.sampler import (
    constraints,
    distributions,
    filled,
    kind_of,
    lapsed,
    make_sampler,
    propose,
    stored,
    suggest,
    told,
)
from search.study import StudyDefinition
from search.variants import Speakers, flat
from sekd.errors import InputError

FORMAT = 1  # of what we write into a study
RECORD, IDENTITY, LATENCY = "sekd_record", "sekd_identity", "sekd_latency:"


class Store:
    """One study; every method that changes it has written durably when it returns."""

    def __init__(self, study: StudyDefinition, storage: BaseStorage) -> None:
        """Opens the study.

        Raises:
            InputError: the storage does not hold it, or another version wrote it.
        """
        self.definition = study
        # All parameters come fixed with the trial (see ``ask``), so the study's own sampler decides nothing.
        sampler = optuna.samplers.RandomSampler(seed=0)
        try:
            with _speaking():
                self._study = optuna.load_study(study_name=study.name, storage=storage, sampler=sampler)
        except KeyError:
            raise InputError(f"no study '{study.name}' in this storage: launch it there first") from None
        self._storage = storage
        self._records: dict[int, TrialRecord] | None = None
        written = self._study.user_attrs.get("sekd_format")
        if written not in (None, FORMAT):  # none: a kill came between making the study and marking it
            raise InputError(
                f"study '{study.name}' was written in format {written}, this version reads format {FORMAT}: "
                "open it with the version that made it, or launch under another name"
            )

    @classmethod
    def create(cls, study: StudyDefinition, storage: BaseStorage) -> Store:
        """The study, made if the storage does not hold it yet."""
        with _speaking():
            optuna.create_study(
                study_name=study.name, storage=storage, directions=study.objectives.directions, load_if_exists=True
            )
        store = cls(study, storage)
        store.note("sekd_format", FORMAT)
        return store

    def check_identity(self, identity: Mapping[str, str]) -> None:
        """Remembers what makes this study the same; refuses to continue as another.

        Raises:
            InputError: lists the parts that differ.
        """
        known = self._study.user_attrs.get(IDENTITY)
        if known is None:
            self.note(IDENTITY, dict(identity))
            return
        changed = [key for key in identity if known.get(key) != identity[key]]
        if changed:
            raise InputError(
                f"study '{self.definition.name}' exists with another definition: {', '.join(changed)} changed; "
                "undo the change, or give the study another name"
            )

    def records(self) -> list[TrialRecord]:
        """Every finished trial in order, its variants in it, with the latencies that were measured afterwards."""
        if self._records is None:
            trials = self._study.get_trials(deepcopy=False)
            self._records = {
                trial.number: TrialRecord.model_validate_json(trial.user_attrs[RECORD])
                for trial in trials
                if trial.state.is_finished() and RECORD in trial.user_attrs
            }
        later = self._later_latencies()
        return [_with_later(record, later) for _, record in sorted(self._records.items())]

    def _later_latencies(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for key, measured in self._study.user_attrs.items():
            if key.startswith(LATENCY):
                for student, latency in measured.items():
                    found.setdefault(student, {})[key.removeprefix(LATENCY)] = latency
        return found

    def add_latency(self, device: str, latencies: Mapping[tuple[int, str | None], Mapping[str, Any]]) -> None:
        """Latencies had after the trial, on another device or again on its own, by number and variant if there are."""
        known = self._study.user_attrs.get(LATENCY + device, {})
        added = {_later_key(number, variant): dict(latency) for (number, variant), latency in latencies.items()}
        self.note(LATENCY + device, {**known, **added})

    def note(self, key: str, value: Any) -> None:
        """A fact about the whole study, such as what unprocessed audio scores."""
        with _speaking():
            self._study.set_user_attr(key, value)

    def noted(self, key: str) -> Any:
        return self._study.user_attrs.get(key)

    def running(self) -> list[int]:
        """Numbers that were asked for and not told: interrupted, unless a driver is at work."""
        return [trial.number for trial in self._trials(TrialState.RUNNING)]

    def _trials(self, state: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(state,))

    def ask(self) -> tuple[int, dict[str, Any]]:
        """The next trial's number and settings.

        A proposal is written whole before its trial starts, so that a kill at any point in here loses nothing.
        """
        known = self._study.get_trials(deepcopy=False)
        with _speaking():
            if not any(trial.state is TrialState.WAITING for trial in known):
                self._study.enqueue_trial(stored(self._proposal(known), self.definition))
            trial = self._study.ask()
            return trial.number, suggest(trial, self.definition)

    def _proposal(self, known: list[FrozenTrial]) -> dict[str, Any]:
        """What the sampler says after ``known``, asked on a twin of the study: a pure function of the record."""
        number, first = len(known), self.definition.first()
        sampler = make_sampler(self.definition, number)
        twin = optuna.create_study(directions=self.definition.objectives.directions, sampler=sampler)
        records = {record.number: record for record in self.records()}
        standing = [t for t in known if t.number not in records or not lapsed(records[t.number], self.definition)]
        heard, students = self._speakers(list(records.values())), flat(list(records.values()))
        twin.add_trials([self._as_today(trial, heard, students) for trial in standing])
        if number < len(first):
            twin.enqueue_trial(stored(first[number], self.definition))
        return propose(twin, self.definition)

    def _as_today(
        self, trial: FrozenTrial, heard: Mapping[int, TrialRecord], known: Sequence[TrialRecord]
    ) -> FrozenTrial:
        """A trial as it would be told under today's budget, which may have changed since; constraints in one order."""
        record = heard.get(trial.number)
        params, spaces = trial.params, trial.distributions
        if kind_of(self.definition) == "gp":
            params, spaces = filled(params, self.definition), distributions(self.definition)
        if record is None:
            return optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=spaces)
        state, values = told(record, self.definition, known)
        limits = constraints(record, self.definition)
        return optuna.create_trial(state=state, values=values, params=params, distributions=spaces, constraints=limits)

    def _speakers(self, records: list[TrialRecord]) -> dict[int, TrialRecord]:
        """Which variant speaks for each trial under today's budget."""
        study, kind = self.definition, had_kind(self.definition.device)
        scores = (self.noted("baseline") or {}).get("unprocessed", {})
        limits, device = study.budget.limits(), study.device_name
        return Speakers(study.objectives.names, limits, device, kind=kind, unprocessed=scores).of(records)

    def settings(self, number: int) -> dict[str, Any]:
        """The settings of a running trial."""
        with _speaking():
            return suggest(self._trial(number), self.definition)

    def _trial(self, number: int) -> optuna.trial.Trial:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return optuna.trial.Trial(self._study, trial_id)

    def tell(self, record: TrialRecord) -> None:
        """Makes ``record`` durable; only after this is the next trial asked for."""
        with _speaking():
            trial = self._trial(record.number)
            trial.set_user_attr(RECORD, record.model_dump_json())
            known = self.records()
            speaker = self._speakers([*known, record])[record.number]
            for key, value in constraints(speaker, self.definition).items():
                trial.set_constraint(key, value)
            state, values = told(speaker, self.definition, flat(known))
            self._study.tell(record.number, values, state=state)
        if self._records is not None:
            self._records[record.number] = record


def _with_later(record: TrialRecord, later: Mapping[str, dict[str, Any]]) -> TrialRecord:
    """``record`` with what was measured after it; a device that gave a latency by now is flagged no longer."""
    found = later.get(_later_key(record.number, record.variant_id if record.variant else None), {})
    variants = [_with_later(variant.model_copy(update={"number": record.number}), later) for variant in record.variants]
    flags = [flag for flag in record.flags if flag.removeprefix("unmeasured:") not in found]
    return record.model_copy(update={"latency": record.latency | found, "variants": variants, "flags": flags})


def _later_key(number: int, variant: str | None) -> str:
    return str(number) if variant is None else f"{number}:{variant}"


@contextmanager
def _speaking() -> Iterator[None]:
    """Around every exchange with Optuna: its warnings of experimental parts are not for the user, its failures are.

    Raises:
        InputError: the storage failed, as on a full disk.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(
            f"the study's storage failed: {reason}; every finished trial is kept: mend it, then sekd resume"
        ) from error
