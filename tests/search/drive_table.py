"""A driver whose trials are looked up, as a process of its own: to be joined, stopped or killed at any point."""

import argparse
import json
import time
from pathlib import Path

from definitions import prepared_run, recorded

from search.backends.table import TableBackend
from search.run_folder import driving
from search.study import read_study
from search.tuner import Tuner
from search.view import View


def drive(folder, trials=None, lookup=recorded, view=None, *, storage=None, join=False):
    """Drives the study ``folder/tiny.toml`` in ``folder/run``; the tuner and its backend, done."""
    study = read_study(folder / "tiny.toml")
    backend = TableBackend(lookup)
    with_baseline = prepared_run(study, folder / "run")
    with driving(folder / "run", join=join):
        tuner = Tuner(
            study, folder / "run", backend, view or View(), storage=storage, prepared=with_baseline, join=join
        )  # fmt: skip
        tuner.run(trials)
    return tuner, backend


class Told(View):
    """Events as lines of JSON: a list for a trial that is on record, text for what was said."""

    def say(self, line):
        print(json.dumps(line), flush=True)

    def trial_ended(self, record, done, wanted):
        print(json.dumps([record.number, record.params]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--storage")
    parser.add_argument("--join", action="store_true")
    parser.add_argument("--seconds", type=float, help="of each trial; then its beginning is told as well")
    options = parser.parse_args()

    def slowly(job):
        if options.seconds is not None:
            print(json.dumps({"began": job.number, "trial_id": job.trial_id}), flush=True)
            time.sleep(options.seconds)
        return recorded(job)

    drive(options.folder, lookup=slowly, view=Told(), storage=options.storage, join=options.join)
