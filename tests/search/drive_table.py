"""A driver whose trials are looked up: ``drive_table.py FOLDER [--join] [SECONDS]``, to be killed at any point."""

import json
import sys
import time
from pathlib import Path

from definitions import prepared_run, recorded

from search.backends.table import TableBackend
from search.run_folder import driving
from search.study import read_study
from search.tuner import Tuner
from search.view import View


def drive(folder, trials=None, lookup=recorded, view=None, *, join=False):
    """Drives the study ``folder/tiny.toml`` in ``folder/run``; the tuner and its backend, done."""
    study = read_study(folder / "tiny.toml")
    backend = TableBackend(lookup)
    with_baseline = prepared_run(study, folder / "run")
    with driving(folder / "run", join=join):
        tuner = Tuner(study, folder / "run", backend, view or View(), prepared=with_baseline, join=join)
        tuner.run(trials)
    return tuner, backend


if __name__ == "__main__":

    class Told(View):
        def say(self, line):
            print(json.dumps(line), flush=True)

        def trial_ended(self, record, done, wanted):
            print(json.dumps([record.number, record.params]), flush=True)

    def slowly(job):
        print(json.dumps({"began": job.number, "trial_id": job.trial_id}), flush=True)
        time.sleep(seconds)
        return recorded(job)

    words = [word for word in sys.argv[2:] if word != "--join"]
    seconds = float(words[0]) if words else 0.0
    drive(Path(sys.argv[1]), lookup=slowly if words else recorded, view=Told(), join="--join" in sys.argv)
