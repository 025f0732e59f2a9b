"""How one driver bears many workers and a long record: its own work is real, the trials' time is made up.

``parts``: seconds of the driver for one more trial after so many, by part, and the line through them.
``workers``: the share of time that workers train, with the real driver, on a fake clock.
``paper``: the same by such a line, without a driver, as far as one likes.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import sqlite3
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import optuna

import search.tuner
from benchmarks.fake_clock import FakeClock, on_paper
from benchmarks.parts import NAMES, WORKERS, Parts
from search.record import Cost, Score, TrialRecord, Violation
from search.sampler import constraints, distributions, stored, told
from search.store import RECORD, Store
from search.study import StudyDefinition, read_study
from search.trial import metrics_of
from search.tuner import Interrupted, Tuner, View
from sekd.cache import write_json
from sekd.config import content_hash
from sekd.preparation import Hashes, Prepared

DEFINITION = """
name = "scale"
device = "raspberry-pi-4"
trials = 1000000
seed = 3
search = { sampler = "SAMPLER" }
objectives = { quality = "pesq_wb", cost = ["macs_per_s", "state_kib"] }
budget = { macs_per_s = 100e6 }
teacher = { network = { channels = [4, 8, 8, 8] }, train = { steps = 3, batch = 2, lr = 3e-3 } }
base = { train = { steps = 3, batch = 2 } }

[data]
train = { manifest = "demo", demo_minutes = 0.6, pool_minutes = 0.2, segment_s = 1.0 }
valid = { manifest = "demo", demo_minutes = 0.6, count = 2, segment_s = 2.0 }

[space]
"student.width" = { int = [4, 64] }
"distill.schedule.kind" = { choice = ["supervised", "one_step", "two_step"] }
"distill.schedule.kd_only_fraction" = { float = [0.1, 0.5], when = "distill.schedule.kind starts with two_step" }
"train.lr" = { float = [1e-3, 6e-3], log = true }
"train.weight_decay" = { float = [0.0, 0.1] }
"""


class Measured(NamedTuple):
    """One driver, steady, after ``records`` trials with all its workers at work."""

    records: int
    milliseconds: dict[str, float]  # of one trial, by part
    utilisation: float
    resident_mib: float
    kib_per_trial: float | None  # of the database


def result(number: int, trial_id: str, params: dict[str, Any], limit: float, variants: int) -> TrialRecord:
    """What a student is taken to come to: wider costs more and sounds better; about a quarter is over the budget."""
    rng, width = random.Random(trial_id), params["student.width"]
    macs_per_s = 2.6e5 * width**1.5

    def student(setting: dict[str, Any], share: float) -> TrialRecord:
        pesq = 1.3 + 0.3 * math.log(width * share) - 0.2 * abs(math.log(params["train.lr"] / 3e-3)) + rng.gauss(0, 0.05)
        cost = Cost(
            parameters=1000 * width, macs_per_s=macs_per_s * share, weight_bytes=400 * width,
            state_bytes=64 * width + rng.randrange(2048), algorithmic_latency_ms=32.0,
        )  # fmt: skip
        scores = {name: Score(mean=pesq, n=64, low=pesq - 0.1, high=pesq + 0.1) for name in ("pesq_wb", "estoi")}
        name = content_hash([trial_id, setting], 16) if setting else trial_id
        return TrialRecord(
            trial_id=trial_id, variant_id=name, number=number, status="COMPLETE", params={} if setting else params,
            variant=setting, cost=cost, scores=scores,
        )  # fmt: skip

    whole = student({}, 1.0)
    if macs_per_s > limit:
        broken = [Violation(key="macs_per_s", value=macs_per_s, limit=limit)]
        return whole.model_copy(update={"status": "INFEASIBLE", "scores": {}, "violations": broken})
    settings = [student({"student.steps": n + 1}, (n + 1) / variants) for n in range(variants)]
    return whole.model_copy(update={"variants": settings})


class Enough(View):
    """Ends the search, as Ctrl-C does, so many trials after the first has ended: by then all workers are at work."""

    def __init__(self, parts: Parts, ended: int) -> None:
        self._parts, self._wanted, self._ended = parts, ended, 0

    def trial_ended(self, record: TrialRecord, done: int, wanted: int) -> None:
        if self._ended == 0:
            self._parts.clear()
        if self._ended == self._wanted:
            raise KeyboardInterrupt
        self._ended += 1


def measured(options: argparse.Namespace, records: int, workers: int) -> Measured:
    """The real driver with ``workers`` on a record of ``records`` at the start."""
    memory = options.storage == "memory"
    clock = time.process_time if memory else time.perf_counter  # a disk and a server are waited for
    parts = Parts(clock)
    view, limit, variants = Enough(parts, options.trials), 100e6, options.variants
    backend = FakeClock(
        workers, 60 * options.minutes, lambda job: result(job.number, job.trial_id, job.params, limit, variants), clock
    )
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        (folder / "scale.toml").write_text(DEFINITION.replace("SAMPLER", options.sampler))
        study, run = read_study(folder / "scale.toml"), folder / "run"
        settled = prepared(study, run)
        url = None if options.storage == "sqlite" else options.storage
        storage = optuna.storages.InMemoryStorage() if memory else search.tuner.open_storage(run, url)
        fill(Store.create(study, storage)._study, study, records, variants)
        with mock.patch.object(search.tuner, "open_storage", lambda *_, **__: storage):
            tuner = Tuner(study, run, backend, view, prepared=settled)
        optuna_study = tuner.store._study
        for method in ("submit", "collect"):
            setattr(backend, method, parts.timed(WORKERS, getattr(backend, method)))
        with parts.watching(optuna_study._storage):
            try:
                tuner.run(10**6)
            except Interrupted:
                pass
        written = size_bytes(run / "study.db")
        n = len(optuna_study.get_trials(deepcopy=False))
    spent = {part: 1000 * parts.seconds[part] / options.trials for part in NAMES}
    return Measured(records, spent, backend.utilisation, resident_mib(), written / 1024 / n if written else None)


def prepared(study: StudyDefinition, folder: Path) -> Prepared:
    """A run folder whose shared parts need no making."""
    folder.mkdir(parents=True)
    hashes = Hashes(pool="pool", valid="valid", teacher="teacher")
    means = {name: {"pesq_wb": {"mean": mean, "n": 2}} for name, mean in (("unprocessed", 1.2), ("teacher", 2.8))}
    write_json(folder / "baseline.json", {"of": [hashes.valid, hashes.teacher, *metrics_of(study)], "means": means})
    return Prepared(None, folder / "valid", None, None, hashes)


def fill(target: optuna.Study, study: StudyDefinition, records: int, variants: int) -> None:
    """Random trials, told as the driver tells them but for who speaks: the first variant does."""
    rng, spaces = random.Random(0), distributions(study)
    for number in range(records):
        params = study.sample(rng)
        record = result(number, content_hash([number, params], 16), params, 100e6, variants)
        speaker = record.variants[0] if record.variants else record
        state, values = told(speaker, study, [])
        kept = stored(params, study)
        target.add_trial(
            optuna.create_trial(
                state=state,
                values=values,
                params=kept,
                distributions={key: spaces[key] for key in kept},
                user_attrs={RECORD: record.model_dump_json()},
                constraints=constraints(speaker, study),
            )  # fmt: skip
        )


def size_bytes(database: Path) -> int:
    """Of SQLite without what its log holds besides; 0 where there is none."""
    if not database.exists():
        return 0
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (pages,), (page_bytes,) = (connection.execute(f"PRAGMA page_{what}").fetchone() for what in ("count", "size"))
    return pages * page_bytes


def resident_mib() -> float:
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def line(lengths: list[int], seconds: list[float]) -> tuple[float, float]:
    """Of ``seconds`` = a + b x length, least squares of relative errors."""
    weights = 1 / np.array(seconds)
    columns = np.stack([np.ones(len(lengths)), np.array(lengths, dtype=float)], axis=1)
    (a, b), *_ = np.linalg.lstsq(columns * weights[:, None], np.ones(len(lengths)), rcond=None)
    return float(a), float(b)


def parts_table(options: argparse.Namespace) -> None:
    clock = "processor time" if options.storage == "memory" else "wall time"
    print(f"{options.sampler}, {options.storage}, {options.workers[0]} workers, {options.variants} variants a trial")
    print(f"driver per trial, ms of {clock}, over {options.trials} trials")
    print(f"{'n':>7s} " + " ".join(f"{name:>8s}" for name in (*NAMES, "total")) + "  RSS MiB  KiB/trial")
    totals = []
    for records in options.records:
        found = measured(options, records, options.workers[0])
        totals.append(sum(found.milliseconds.values()) / 1000)
        figures = [*found.milliseconds.values(), 1000 * totals[-1]]
        size = "-" if found.kib_per_trial is None else f"{found.kib_per_trial:.1f}"
        print(
            f"{records:7d} " + " ".join(f"{v:8.2f}" for v in figures) + f"  {found.resident_mib:7.0f}  {size}",
            flush=True,
        )
    if len(totals) > 1:
        a, b = line(options.records, totals)
        worst = max(abs((a + b * n) / s - 1) for n, s in zip(options.records, totals, strict=True))
        slope = math.log(totals[-1] / totals[-2]) / math.log(options.records[-1] / options.records[-2])
        print(f"line: {1000 * a:.1f} ms + {1e6 * b:.2f} us x n, off by at most {worst:.0%}; last exponent {slope:.2f}")
        if b > 0:
            print(f"extrapolated to n = 100,000: {a + b * 1e5:.2f} s a trial")


def workers_table(options: argparse.Namespace) -> None:
    print(f"{options.sampler}, {options.storage}, trials of {options.minutes:g} min")
    print("workers  records before  driver ms a trial  utilisation  = M / (W x driver), at most 1")
    for workers in options.workers:
        for records in options.records:
            found = measured(options, records, workers)
            each = sum(found.milliseconds.values()) / 1000
            bound = min(1.0, 60 * options.minutes / (workers * each))
            print(f"{workers:7d} {records:14d} {1000 * each:18.1f} {found.utilisation:12.1%} {bound:12.1%}", flush=True)


def paper_table(options: argparse.Namespace) -> None:
    constant, linear, square, each = options.law
    print(f"driver per trial: {constant:g} ms + {linear:g} us n + {square:g} ns n^2 + {each:g} us W")
    for workers in options.workers:

        def cost_s(n: int, others: float = each * workers / 1e6) -> float:
            return constant / 1e3 + linear * n / 1e6 + square * n**2 / 1e9 + others

        found = on_paper(workers, options.trials, 60 * options.minutes, cost_s)
        ideal = options.trials * options.minutes / 60 / workers
        shares = "  ".join(f"{n:,}: {share:.0%}" for n, _, share in found if n >= 1000)
        print(f"{workers:6d} workers: {found[-1][1]:8.1f} h, {ideal:.1f} h without a driver; training up to {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("parts", "workers", "paper"))
    parser.add_argument("--sampler", default="tpe", choices=("tpe", "random", "gp"))
    parser.add_argument("--storage", default="memory", help="memory, sqlite, or a URL")
    parser.add_argument("--records", type=int, nargs="+", default=[100, 300, 1000, 3000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--minutes", type=float, default=10.0, help="mean length of a trial")
    parser.add_argument("--trials", type=int, default=30, help="that are watched")
    parser.add_argument("--variants", type=int, default=0, help="settings at which each student is tried")
    parser.add_argument(
        "--law", type=float, nargs=4, default=[5, 22, 2.5, 0], metavar=("MS", "US_N", "NS_N2", "US_W"),
        help="of paper: ms, us per trial on record, ns per its square, us per worker",
    )  # fmt: skip
    options = parser.parse_args()
    {"parts": parts_table, "workers": workers_table, "paper": paper_table}[options.what](options)


if __name__ == "__main__":
    main()
