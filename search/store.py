"""The record of a study: an Optuna study in persistent storage, written by its drivers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.ends import counts
from search.later import LATENCY_OF, Later, key_of
from search.proposals import Proposer
from search.record import TrialRecord
from search.sampler import constraints, needs_worst, suggest, told, whole
from search.storage.exchange import Say, exchange
from search.storage.turns import one_at_a_time
from search.study import StudyDefinition
from search.variants import flat
from sekd.errors import InputError

FORMAT = 2  # of what we write into a study
READABLE = (None, 1, 2)  # none: a kill came between making the study and marking it
UNFINISHED = "a copy that was not finished"  # in place of the format
RECORD, IDENTITY, OWNER = "sekd_record", "sekd_identity", "sekd_driver"

Result = TypeVar("Result")


class UnderWay(NamedTuple):
    """A trial that was asked for and not told; ``settings`` as Optuna keeps them."""

    owner: str | None  # id of a driver
    settings: dict[str, Any]


class Told(NamedTuple):
    """A trial as the storage has it; ``record`` is None of one under way, or that another program told."""

    number: int
    record: TrialRecord | None
    finished: bool
    started: datetime | None
    ended: datetime | None


class Store:
    """One study; every method that changes it has written durably when it returns.

    Methods bear a server that goes away and comes back: each may be cut anywhere and done again.
    """

    def __init__(self, study: StudyDefinition, storage: BaseStorage, say: Say = lambda line: None) -> None:
        """Opens the study.

        Raises:
            InputError: the storage does not hold it, or another version wrote it.
        """
        self.definition = study
        self._storage, self._say = storage, say
        # All parameters come fixed with the trial (see ``ask``), so the study's own sampler decides nothing.
        sampler = optuna.samplers.RandomSampler(seed=0)
        try:
            self._study = self._exchange(
                lambda: optuna.load_study(study_name=study.name, storage=storage, sampler=sampler)
            )
        except KeyError:
            raise InputError(f"no study '{study.name}' in this storage: launch it there first") from None
        self._notes: dict[str, Any] = self._exchange(lambda: self._study.user_attrs)
        self._told: dict[int, TrialRecord] = {}
        self._under_way: dict[int, UnderWay] = {}
        self._students: dict[str, list[int]] = {}  # numbers of the trials of each
        self._counted = 0
        self._later = Later()
        self._proposer = Proposer(study)
        self._read = False
        written = self.noted("sekd_format")
        if written == UNFINISHED:
            raise InputError(f"study '{study.name}' in this storage is {UNFINISHED}: run sekd copy again")
        if written not in READABLE:
            raise InputError(
                f"study '{study.name}' was written in format {written}, this version reads format {FORMAT}: "
                "open it with the version that made it, or launch under another name"
            )

    @classmethod
    def create(cls, study: StudyDefinition, storage: BaseStorage, say: Say = lambda line: None) -> Store:
        """The study, made if the storage does not hold it yet."""
        names, directions = study.name, study.objectives.directions
        exchange(
            lambda: optuna.create_study(study_name=names, storage=storage, directions=directions, load_if_exists=True),
            say,
        )
        store = cls(study, storage, say)
        store.note("sekd_format", FORMAT)
        return store

    def _exchange(self, work: Callable[[], Result]) -> Result:
        return exchange(work, self._say)

    def check_identity(self, identity: Mapping[str, str]) -> None:
        """Remembers what makes this study the same; refuses to continue as another.

        Raises:
            InputError: lists the parts that differ.
        """
        known = self.noted(IDENTITY)
        if known is None:
            self.note(IDENTITY, dict(identity))
            return
        changed = [key for key in identity if known.get(key) != identity[key]]
        if changed:
            raise InputError(
                f"study '{self.definition.name}' exists with another definition: {', '.join(changed)} changed; "
                "undo the change, or give the study another name"
            )

    def refresh(self) -> None:
        """Reads what other drivers have written; all else says what was read last."""
        self._take_in(*self._exchange(lambda: (self._study.get_trials(deepcopy=False), self._study.user_attrs)))

    def _take_in(self, trials: list[FrozenTrial], notes: dict[str, Any]) -> None:
        for trial in trials:
            if trial.number not in self._told and trial.state.is_finished() and RECORD in trial.user_attrs:
                self._add(TrialRecord.model_validate_json(trial.user_attrs[RECORD]))
        self._under_way = {
            trial.number: UnderWay(trial.user_attrs.get(OWNER), trial.params)
            for trial in trials
            if trial.state is TrialState.RUNNING
        }
        self._notes, self._read = notes, True
        self._later.read(notes)

    def _add(self, record: TrialRecord) -> None:
        self._told[record.number] = record
        self._students.setdefault(record.trial_id, []).append(record.number)
        self._counted += counts(record)
        self._under_way.pop(record.number, None)

    def _reading(self) -> None:
        if not self._read:
            self.refresh()

    def records(self) -> list[TrialRecord]:
        """Every finished trial in order, its variants in it, with the latencies that were measured afterwards."""
        self._reading()
        return self._later.applied(self._told)

    def standing(self) -> list[TrialRecord]:
        """The records that say something under today's budget."""
        return [record for record in self.records() if not self._proposer.lapsed(record)]

    def of_student(self, trial_id: str) -> list[TrialRecord]:
        """The trials of one identity, in order."""
        self._reading()
        return self._later.applied({number: self._told[number] for number in self._students.get(trial_id, ())})

    def counted(self) -> int:
        """How many count against ``trials``."""
        self._reading()
        return self._counted

    def running(self) -> dict[int, UnderWay]:
        """By number, what was asked for and not told: at work, or interrupted."""
        self._reading()
        return self._under_way

    @property
    def version(self) -> int:
        """Another number after every change of a record that had been told."""
        return self._later.version

    def add_latency(self, device: str, latencies: Mapping[tuple[int, str | None], Mapping[str, Any]]) -> None:
        """Latencies had after the trial, on another device or again on its own, by number and variant if there are."""
        for (number, variant), latency in latencies.items():
            self.note(f"{LATENCY_OF}{device}:{key_of(number, variant)}", dict(latency))

    def note(self, key: str, value: Any) -> None:
        """A fact about the whole study, such as what unprocessed audio scores."""
        self._exchange(lambda: self._study.set_user_attr(key, value))
        self._notes = {**self._notes, key: value}
        self._later.read(self._notes)

    def sign(self, key: str, value: Any) -> None:
        """Writes a sign of life, from a thread of its own: nothing that was read changes, and no server is waited for.

        Raises:
            InputError: the storage failed, or is away.
        """
        exchange(lambda: self._study.set_user_attr(key, value), patience_s=0.0)

    def noted(self, key: str) -> Any:
        return self._notes.get(key)

    def notes(self, prefix: str) -> dict[str, Any]:
        """Facts whose keys begin so, as they are in the storage now."""
        self._notes = self._exchange(lambda: self._study.user_attrs)
        return {key: value for key, value in self._notes.items() if key.startswith(prefix)}

    def told(self) -> list[Told]:
        """Every trial, finished or not, with the times that the storage knows."""
        trials = self._exchange(lambda: self._study.get_trials(deepcopy=False))
        records = {record.number: record for record in self.records()}
        return [
            Told(t.number, records.get(t.number), t.state.is_finished(), t.datetime_start, t.datetime_complete)
            for t in trials
        ]

    def ask(self, driver: str | None = None, wanted: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """The next trial's number and settings; the trial is ``driver``'s.

        None where finished and running trials together are ``wanted`` by now. One driver asks at a time, and a
        trial is written in one piece, so that a kill at any point in here loses nothing.
        """

        def work() -> tuple[int, dict[str, Any]] | None:
            with one_at_a_time(self._storage, self._turn):
                known = self._study.get_trials(deepcopy=False)
                self._take_in(known, self._study.user_attrs)
                if wanted is not None and self._counted + len(self._under_way) >= wanted:
                    return None
                if any(trial.state is TrialState.WAITING for trial in known):
                    return self._waiting(driver)
                settings = self._proposer.propose(known, self.records(), self._unprocessed)
                trial = whole(self.definition, settings, {OWNER: driver})
                made = self._study._storage.create_new_trial(self._study._study_id, trial)
                number = self._storage.get_trial_number_from_id(made)
                self._under_way[number] = UnderWay(driver, trial.params)
                return number, settings

        return self._exchange(work)

    def _waiting(self, driver: str | None) -> tuple[int, dict[str, Any]]:
        """A trial that an earlier version, or another program, has put in the queue."""
        trial = self._study.ask()
        trial.set_user_attr(OWNER, driver)
        settings = suggest(trial, self.definition)
        self._under_way[trial.number] = UnderWay(driver, trial.params)
        return trial.number, settings

    @property
    def _turn(self) -> str:
        return f"ask:{self.definition.name}"

    @property
    def _unprocessed(self) -> Mapping[str, Any]:
        return (self.noted("baseline") or {}).get("unprocessed", {})

    def take_over(self, is_orphan: Callable[[int, str | None], bool], driver: str | None) -> int | None:
        """The number of an interrupted trial, from now on ``driver``'s; None if there is none.

        Args:
            is_orphan: says of a number and its owner whether nobody is at work on it; asked after both were read.
        """

        def work() -> int | None:
            with one_at_a_time(self._storage, self._turn):
                self.refresh()
                for number, trial in self._under_way.items():
                    if is_orphan(number, trial.owner) and self._give(number, driver):
                        return number
            return None

        return self._exchange(work)

    def _give(self, number: int, driver: str | None) -> bool:
        """Whether the trial is ``driver``'s now; not if its own was alive after all, and told it meanwhile."""
        try:
            self._trial(number).set_user_attr(OWNER, driver)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        self._under_way[number] = self._under_way[number]._replace(owner=driver)
        return True

    def settings(self, number: int) -> dict[str, Any]:
        """The settings of a running trial."""
        return self._exchange(lambda: suggest(self._trial(number), self.definition))

    def _trial(self, number: int) -> optuna.trial.Trial:
        return optuna.trial.Trial(self._study, self._trial_id(number))

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)

    def tell(self, record: TrialRecord, driver: str | None = None) -> bool:
        """Makes ``record`` durable; only after this is the next trial asked for.

        False, and nothing is written, where another driver has taken the trial over or told it.
        """
        written = record.model_dump_json()

        def work() -> bool:
            known = self._storage.get_trial(self._trial_id(record.number))
            if known.user_attrs.get(OWNER) not in (None, driver):
                return False
            if known.state.is_finished():
                return known.user_attrs.get(RECORD) == written  # by us, before the connection broke
            self._tell(record, written)
            return True

        if not self._exchange(work):
            return False
        self._add(record)
        return True

    def _tell(self, record: TrialRecord, written: str) -> None:
        trial = self._trial(record.number)
        trial.set_user_attr(RECORD, written)
        known = self.records()
        speaker = self._proposer.heard([*known, record], self._unprocessed)[record.number]
        for key, value in constraints(speaker, self.definition).items():
            trial.set_constraint(key, value)
        others = flat(known) if needs_worst(speaker, self.definition) else []
        state, values = told(speaker, self.definition, others)
        self._study.tell(record.number, values, state=state)
