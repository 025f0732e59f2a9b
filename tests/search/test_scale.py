"""What is kept between readings of a growing record gives what a whole reading gives."""

import random

import optuna
import pytest
from definitions import NUMERIC, definition

from search.record import Cost, Score, TrialRecord
from search.sampler import distributions, filled, make_sampler, propose, stored, twin_of
from search.variants import Speakers


def student(number, rng, *, setting=None):
    """A trained student of any size and quality."""
    size = rng.randint(1, 9)
    return TrialRecord(
        trial_id=f"{number}", variant_id=f"{number}:{setting}", number=number, status="COMPLETE",
        variant={} if setting is None else {"student.steps": setting},
        cost=Cost(parameters=size, macs_per_s=size, weight_bytes=0, state_bytes=0, algorithmic_latency_ms=1),
        scores={"pesq_wb": Score(mean=rng.choice([1.5, 2.0, 2.5]) + 0.01 * size, n=1)},
    )  # fmt: skip


def trial(number, rng):
    """A trial of none, one or several variants, which may have failed."""
    variants = [student(number, rng, setting=setting) for setting in range(rng.choice([0, 1, 3]))]
    record = student(number, rng).model_copy(update={"variants": variants})
    return (
        record.model_copy(update={"status": "FAILED", "scores": {}, "variants": []}) if rng.random() < 0.1 else record
    )


@pytest.mark.parametrize("seed", range(10))
def test_speakers_of_a_growing_record_are_those_of_the_whole(seed):
    rng, settings = random.Random(seed), (("pesq_wb", "macs_per_s"), {"macs_per_s": 6.0}, "device")
    growing, ended = Speakers(*settings), []
    for number in sorted(range(30), key=lambda number: number + 4 * rng.random()):  # workers end in another order
        ended.append(trial(number, rng))
        if rng.random() < 0.2:  # measured again
            place = rng.randrange(len(ended))
            ended[place] = ended[place].model_copy(update={"latency": {"device": {"p50_ms": 1.0}}})
        assert growing.of(ended) == Speakers(*settings).of(ended)
    first = ended[:10]
    assert growing.of(first) == Speakers(*settings).of(first)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_trials_taken_over_are_asked_as_those_added(tmp_path, sampler):
    space = {"space": NUMERIC} if sampler == "gp" else {}
    study = definition(tmp_path, {"search": {"sampler": sampler}, **space})
    rng, spaces, complete = random.Random(0), distributions(study), optuna.trial.TrialState.COMPLETE

    def one(number):
        params = stored(study.sample(rng), study)
        params = filled(params, study) if sampler == "gp" else params
        limits = {"macs_per_s": rng.uniform(-1, 0.2), "other": -1.0}
        running, given = number % 7 == 6, {"params": params, "distributions": {key: spaces[key] for key in params}}
        if running:
            return optuna.create_trial(state=optuna.trial.TrialState.RUNNING, **given)
        return optuna.create_trial(state=complete, values=[rng.random(), rng.random()], constraints=limits, **given)

    trials = [one(number) for number in range(25)]
    for number in (25, 26, 27):
        added = optuna.create_study(directions=study.objectives.directions, sampler=make_sampler(study, number))
        added.add_trials(trials)
        taken = twin_of(study, number, trials)
        assert [t.params for t in taken.trials] == [t.params for t in added.trials]
        assert propose(taken, study) == propose(added, study)
        assert len(trials) == 25


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_proposed_step_is_the_value_that_a_user_would_write(tmp_path, sampler):
    space = {"train.weight_decay": {"float": [0.2, 0.8], "step": 0.2}}
    space["distill.schedule.kind"] = {"choice": ["supervised", "one_step"]}
    study = definition(tmp_path, {"search": {"sampler": sampler}, "space": space})
    proposed = {propose(twin_of(study, n, []), study)["train.weight_decay"] for n in range(30)}
    assert proposed == {0.2, 0.4, 0.6, 0.8}
