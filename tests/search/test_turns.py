"""Turns: one holder at a time across processes, given up by death, and never lost in silence."""

import subprocess
import sys
import threading
import time

import optuna
import pytest

from search.storage.places import open_storage
from search.storage.turns import TurnLost, one_at_a_time

PLACES = ["sqlite", "journal", pytest.param("postgresql", marks=pytest.mark.services)]


@pytest.fixture(params=PLACES)
def url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").fresh()
    return f"{request.param}:///{tmp_path}/study"


ADDS = """
import sys, time
from pathlib import Path
from search.storage.places import open_storage
from search.storage.turns import one_at_a_time
storage, counter = open_storage(Path(), sys.argv[1]), Path(sys.argv[2])
for _ in range(60):
    with one_at_a_time(storage, "add"):
        value = int(counter.read_text())
        time.sleep(0.0005)
        counter.write_text(str(value + 1))
"""

HOLDS = """
import sys, time
from pathlib import Path
from search.storage.places import open_storage
from search.storage.turns import one_at_a_time
with one_at_a_time(open_storage(Path(), sys.argv[1]), "hold"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_no_increment_is_lost(url, tmp_path):
    open_storage(tmp_path, url)
    counter = tmp_path / "counter"
    counter.write_text("0")
    both = [subprocess.Popen([sys.executable, "-c", ADDS, url, counter]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert counter.read_text() == "120"


def test_the_death_of_the_holder_frees_it(url, tmp_path):
    storage = open_storage(tmp_path, url)
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, url], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    threading.Timer(0.3, holder.kill).start()
    started = time.monotonic()
    with one_at_a_time(storage, "hold"):
        assert 0.2 < time.monotonic() - started < 3
    holder.communicate()


def test_other_names_do_not_wait_and_the_same_is_an_error(url, tmp_path):
    storage = open_storage(tmp_path, url)
    with one_at_a_time(storage, "a"):
        with one_at_a_time(storage, "a name / with anything"):
            pass
        with pytest.raises(RuntimeError, match="'a' is this thread's already"):
            with one_at_a_time(open_storage(tmp_path, url), "a"):
                pass
    with one_at_a_time(optuna.storages.get_storage(storage), "a"):  # as a study wraps it
        pass


def test_what_fails_inside_gives_it_up_and_is_told(url, tmp_path):
    storage = open_storage(tmp_path, url)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            with one_at_a_time(storage, "a"):
                raise ZeroDivisionError


def test_optuna_goes_on_writing_a_journal_under_a_turn(tmp_path):
    storage = open_storage(tmp_path, f"journal:///{tmp_path}/study")
    with one_at_a_time(storage, "lock"):
        optuna.create_study(storage=storage).tell(optuna.load_study(study_name=None, storage=storage).ask(), 1.0)


def test_threads_take_turns_in_memory():
    storage, count = optuna.storages.InMemoryStorage(), [0]

    def add():
        for _ in range(50):
            with one_at_a_time(storage, "add"):
                value = count[0]
                time.sleep(0.0001)
                count[0] = value + 1

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == [150]


def test_a_lock_file_that_is_deleted_is_noticed(tmp_path):
    storage = open_storage(tmp_path, f"sqlite:///{tmp_path}/study.db")
    with pytest.raises(TurnLost, match="study.db.a.lock: was deleted"):
        with one_at_a_time(storage, "a"):
            (tmp_path / "study.db.a.lock").unlink()


@pytest.mark.services
def test_a_server_that_was_killed_meanwhile_is_noticed(tmp_path, postgres):
    storage = open_storage(tmp_path, postgres.fresh())
    try:
        with pytest.raises(TurnLost, match="the turn 'a' was lost: .*another driver may have written"):
            with one_at_a_time(storage, "a"):
                postgres.kill()
    finally:
        postgres.start()
    with one_at_a_time(storage, "a"):
        pass


@pytest.mark.services
def test_an_administrator_who_ends_the_session_is_noticed(tmp_path, postgres):
    storage = open_storage(tmp_path, postgres.fresh())
    with pytest.raises(TurnLost, match="terminating connection"):
        with one_at_a_time(storage, "a"), postgres.connect() as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
