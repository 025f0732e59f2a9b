"""A driver whose trials are looked up: ``drive_table.py FOLDER [STORAGE]``, to be killed at any point."""

import json
import sys
from pathlib import Path

from definitions import prepared_run, recorded

from search.backends.table import TableBackend
from search.run_folder import driving
from search.study import read_study
from search.tuner import Tuner, View


def drive(folder, trials=None, lookup=recorded, view=None, storage=None):
    """Drives the study ``folder/tiny.toml`` in ``folder/run``; the tuner and its backend, done."""
    study = read_study(folder / "tiny.toml")
    backend = TableBackend(lookup)
    with_baseline = prepared_run(study, folder / "run")
    with driving(folder / "run"):
        tuner = Tuner(study, folder / "run", backend, view or View(), storage=storage, prepared=with_baseline)
        tuner.run(trials)
    return tuner, backend


if __name__ == "__main__":

    class Told(View):
        def trial_ended(self, record, done, wanted):
            print(json.dumps([record.number, record.params]), flush=True)

    drive(Path(sys.argv[1]), view=Told(), storage=sys.argv[2] if len(sys.argv) > 2 else None)
