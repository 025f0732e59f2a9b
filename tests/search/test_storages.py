"""What every storage of a study must do, and what is said of one that cannot be had."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from definitions import recorded, write_definition
from drive_table import drive

import search.store
from search.storage.copying import copy_study
from search.storage.places import open_storage, remember, remembered
from search.storage.urls import without_password
from search.store import Store
from search.study import read_study
from search.view import View
from sekd.errors import InputError

KINDS = ["sqlite", "journal", pytest.param("postgresql", marks=pytest.mark.services)]


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEKD_HOME", str(tmp_path / "home"))


@pytest.fixture
def places(tmp_path, request):
    """Gives the URL of a new, empty storage of a kind."""
    number = itertools.count()

    def place(kind):
        if kind == "postgresql":
            return request.getfixturevalue("postgres").fresh()
        return f"{kind}:///{tmp_path}/{kind}-{next(number)}"

    return place


def story(tuner):
    return [(r.number, r.params, r.status, r.score("pesq_wb"), r.duplicate_of) for r in tuner.store.records()]


def records(folder, url):
    return Store(read_study(folder / "tiny.toml"), open_storage(folder / "run", url)).records()


@pytest.mark.parametrize("kind", KINDS)
class TestEveryStorage:
    """The contract."""

    def test_an_interrupted_search_is_the_same_search(self, tmp_path, kind, places, monkeypatch):
        url = places(kind)
        write_definition(tmp_path / "whole", {"trials": 12})
        whole = story(drive(tmp_path / "whole")[0])
        write_definition(tmp_path / "cut", {"trials": 12})
        for owner, name in WRITES:
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, dies_at(getattr(owner, name), 2))
                with pytest.raises(ConnectionError):
                    drive(tmp_path / "cut", storage=url)
        assert story(drive(tmp_path / "cut", storage=url)[0]) == whole
        assert not (tmp_path / "cut/run/study.db").exists()

    def test_another_process_reads_it(self, tmp_path, kind, places):
        url = places(kind)
        write_definition(tmp_path)
        script = Path(__file__).with_name("drive_table.py")
        done = subprocess.run([sys.executable, script, tmp_path, "--storage", url], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told = [event for line in done.stdout.splitlines() if isinstance(event := json.loads(line), list)]
        assert [[r.number, r.params] for r in records(tmp_path, url)] == told and len(told) >= 8

    def test_long_and_odd_attributes_are_kept_exactly(self, tmp_path, kind, places):
        url = places(kind)
        odd = {"long": "x\u00e4\U0001f40d\"\\\n" * 40_000, "tiny": 5e-324, "third": 1 / 3, "big": 2**60, "none": None,
               "nested": [{"a": []}, {}, True, -0.0, "NaN"]}  # fmt: skip
        storage = open_storage(tmp_path, url)
        study = optuna.create_study(study_name="s", storage=storage, directions=["maximize", "minimize"])
        study.set_user_attr("odd", odd)
        trial = study.ask()
        trial.set_user_attr("odd", odd)
        study.tell(trial, [1 / 3, 1e300])
        again = optuna.load_study(study_name="s", storage=open_storage(tmp_path, url))
        assert json.dumps(again.user_attrs["odd"]) == json.dumps(again.trials[0].user_attrs["odd"]) == json.dumps(odd)
        assert again.trials[0].values == [1 / 3, 1e300]

    def test_copied_to_every_other_and_back_it_is_the_same(self, tmp_path, kind, places):
        write_definition(tmp_path, {"trials": 6})
        first = places(kind)
        drive(tmp_path, storage=first)
        (tmp_path / "tiny.toml").rename(tmp_path / "run/definition.toml")
        remember(tmp_path / "run", first)
        before = contents(tmp_path, first)
        url, others = first, ["journal", "sqlite", *(["postgresql"] if kind == "postgresql" else []), kind]
        for other in others:
            # The memory holds no password.
            source, url = url, places(other)
            copied = copy_study(tmp_path / "run", url, storage=source)
            assert copied.trials == len(before[0])
            assert contents(tmp_path, url) == before


def contents(folder, url):
    storage = open_storage(folder, url)
    study = storage.get_study_id_from_name("tiny")
    trials = [
        (t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.system_attrs, t.constraints,
         t.datetime_start, t.datetime_complete)
        for t in storage.get_all_trials(study)
    ]  # fmt: skip
    return trials, storage.get_study_user_attrs(study), storage.get_study_directions(study)


WRITES = [
    (search.store, "whole"), (search.store, "UnderWay"), (optuna.trial.Trial, "set_user_attr"),
    (optuna.trial.Trial, "set_constraint"), (optuna.Study, "tell"),
]  # fmt: skip


def dies_at(original, call):
    calls = itertools.count()

    def dies(*args, **kwargs):
        if next(calls) == call:
            raise ConnectionError
        return original(*args, **kwargs)

    return dies


def test_sqlite_commits_to_the_disk_and_lets_others_read(tmp_path):
    storage = open_storage(tmp_path)
    for _ in range(2):
        with storage.engine.connect() as connection:
            asked = [connection.execute(sqlalchemy.text(f"PRAGMA {key}")).scalar()
                     for key in ("journal_mode", "synchronous", "busy_timeout")]  # fmt: skip
        assert asked == ["wal", 2, 60_000]


@pytest.mark.parametrize(("url", "said"), [
    ("postgres://me:secret@h/d", "postgres://: not a URL of a storage; did you mean 'postgresql'?"),
    ("sqllite:///x.db", "did you mean 'sqlite'"),
    ("runs/study.db", "for a file write sqlite:///runs/study.db"),
    ("me:secret@host/db", "write postgresql:// before it"),
    ("postgresql://me:sec@ret@h/d", "more than one @ in the URL: write one that is in a password as %40"),
    ("postgresql://me:secret/db", "write postgresql://user@host:port/database"),
    ("postgresql://me:secret@127.0.0.1:1/d", "postgresql://me@127.0.0.1:1/d: cannot open .*refused"),
    ("postgresql://me@127.0.0.1:1/d?password=secret", "postgresql://me@127.0.0.1:1/d: cannot open .*refused"),
    ("postgresql://me:secret@secret.invalid/d", "cannot open"),
    ("sqlite://", "keeps nothing: name a file"),
    ("sqlite:////nowhere/study.db", "unable to open"),
    ("journal://study.journal", "write the journal's whole path"),
    ("journal:////nowhere/x", "No such file"),
    ("mysql://me:secret@h/d", "driver MySQLdb is missing: pip install mysqlclient"),
])  # fmt: skip
def test_what_cannot_be_opened_is_one_line_without_a_password(tmp_path, url, said):
    with pytest.raises(InputError, match=said) as caught:
        open_storage(tmp_path, url)
    shown = str(caught.value).replace("secret.invalid", "")
    assert "secret" not in shown and "ret@" not in shown and "\n" not in shown


def test_a_missing_driver_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"driver psycopg is missing: pip install 'sekd\[postgresql\]'"):
        open_storage(tmp_path, "postgresql://me:secret@h/d")


def test_a_server_that_does_not_answer_is_given_up(tmp_path):
    import socket

    with socket.socket() as silent:  # takes connections, says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(InputError, match="cannot open the study's storage: .*timeout"):
            open_storage(tmp_path, f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=2")
        assert time.monotonic() - started < 5


def test_a_run_remembers_where_its_study_is_but_no_password(tmp_path):
    assert remembered(tmp_path) is None
    remember(tmp_path, "postgresql://me:secret@h:5/d?sslmode=require&password=secret&passfile=/p")
    kept = (tmp_path / "storage.json").read_text()
    assert remembered(tmp_path) == "postgresql://me@h:5/d?passfile=%2Fp&sslmode=require" and "secret" not in kept
    remember(tmp_path, f"sqlite:///{tmp_path}/study.db")
    assert remembered(tmp_path) is None
    remember(tmp_path, f"journal:///{tmp_path}/j")
    assert type(open_storage(tmp_path)).__name__ == "JournalStorage" and not (tmp_path / "study.db").exists()
    (tmp_path / "storage.json").write_text("{")
    with pytest.raises(InputError, match="storage.json: cannot be read"):
        open_storage(tmp_path)


def test_a_relative_file_is_remembered_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert without_password("sqlite:///x.db") == f"sqlite:///{tmp_path}/x.db"


@pytest.mark.services
def test_the_password_comes_from_the_environment(tmp_path, postgres, monkeypatch):
    remember(tmp_path, postgres.fresh())
    assert postgres.password not in (tmp_path / "storage.json").read_text()
    with pytest.raises(InputError, match="no password supplied"):
        open_storage(tmp_path)
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    assert open_storage(tmp_path).get_all_studies() == []
    monkeypatch.setenv("PGPASSWORD", "geheim")
    with pytest.raises(InputError, match="password authentication failed") as caught:
        open_storage(tmp_path)
    assert "geheim" not in str(caught.value)


@pytest.mark.services
def test_a_driver_waits_for_a_server_that_is_restarted(tmp_path, postgres):
    url, said = postgres.fresh(), []
    write_definition(tmp_path / "whole", {"trials": 8})
    whole = story(drive(tmp_path / "whole")[0])
    write_definition(tmp_path, {"trials": 8})

    class Listens(View):
        def say(self, line):
            said.append(line)
            if "is away" in line:
                postgres.start()

    def breaks(job):
        if job.number in (2, 5):
            postgres.kill()
        return recorded(job)

    assert story(drive(tmp_path, lookup=breaks, storage=url, view=Listens())[0]) == whole
    assert sum("the study's storage is away" in line for line in said) == 2


@pytest.mark.services
def test_three_drivers_share_a_study_on_a_server(tmp_path, postgres):
    from test_drivers import check_shared, start

    write_definition(tmp_path, {"trials": 24, "budget": {}, "run/heartbeat_s": 0.3, "run/lapse_s": 20})
    (tmp_path / "run").mkdir()
    url = postgres.fresh()
    drivers = [start(tmp_path, "--join", "--seconds", "0.2", "--storage", url) for _ in range(3)]
    time.sleep(8)
    postgres.kill()
    time.sleep(1)
    postgres.start()
    check_shared(drivers, lambda: records(tmp_path, url), 24)


@pytest.mark.services
def test_a_driver_goes_on_after_its_server_was_killed(tmp_path, postgres, monkeypatch):
    monkeypatch.setattr("search.storage.exchange.PATIENCE_S", 2.0)
    url = postgres.fresh()
    write_definition(tmp_path / "whole", {"trials": 8})
    whole = story(drive(tmp_path / "whole")[0])
    write_definition(tmp_path, {"trials": 8})

    def breaks(job):
        if job.number == 4:
            postgres.kill()
        return recorded(job)

    try:
        with pytest.raises(InputError, match="the study's storage failed: .*sekd resume"):
            drive(tmp_path, lookup=breaks, storage=url)
    finally:
        postgres.start()
    assert len(records(tmp_path, url)) == 4
    assert story(drive(tmp_path, storage=url)[0]) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_several_may_make_one_storage_at_once(tmp_path, kind, places):
    url = places(kind)
    code = f"from search.storage.places import open_storage; open_storage({str(tmp_path)!r}, {url!r})"
    together = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    for process in together:
        assert process.communicate()[1] == b"" and process.returncode == 0
