"""Proposals by Optuna: which sampler, its seed for each trial, and what it is told of a result."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from search.device import had_kind
from search.record import AWAY, TrialRecord
from search.space import Domain, in_order, only_active
from search.study import StudyDefinition

GP_TRIALS = 150  # beyond, the Gaussian process costs seconds an ask
STARTUP_TRIALS = 10
RANDOM_EVERY = (
    3  # TPE alone goes round the best few of a small study; a third at random, as in BOHB (Falkner et al. 2018)
)

optuna.logging.set_verbosity(optuna.logging.WARNING)

OptunaTrial = FrozenTrial  # for who only hands trials on, and need not import optuna


class Told(NamedTuple):
    """What the sampler hears of a trial; our own record stays as it is."""

    state: optuna.trial.TrialState
    values: list[float] | None


def kind_of(study: StudyDefinition) -> str:
    """The sampler that ``auto`` means for this study."""
    if study.search.sampler != "auto":
        return study.search.sampler
    return "tpe" if study.conditional or study.trials > GP_TRIALS else "gp"


def make_sampler(study: StudyDefinition, number: int) -> BaseSampler:
    """A sampler seeded by study and trial number: the same question gets the same answer after any crash."""
    seed = (study.seed * 1_000_003 + number * 7919 + 17) % 2**31
    kind = kind_of(study)
    if kind == "tpe" and number % RANDOM_EVERY == 0:
        kind = "random"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "tpe": lambda: TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
            "gp": lambda: GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
            "random": lambda: RandomSampler(seed=seed),
        }[kind]()


def twin_of(study: StudyDefinition, number: int, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """A study in memory of ``trials``, to ask trial ``number`` of; it takes them over and gives them its own numbers.

    ``add_trials`` copies each, which costs more than the sampler does.
    """
    twin = optuna.create_study(directions=study.objectives.directions, sampler=make_sampler(study, number))
    for place, trial in enumerate(trials):
        trial.number = place
    storage = twin._storage
    assert isinstance(storage, InMemoryStorage)
    storage._studies[twin._study_id].trials.extend(trials)
    return twin


def suggest(trial: optuna.Trial, study: StudyDefinition) -> dict[str, Any]:
    """A value for every key that matters under the values before it."""
    values: dict[str, Any] = {}
    for key, domain, wanted in in_order(study.searched):
        if wanted is None or wanted.holds(values):
            values[key] = _plain(domain, _ask(trial, key, _distribution(domain)))
    return values


def _ask(trial: optuna.Trial, key: str, domain: BaseDistribution) -> Any:
    if isinstance(domain, CategoricalDistribution):
        return trial.suggest_categorical(key, domain.choices)
    if isinstance(domain, IntDistribution):
        return trial.suggest_int(key, domain.low, domain.high, step=domain.step, log=domain.log)
    assert isinstance(domain, FloatDistribution)
    return trial.suggest_float(key, domain.low, domain.high, step=domain.step, log=domain.log)


def propose(twin: optuna.Study, study: StudyDefinition) -> dict[str, Any]:
    """The sampler's next settings after the trials of ``twin``."""
    if kind_of(study) != "gp":
        return suggest(twin.ask(), study)
    # The Gaussian process knows only keys that every trial has: it is asked for all, and what is inactive is dropped.
    asked = twin.ask(distributions(study)).params
    return only_active(study.searched, {key: _plain(study.space[key], value) for key, value in asked.items()})


def distributions(study: StudyDefinition) -> dict[str, BaseDistribution]:
    """All that is searched as Optuna's distributions."""
    return {key: _distribution(domain) for key, domain in study.searched.items()}


def filled(params: Mapping[str, Any], study: StudyDefinition) -> dict[str, Any]:
    """Stored settings with one fixed value for each key that did not matter, so that none of it is noise."""
    return {key: _stored(domain, domain.some()[0]) for key, domain in study.searched.items()} | dict(params)


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.choice is not None:
        return CategoricalDistribution(tuple(_stored(domain, value) for value in domain.choice))
    if domain.integers is not None:
        return IntDistribution(*domain.integers, log=domain.log, step=int(domain.step or 1))
    assert domain.floats is not None
    return FloatDistribution(*domain.floats, log=domain.log, step=domain.step)


def _scalar(domain: Domain) -> bool:
    """Whether the choices can be Optuna's categories; lists travel as their place in the choice."""
    return domain.choice is None or all(isinstance(value, str | int | float | bool) for value in domain.choice)


def _stored(domain: Domain, value: Any) -> Any:
    return value if _scalar(domain) else list(domain.choice or ()).index(value)


def _plain(domain: Domain, stored: Any) -> Any:
    if not _scalar(domain):
        return (domain.choice or ())[stored]
    # Optuna's third step of 0.2 is 0.6000000000000001: another trial than 0.6, trained again.
    return round(stored, 12) if domain.step and isinstance(stored, float) else stored


def stored(settings: Mapping[str, Any], study: StudyDefinition) -> dict[str, Any]:
    """Settings as Optuna keeps them."""
    return {key: _stored(study.space[key], value) for key, value in settings.items()}


def told(record: TrialRecord, study: StudyDefinition, known: Sequence[TrialRecord]) -> Told:
    """How Optuna hears of ``record``: a trial, or the variant that speaks for it; ``known`` are students, flat.

    An infeasible trial must teach without being trained: TPE learns from a pruned trial with constraints, but the
    Gaussian process never sees pruned ones and would propose infeasible points for ever, so to it the trial is
    complete, with its true costs and the worst quality seen.
    """
    state = optuna.trial.TrialState
    figures = [_value(record, name, study) for name in study.objectives.names]
    if record.status == "COMPLETE" and None not in figures:
        return Told(state.COMPLETE, [float(value) for value in figures if value is not None])
    if record.status in ("FAILED", "RUNNING"):
        return Told(state.FAIL, None)
    if not needs_worst(record, study):
        return Told(state.PRUNED, None)
    worst = [_worst(name, study, known) for name in study.objectives.names]
    return Told(state.COMPLETE, [w if value is None else float(value) for value, w in zip(figures, worst, strict=True)])


def needs_worst(record: TrialRecord, study: StudyDefinition) -> bool:
    """Whether what is told of ``record`` depends on the others: the Gaussian process hears the worst of all seen."""
    figures = [_value(record, name, study) for name in study.objectives.names]
    complete = record.status == "COMPLETE" and None not in figures
    return kind_of(study) == "gp" and not complete and record.status not in ("FAILED", "RUNNING")


def _value(record: TrialRecord, name: str, study: StudyDefinition) -> float | None:
    return record.value(name, study.device_name, kind=had_kind(study.device))


def _worst(name: str, study: StudyDefinition, known: Sequence[TrialRecord]) -> float:
    values = [value for record in known if (value := _value(record, name, study)) is not None]
    if not values:
        return 0.0
    return min(values) if name == study.objectives.quality else max(values)


def constraints(record: TrialRecord, study: StudyDefinition) -> dict[str, float]:
    """How far each of today's limits is exceeded, as a share of it; at most 0 where it is kept.

    Always all, in one order: the Gaussian process reads them by place.
    """
    shares = {}
    for key, limit in study.budget.limits().items():
        value = _value(record, key, study)
        shares[key] = 0.0 if value is None else value / limit - 1
    # The rest: an operator that the device lacks, its memory, a latency that could not be had.
    shares["other"] = 1.0 if record.status == "INFEASIBLE" and max(shares.values(), default=0) <= 0 else -1.0
    return shares


def lapsed(record: TrialRecord, study: StudyDefinition) -> bool:
    """Whether nothing speaks against a trial today: its budget was an earlier one, or its device was away."""
    if AWAY in record.flags:
        return True
    if record.variants:  # one setting that fits today is enough
        return record.status == "INFEASIBLE" and any(lapsed(variant, study) for variant in record.variants)
    if record.status != "INFEASIBLE" or not record.violations:
        return False
    of_budgets = all(violation.key in type(study.budget).model_fields for violation in record.violations)
    return of_budgets and not any(share > 0 for key, share in constraints(record, study).items() if key != "other")


def as_today(
    trial: FrozenTrial, record: TrialRecord | None, known: Sequence[TrialRecord], study: StudyDefinition
) -> FrozenTrial:
    """A trial as it would be told under today's budget, which may have changed since; constraints in one order."""
    params, spaces = trial.params, trial.distributions
    if kind_of(study) == "gp":
        params, spaces = filled(params, study), distributions(study)
    if record is None:
        return optuna.create_trial(state=optuna.trial.TrialState.RUNNING, params=params, distributions=spaces)
    state, values = told(record, study, known)
    limits = constraints(record, study)
    return optuna.create_trial(state=state, values=values, params=params, distributions=spaces, constraints=limits)


def whole(study: StudyDefinition, settings: Mapping[str, Any], attributes: Mapping[str, Any]) -> FrozenTrial:
    """A trial of ``settings`` that is under way, to be written in one piece."""
    spaces = distributions(study)
    return optuna.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        params=stored(settings, study),
        distributions={key: spaces[key] for key in settings},
        user_attrs=dict(attributes),
    )
