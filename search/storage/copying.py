"""A study copied from one storage to another, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from search.drivers import Roll
from search.run_folder import driving
from search.storage.places import open_storage, remember, remembered
from search.storage.turns import one_at_a_time
from search.storage.urls import reason_of, without_password
from search.store import UNFINISHED
from search.study import StudyDefinition, read_study
from sekd.errors import InputError

MARK = "sekd_format"  # under UNFINISHED there, a Store opens no study


class Copied(NamedTuple):
    """What was copied where."""

    study: str
    trials: int
    source: str
    target: str


class _Notes(NamedTuple):
    """The attributes of a study, for the roll of its drivers to read."""

    storage: BaseStorage
    study: int

    def notes(self, prefix: str) -> dict[str, Any]:
        found = self.storage.get_study_user_attrs(self.study)
        return {key: value for key, value in found.items() if key.startswith(prefix)}

    def sign(self, key: str, value: Any) -> None:
        raise NotImplementedError("a copy drives nothing")


def copy_study(
    folder: Path, to: str, *, storage: str | None = None, say: Callable[[str], None] = lambda line: None
) -> Copied:
    """Copies the study of the run in ``folder`` to the storage ``to``, which the run then remembers as its own.

    Every trial keeps its number, state and times, waiting and running ones too. The copy bears a mark that no
    command opens until its last write takes it off; a copy that was killed is thrown away by the next try. The
    source stays as it is.

    Args:
        storage: where the study is, if not where the run remembers.

    Raises:
        InputError: a driver is at work on the run, the target holds such a study, or a storage failed.
        TurnLost: the connection to a storage was lost; nothing was changed over.
    """
    study = read_study(folder / "definition.toml")
    here = storage or remembered(folder)
    if here is None and not (folder / "study.db").exists():
        raise InputError(f"{folder}: no study.db here yet: launch the study first")
    own = without_password(here or f"sqlite:///{folder / 'study.db'}")
    with driving(folder), _told():
        source, target = open_storage(folder, here), open_storage(folder, to)
        if own == without_password(to):
            raise InputError(f"{own}: the study is there already: name another database or file")
        with one_at_a_time(target, f"copy {study.name}"):
            trials = _copy(study, source, target, say)
        remember(folder, to)
    return Copied(study.name, trials, own, without_password(to))


def _copy(study: StudyDefinition, source: BaseStorage, target: BaseStorage, say: Callable[[str], None]) -> int:
    try:
        origin = source.get_study_id_from_name(study.name)
    except KeyError:
        raise InputError(f"no study '{study.name}' in this storage: launch it there first") from None
    attributes = source.get_study_user_attrs(origin)
    if attributes.get(MARK) == UNFINISHED:
        raise InputError(f"study '{study.name}' is itself {UNFINISHED} there: copy from where it came from")
    Roll(_Notes(source, origin), study.run).require_alone(say)
    # Read once: whoever goes on writing makes no copy of two moments.
    trials = source.get_all_trials(origin, deepcopy=False)
    if _is_there(study.name, target, trials, attributes):
        return len(trials)
    copy = target.create_new_study(source.get_study_directions(origin), study.name)
    target.set_study_user_attr(copy, MARK, UNFINISHED)
    for key, value in source.get_study_system_attrs(origin).items():
        target.set_study_system_attr(copy, key, value)
    for key, value in attributes.items():
        if key != MARK:
            target.set_study_user_attr(copy, key, value)
    for trial in trials:
        target.create_new_trial(copy, template_trial=trial)
    _compare(trials, target.get_all_trials(copy, deepcopy=False))
    if source.get_all_trials(origin, deepcopy=False) != trials:
        raise InputError(f"study '{study.name}' was written while it was copied: end its drivers, then copy again")
    target.set_study_user_attr(copy, MARK, attributes.get(MARK, 1))
    return len(trials)


def _is_there(name: str, target: BaseStorage, trials: list[FrozenTrial], attributes: dict[str, Any]) -> bool:
    """Whether this very copy was finished before, and only its place not remembered; deletes what a kill left.

    Raises:
        InputError: what is there is another study.
    """
    try:
        there = target.get_study_id_from_name(name)
    except KeyError:
        return False
    marks, found = target.get_study_user_attrs(there), target.get_all_trials(there, deepcopy=False)
    if marks.get(MARK) == UNFINISHED or not (marks or found):
        target.delete_study(there)
        return False
    if marks == attributes and list(map(_content, found)) == list(map(_content, trials)):
        return True
    raise InputError(f"the target holds another study '{name}' already: copy to another database or file")


def _compare(trials: list[FrozenTrial], copies: list[FrozenTrial]) -> None:
    """
    Raises:
        InputError: a database changed something on the way.
    """
    if len(trials) != len(copies):
        raise InputError(f"{len(copies)} of {len(trials)} trials arrived: was something else writing there?")
    for trial, copy in zip(trials, copies, strict=True):
        if _content(trial) != _content(copy):
            raise InputError(f"trial {trial.number} is not the same in the target: the copy was not finished")


def _content(trial: FrozenTrial) -> tuple[Any, ...]:
    """All but the times, which some databases keep by the second."""
    return (
        trial.number, trial.state, trial.values, trial.params, trial.distributions, trial.user_attrs,
        trial.system_attrs, trial.intermediate_values,
    )  # fmt: skip


@contextmanager
def _told() -> Iterator[None]:
    """
    Raises:
        InputError: a storage failed.
    """
    try:
        yield
    except (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = reason_of(error.__cause__ or error)
        raise InputError(f"a storage failed: {reason}; the run stays with the study that it has") from None
