"""Real short trials on one and on two local workers: wall time per trial, and how much faster two are.

    python -m benchmarks.workers [--trials 8] [--steps 300] [--rounds 2] [--measured] [--json]

The trials are the same ones either way: they are given, not proposed. Rounds take turns, one worker first, then two,
each torch thread on a core of its own. Whole is from launch to the end; steady is from the first result to the last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import tomlkit

from search.driver import RunOptions, drive
from search.record import TrialRecord
from search.view import View

COUNTED = {"device": "raspberry-pi-4", "objectives": {"quality": "pesq_wb", "cost": ["macs_per_s"]}}
MEASURED = {"device": "x86-1core", "objectives": {"quality": "pesq_wb", "cost": ["latency_ms"]}}
RATES = {"float": [1e-3, 6e-3], "log": True}


class Seconds(NamedTuple):
    """Wall time per trial."""

    whole: float
    steady: float


def write_study(folder: Path, name: str, trials: int, steps: int, measured: bool) -> Path:
    """Equal networks that learn at different rates: as much work in each trial, and none the same."""
    demo = {"manifest": "demo", "demo_minutes": 0.6}
    given = [{"train.lr": 1e-3 * 5 ** (number / trials)} for number in range(trials)]
    document: dict[str, Any] = {
        "name": name,
        **(MEASURED if measured else COUNTED),
        "trials": trials,
        "data": {
            "train": demo | {"pool_minutes": 0.2, "segment_s": 1.0},
            "valid": demo | {"count": 2, "segment_s": 2.0},
        },
        "base": {
            "student": {"width": 8},
            "distill": {"schedule": {"kind": "supervised"}},
            "train": {"steps": steps, "batch": 2},
        },
        "space": {"train.lr": RATES},
        "enqueue": given,
    }
    path = folder / f"{name}.toml"
    path.write_text(tomlkit.dumps(document))
    return path


class Ends(View):
    """When each trial was on record; none may have failed."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def trial_ended(self, record: TrialRecord, done: int, wanted: int) -> None:
        assert record.status == "COMPLETE", record.reason
        self.at.append(time.monotonic())


def once(path: Path, workers: int) -> Seconds:
    view, began = Ends(), time.monotonic()
    drive(path, RunOptions(workers=workers), lambda study: view)
    # Two workers bring two first results at once: the steady part begins with the last of these.
    first, trials = view.at[workers - 1], len(view.at)
    return Seconds((view.at[-1] - began) / trials, (view.at[-1] - first) / (trials - workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--measured", action="store_true", help="latency measured, for which training stands still")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times: dict[int, list[Seconds]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SEKD_HOME"], os.environ["SEKD_LOCKS"] = scratch, f"{scratch}/locks"

        def study(name: str, trials: int) -> Path:
            return write_study(Path(scratch), name, trials, options.steps, options.measured)

        once(study("warm-up", 2), 1)  # the corpus is made here, once
        for number in range(options.rounds):
            for workers in (1, 2):
                path = study(f"round-{number}-{workers}", options.trials)
                times[workers].append(once(path, workers))
                if not options.json:
                    print(f"round {number + 1}, workers {workers}: {_shown(times[workers][-1])}", flush=True)
    if options.json:
        print(json.dumps({str(workers): [s._asdict() for s in seconds] for workers, seconds in times.items()}))
        return
    for part in Seconds._fields:
        one, two = (statistics.median(getattr(s, part) for s in times[workers]) for workers in (1, 2))
        print(f"{part}: {one:.2f} s per trial with one worker, {two:.2f} s with two: {one / two:.2f} times as fast")


def _shown(seconds: Seconds) -> str:
    return f"{seconds.whole:.2f} s per trial on the whole, {seconds.steady:.2f} s steady"


if __name__ == "__main__":
    main()
