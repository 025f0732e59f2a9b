"""What a trial costs besides itself: ask, hand over, record, tell, for trials that do nothing.

    python -m benchmarks.overhead [--trials 100] [--rounds 3] [--json]

All kinds search the same twelve keys with TPE, one trial at a time, and take turns round by round in one run. A round
is timed from the end of its first trial, so that no kind pays for starting its processes here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
import tomlkit

from search.backends.base import Backend
from search.backends.local import LocalBackend
from search.backends.table import TableBackend
from search.record import Cost, Score, TrialRecord
from search.run_config import Resources
from search.sampler import STARTUP_TRIALS, distributions
from search.storage.places import open_storage
from search.study import StudyDefinition, read_study
from search.trial import Job, metrics_of
from search.tuner import Tuner
from search.view import View
from sekd.cache import write_json
from sekd.preparation import Hashes, Prepared

SPACE: dict[str, dict[str, Any]] = {
    "student.width": {"choice": [4, 6, 8, 12]},
    "student.depth": {"choice": [2, 3, 4]},
    "student.gru_groups": {"choice": [1, 2, 4]},
    "distill.schedule.kind": {"choice": ["supervised", "one_step", "two_step"]},
    "distill.schedule.kd_only_fraction": {"float": [0.1, 0.5]},
    "distill.schedule.kd_weight": {"float": [0.2, 0.8]},
    "distill.dispatch.low_patch": {"int": [5, 40], "step": 5},
    "distill.dispatch.high_patch": {"int": [10, 80], "step": 10},
    "distill.dispatch.keep": {"float": [0.4, 1.0]},
    "train.lr": {"float": [1e-4, 1e-2], "log": True},
    "train.weight_decay": {"float": [0.0, 0.1]},
    "train.clip_norm": {"float": [1.0, 10.0]},
}
HASHES = Hashes(pool="pool", valid="valid", teacher="teacher")
BARE, MEMORY = "bare Optuna, SQLite with WAL", "bare Optuna, in memory"


def definition(folder: Path, trials: int) -> StudyDefinition:
    """Sampler and space of all kinds; its recordings are never looked at."""
    demo = {"manifest": "demo", "demo_minutes": 0.6}
    document = {
        "name": "null",
        "device": "raspberry-pi-4",
        "trials": trials,
        "objectives": {"quality": "pesq_wb", "cost": ["macs_per_s"]},
        "data": {"train": demo | {"pool_minutes": 0.2, "segment_s": 1.0}, "valid": demo | {"count": 2}},
        "teacher": {"network": {"channels": [4, 8, 8, 8]}, "train": {"steps": 3}},
        "search": {"sampler": "tpe"},
        "space": SPACE,
    }
    path = folder / "null.toml"
    path.write_text(tomlkit.dumps(document))
    return read_study(path)


def null_values(number: int) -> tuple[float, float]:
    """Quality and cost of a trial that did nothing: TPE has something to sort, the same for all kinds."""
    rng = random.Random(number)
    return rng.uniform(1, 3), rng.uniform(1e6, 2e7)


def null_record(job: Job) -> TrialRecord:
    quality, macs_per_s = null_values(job.number)
    cost = Cost(parameters=1, macs_per_s=macs_per_s, weight_bytes=4, state_bytes=4, algorithmic_latency_ms=32.0)
    return TrialRecord(
        trial_id=job.trial_id, variant_id=job.trial_id, number=job.number, status="COMPLETE", params=job.params,
        cost=cost, scores={"pesq_wb": Score(mean=quality, n=2)},
    )  # fmt: skip


def bare(study: StudyDefinition, folder: Path, memory: bool, work: Callable[[dict[str, Any]], None]) -> list[float]:
    """Ends of the trials of an Optuna study that is asked and told, and of nothing else."""
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=STARTUP_TRIALS)
    storage = None if memory else open_storage(folder)
    asked = optuna.create_study(storage=storage, sampler=sampler, directions=study.objectives.directions)
    spaces, ends = distributions(study), []
    for _ in range(study.trials):
        trial = asked.ask(spaces)
        work(trial.params)
        asked.tell(trial, null_values(trial.number))
        ends.append(time.monotonic())
    return ends


class Ends(View):
    """When each trial was on record."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def trial_ended(self, record: TrialRecord, done: int, wanted: int) -> None:
        self.at.append(time.monotonic())


def ours(study: StudyDefinition, folder: Path, backend: Backend) -> list[float]:
    """Ends of the trials of a search as `sekd launch` drives it."""
    means = {name: {"pesq_wb": {"mean": mean, "n": 2}} for name, mean in (("unprocessed", 1.2), ("teacher", 2.8))}
    write_json(folder / "baseline.json", {"of": [HASHES.valid, HASHES.teacher, *metrics_of(study)], "means": means})
    view = Ends()
    prepared = Prepared(None, folder / "valid", None, None, HASHES)
    Tuner(study, folder, backend, view, prepared=prepared).run()
    return view.at


@contextmanager
def answered(backend: type[Backend]) -> Iterator[type[Backend]]:
    """``backend`` with each trial's result lying in its folder already: all of its way, and no training."""
    submit = backend.submit

    def with_result(self: Backend, job: Job) -> None:
        write_json(job.folder / "result.json", null_record(job).model_dump(mode="json"))
        submit(self, job)

    backend.submit = with_result  # type: ignore[method-assign]
    try:
        yield backend
    finally:
        backend.submit = submit  # type: ignore[method-assign]


Kind = Callable[[StudyDefinition, Path], list[float]]


def kinds(stack: ExitStack, say: Callable[[str], None]) -> dict[str, Kind]:
    def local(study: StudyDefinition, folder: Path) -> list[float]:
        with answered(LocalBackend):
            return ours(study, folder, LocalBackend(1, 1, folder / "logs"))

    found: dict[str, Kind] = {
        BARE: lambda study, folder: bare(study, folder, False, lambda params: None),
        MEMORY: lambda study, folder: bare(study, folder, True, lambda params: None),
        "ours, recorded results": lambda study, folder: ours(study, folder, TableBackend(null_record)),
        "ours, local processes": local,
    }
    return found | _with_ray(stack, say)


def _with_ray(stack: ExitStack, say: Callable[[str], None]) -> dict[str, Kind]:
    """One cluster for all rounds; each kind's first trial, which starts a worker of Ray, is not timed."""
    try:
        import ray
    except ImportError as error:
        say(f"left out, Ray: {error}")
        return {}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    stack.callback(ray.shutdown)

    @ray.remote(num_cpus=1)
    def nothing(params: dict[str, Any]) -> None:
        pass

    def tasks(study: StudyDefinition, folder: Path) -> list[float]:
        return bare(study, folder, False, lambda params: ray.get(nothing.remote(params)))

    found: dict[str, Kind] = {"bare Optuna, SQLite with WAL, Ray tasks": tasks}
    try:
        from search.backends.ray.backend import RayBackend
    except ImportError as error:
        say(f"left out, our Ray backend: {error}")
        return found

    def on_ray(study: StudyDefinition, folder: Path) -> list[float]:
        with answered(RayBackend):
            return ours(study, folder, RayBackend(1, folder, Resources(cpus=1.0)))

    return found | {"ours, Ray Tune": on_ray}


def measured(trials: int, rounds: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Kind to the milliseconds per trial of each round."""
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["SEKD_HOME"], os.environ["SEKD_LOCKS"] = str(scratch), str(scratch / "locks")
        study = definition(scratch, trials)
        order = list(kinds(stack, say).items())
        for number in range(rounds):
            for name, kind in order[number % len(order) :] + order[: number % len(order)]:
                folder = scratch / f"{number}-{name.replace(' ', '-').replace(',', '')}"
                folder.mkdir()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ends = kind(study, folder)
                times.setdefault(name, []).append(1000 * (ends[-1] - ends[0]) / (len(ends) - 1))
                say(f"round {number + 1}, {name}: {times[name][-1]:.1f} ms per trial")
    return {name: times[name] for name, _ in order}


def table(times: dict[str, list[float]]) -> str:
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = ["| kind | ms per trial, median (all rounds) | to bare, SQLite | to bare, memory |", "|---|---|---|---|"]
    for name, values in times.items():
        rounds = ", ".join(f"{value:.1f}" for value in sorted(values))
        ratios = [f"{medians[name] / medians[other]:.2f}" for other in (BARE, MEMORY)]
        rows.append(f"| {name} | {medians[name]:.1f} ({rounds}) | {ratios[0]} | {ratios[1]} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times = measured(options.trials, options.rounds, (lambda line: None) if options.json else print)
    assert all(math.isfinite(value) for values in times.values() for value in values)
    print(json.dumps({"trials": options.trials, "ms_per_trial": times}) if options.json else table(times))


if __name__ == "__main__":
    main()
