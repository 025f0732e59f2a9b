"""A journal file that was torn is mended, with nothing lost that was told to anybody; no death locks it for ever."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import optuna
import pytest
from definitions import recorded, write_definition
from drive_table import drive

from search.storage.journal import mend, operations
from search.storage.places import open_storage
from search.store import Store
from search.study import read_study
from sekd.errors import InputError


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEKD_HOME", str(tmp_path / "home"))


@pytest.fixture
def journal(tmp_path):
    """A journal of a whole search, and its URL."""
    write_definition(tmp_path, {"trials": 8})
    path = tmp_path / "study.journal"
    drive(tmp_path, storage=f"journal://{path}")
    return path


def trials_of(path):
    return optuna.load_study(study_name="tiny", storage=open_storage(path.parent, f"journal://{path}")).trials


def op(number):
    return json.dumps({"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {"n": number}}).encode()


def test_sixty_random_truncations_lose_only_what_was_not_told(tmp_path, journal):
    seed = int(os.environ.get("SEKD_TEST_SEED") or time.time())
    print(f"SEKD_TEST_SEED={seed}")
    rng, whole, before = random.Random(seed), journal.read_bytes(), trials_of(journal)
    told = ends_of_trials(whole)
    for cut in [len(whole) - 1, *rng.sample(range(len(whole) // 10, len(whole)), 60)]:
        journal.write_bytes(whole[:cut])
        said = []
        open_storage(tmp_path, f"journal://{journal}", say=said.append)
        after = journal.read_bytes()
        assert after == whole[: whole.rfind(b"\n", 0, cut) + 1]
        assert len(said) == (whole[cut - 1 : cut] != b"\n")
        finished = [trial for trial in trials_of(journal) if trial.state.is_finished()]
        assert finished == before[: sum(end <= cut for end in told)]
    drive(tmp_path, storage=f"journal://{journal}")  # goes on from the last cut
    assert [t.params for t in trials_of(journal)] == [t.params for t in before]


def ends_of_trials(whole):
    """After how many bytes each trial is on record."""
    ends, at = [], 0
    for line in whole.splitlines(keepends=True):
        at += len(line)
        operation = json.loads(line)
        if operation["op_code"] == 6 and operation["state"] != 0:
            ends.append(at)
    return ends


def test_a_write_glued_to_a_torn_one_is_kept_and_the_torn_one_dropped(tmp_path, journal):
    whole, before = journal.read_bytes(), trials_of(journal)
    rng = random.Random(3)
    for _ in range(20):
        lines = whole.splitlines(keepends=True)
        at = rng.randrange(1, len(lines))
        torn = rng.choice(lines).rstrip(b"\n")
        lines.insert(at, torn[: rng.randrange(1, len(torn))])  # without its end
        journal.write_bytes(b"".join(lines))
        said = []
        open_storage(tmp_path, f"journal://{journal}", say=said.append)
        assert journal.read_bytes() == whole and f"torn at line {at + 1}" in said[0]
    assert trials_of(journal) == before


def test_the_file_as_it_was_is_kept(tmp_path):
    path = tmp_path / "j"
    for number, content in enumerate([op(0) + b"\n" + op(1)[:9], op(2) + b"\n" + b"\0" * 40 + b"\n"], 1):
        path.write_bytes(content)
        mend(path, lambda line: None)
        assert (tmp_path / f"j.broken-{number}").read_bytes() == content
        assert path.read_bytes() == content.splitlines(keepends=True)[0]


@pytest.mark.parametrize(("content", "said"), [
    (b"my notes\n", "no journal of Optuna's"),
    (op(0) + b"\nrotten\n" + op(1) + b"\n", "line 2 is damaged, not torn"),
    (op(0) + b"\n17\n" + op(1), "line 2 is damaged, not torn"),
])  # fmt: skip
def test_what_no_kill_explains_is_left_alone(tmp_path, content, said):
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        open_storage(tmp_path, f"journal://{path}")
    assert path.read_bytes() == content and not list(tmp_path.glob("j.broken-*"))


def test_operations_of_a_line():
    assert operations(op(0)) == [op(0)]
    assert operations(op(0)[:30] + op(1)[:-1] + op(2)) == [op(2)]
    assert operations(op(0) + op(1)) == [op(0), op(1)]
    quoted = json.dumps({"op_code": 8, "worker_id": "w", "user_attr": {"x": op(7).decode()}}).encode()
    assert operations(quoted[:-1]) == []  # what stands in a text is no operation


def test_a_line_torn_while_another_has_the_file_open_swallows_nothing(tmp_path):
    url, said = f"journal://{tmp_path}/j", []
    storage = open_storage(tmp_path, url, say=said.append)
    study = optuna.create_study(study_name="s", storage=storage)
    with open(tmp_path / "j", "ab") as file:
        file.write(op(0)[:25])
    study.set_user_attr("after", 1)
    assert optuna.load_study(study_name="s", storage=open_storage(tmp_path, url)).user_attrs == {"after": 1}
    assert len(said) == 1 and "mended" in said[0]


HOLDER = """
import sys, time
from pathlib import Path
from search.storage.journal import JournalLock
lock = JournalLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_had_in_seconds(tmp_path):
    url = f"journal://{tmp_path}/j"
    study = optuna.create_study(study_name="s", storage=open_storage(tmp_path, url))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "j"], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    started = time.monotonic()
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    study.set_user_attr("after", 1)
    assert time.monotonic() - started < 9  # Optuna's part of the lock has 5 s of grace, looked at once a second


def test_a_living_process_that_keeps_the_lock_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("search.storage.journal.PATIENCE_S", 0.2)
    write_definition(tmp_path, {"trials": 2})
    url = f"journal://{tmp_path}/j"
    storage = open_storage(tmp_path, url)
    store = Store.create(read_study(tmp_path / "tiny.toml"), storage)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "j"], stdout=subprocess.PIPE)
    holder.stdout.readline()
    try:
        with pytest.raises(InputError, match="storage failed: .*j.flock: another process has held it"):
            store.note("x", 1)
        with pytest.raises(InputError, match="cannot open the study's storage: .*another process has held it"):
            open_storage(tmp_path, url)
    finally:
        holder.kill()
        holder.communicate()


def test_two_processes_lose_no_operation(tmp_path):
    url = f"journal://{tmp_path}/j"
    optuna.create_study(study_name="s", storage=open_storage(tmp_path, url))
    code = f"""
import optuna
from pathlib import Path
from search.storage.places import open_storage
study = optuna.load_study(study_name="s", storage=open_storage(Path({str(tmp_path)!r}), {url!r}))
for _ in range(40):
    study.tell(study.ask(), 1.0)
"""
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    trials = optuna.load_study(study_name="s", storage=open_storage(tmp_path, url)).trials
    assert [trial.number for trial in trials] == list(range(80)) and all(t.state.is_finished() for t in trials)


def test_a_full_disk_tears_nothing_for_good(tmp_path, monkeypatch):
    write_definition(tmp_path, {"trials": 4})
    url = f"journal://{tmp_path}/study.journal"
    calls = iter(range(10_000))
    real = os.fsync

    def full(descriptor):
        if next(calls) == 18:
            with open(tmp_path / "study.journal", "r+b") as file:  # half of the write arrived
                file.truncate(file.seek(0, os.SEEK_END) - 20)
            raise OSError(28, "No space left on device")
        return real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="storage failed: .*No space left.*every finished trial is kept"):
            drive(tmp_path, storage=url, lookup=recorded)
    assert sum(r.status == "COMPLETE" for r in drive(tmp_path, storage=url)[0].store.records()) >= 4
