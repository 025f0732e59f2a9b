"""`sekd copy`: a study moves to another storage whole, or stays where it is."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace

import optuna
import pytest
from definitions import definition, recorded, write_definition
from drive_table import drive

from search.run_folder import driving, keep_definition
from search.storage import copying
from search.storage.copying import UNFINISHED, copy_study
from search.storage.places import open_storage, remembered
from search.storage_commands import copy
from search.store import Store
from search.study import read_study
from sekd.errors import InputError


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEKD_HOME", str(tmp_path / "home"))


@pytest.fixture
def run(tmp_path):
    """A run that was interrupted: one trial waits, one is running."""

    def breaks(job):
        if job.number == 6:
            raise ConnectionError
        return recorded(job)

    path = write_definition(tmp_path)
    with pytest.raises(ConnectionError):
        drive(tmp_path, lookup=breaks)
    keep_definition(path, tmp_path / "run")
    optuna.load_study(study_name="tiny", storage=open_storage(tmp_path / "run")).enqueue_trial({"student.width": 4})
    return tmp_path / "run"


def trials(folder, url=None):
    return optuna.load_study(study_name="tiny", storage=open_storage(folder, url)).get_trials()


def test_everything_arrives_and_the_run_goes_on_there(tmp_path, run, capsys, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        before, url = trials(run), f"journal://{tmp_path}/study.journal"
        assert {trial.state.name for trial in before} >= {"COMPLETE", "RUNNING", "WAITING"}
        assert copy(Namespace(study=str(run), to=url, storage=None, json=True)) == 0
        told = json.loads(capsys.readouterr().out)
        assert told == {"study": "tiny", "trials": len(before), "storage": url} and remembered(run) == url
        # Ids are a storage's own.
        assert [{**vars(t), "_trial_id": 0} for t in trials(run)] == [{**vars(t), "_trial_id": 0} for t in before]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_search_goes_on_in_the_copy_as_it_would_have(tmp_path, run):
    path = f"journal://{tmp_path}/study.journal"
    copy_study(run, path)
    there = [record.params for record in drive(tmp_path)[0].store.records()]  # the run remembers
    (run / "storage.json").unlink()
    assert [record.params for record in drive(tmp_path)[0].store.records()] == there


def test_it_says_what_is_next(tmp_path, run, capsys):
    assert copy(Namespace(study=str(run), to=f"sqlite:///{tmp_path}/b.db", storage=None, json=False)) == 0
    out = capsys.readouterr().out
    assert f"to sqlite:///{tmp_path}/b.db" in out and "next: sekd status tiny" in out


def test_another_study_of_that_name_is_left_alone(tmp_path, run):
    url = f"sqlite:///{tmp_path}/b.db"
    optuna.create_study(study_name="tiny", storage=open_storage(tmp_path, url)).enqueue_trial({})
    with pytest.raises(InputError, match="the target holds another study 'tiny' already"):
        copy_study(run, url)
    with pytest.raises(InputError, match="the study is there already"):
        copy_study(run, f"sqlite:///{run}/study.db")
    assert len(trials(run, url)) == 1 and remembered(run) is None


def test_a_driver_at_work_and_an_unknown_study_are_refused(tmp_path, run):
    with driving(run), pytest.raises(InputError, match="another driver is at work"):
        copy_study(run, f"sqlite:///{tmp_path}/b.db")
    with pytest.raises(InputError, match="no study 'tiny' in this storage"):
        copy_study(run, f"sqlite:///{tmp_path}/b.db", storage=f"sqlite:///{tmp_path}/c.db")


KILLED = """
import os, signal, sys
from pathlib import Path
from search.storage import copying
def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(copying, sys.argv[3], dies)
copying.copy_study(Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("kind", ["sqlite", "journal", pytest.param("postgresql", marks=pytest.mark.services)])
def test_a_killed_copy_opens_as_no_study_and_the_next_try_makes_it(tmp_path, run, kind, request):
    server = kind == "postgresql"
    url = request.getfixturevalue("postgres").fresh() if server else f"{kind}:///{tmp_path}/b"
    before = len(trials(run))
    killed = subprocess.run([sys.executable, "-c", KILLED, run, url, "_compare"])
    assert killed.returncode == -signal.SIGKILL and remembered(run) is None
    assert len(trials(run, url)) == before
    with pytest.raises(InputError, match=UNFINISHED):
        Store(read_study(run / "definition.toml"), open_storage(run, url))
    with pytest.raises(InputError, match=UNFINISHED):
        copy_study(run, f"sqlite:///{tmp_path}/c.db", storage=url)
    assert copy_study(run, url).trials == before == len(trials(run, url))


def test_killed_before_it_was_remembered_the_next_try_remembers(tmp_path, run):
    url = f"sqlite:///{tmp_path}/b.db"
    assert subprocess.run([sys.executable, "-c", KILLED, run, url, "remember"]).returncode == -signal.SIGKILL
    assert remembered(run) is None
    copy_study(run, url)
    assert remembered(run) == url


def test_a_study_written_meanwhile_is_not_taken_for_whole(tmp_path, run, monkeypatch):
    compare, study = copying._compare, optuna.load_study(study_name="tiny", storage=open_storage(run))

    def meanwhile(*args):
        study.enqueue_trial({"student.width": 6})
        compare(*args)

    monkeypatch.setattr(copying, "_compare", meanwhile)
    with pytest.raises(InputError, match="was written while it was copied"):
        copy_study(run, f"sqlite:///{tmp_path}/b.db")
    assert remembered(run) is None


def test_a_storage_that_breaks_leaves_the_run_as_it_was(tmp_path, run, monkeypatch):
    def breaks(*_, **__):
        raise optuna.exceptions.StorageInternalError("disk full")

    monkeypatch.setattr(optuna.storages.RDBStorage, "create_new_trial", breaks)
    with pytest.raises(InputError, match="a storage failed: disk full; the run stays"):
        copy_study(run, f"sqlite:///{tmp_path}/b.db")
    assert remembered(run) is None


def test_a_run_that_was_never_launched(tmp_path):
    definition(tmp_path, name="tiny")
    (tmp_path / "run").mkdir()
    os.rename(tmp_path / "tiny.toml", tmp_path / "run/definition.toml")
    with pytest.raises(InputError, match="no study.db here yet"):
        copy_study(tmp_path / "run", f"sqlite:///{tmp_path}/b.db")
