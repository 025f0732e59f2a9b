"""Several drivers on one study: who is at work, whose each trial is, and what becomes of the trials of the dead."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from definitions import write_definition
from drive_table import drive

from search import tuner as tuner_module
from search.backends.table import TableBackend
from search.device import load_device
from search.drivers import DRIVER, Driver, Roll, is_over, this_driver
from search.ends import counts
from search.preflight import check_one_machine
from search.record import TrialRecord
from search.run_config import RunConfig
from search.sharing import Sharing
from search.storage.places import open_storage
from search.store import Store
from search.study import read_study
from sekd.errors import InputError

QUICK = {"run/heartbeat_s": 0.2, "run/lapse_s": 1.5}
ELSEWHERE = this_driver().model_copy(update={"id": "far", "place": "another boot pid:[1]", "host": "far-away"})


class Watch:
    """A board and a watch that a test sets."""

    def __init__(self):
        self.written, self.now = {}, 0.0

    def sign(self, key, value):
        self.written[key] = value

    def notes(self, prefix):
        return {key: value for key, value in self.written.items() if key.startswith(prefix)}

    def beats(self, driver, beat):
        self.written[DRIVER + driver.id] = driver.model_copy(update={"beat": beat}).model_dump()


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def roll(watch):
    return Roll(watch, RunConfig(heartbeat_s=10, lapse_s=60), watch=lambda: watch.now)


def test_a_driver_elsewhere_lives_while_it_beats(watch, roll):
    for beat in range(5):
        watch.now += 59
        watch.beats(ELSEWHERE, beat)
        assert [driver.id for driver in roll.others()] == ["far"]
    watch.now += 60
    assert roll.is_at_work("far")
    watch.now += 1
    assert not roll.is_at_work("far")
    watch.beats(ELSEWHERE, 5)  # it was asleep: what it had may be another's by now, so it stays dead to us
    assert not roll.is_at_work("far")


def test_clocks_are_not_compared(watch, roll):
    old = ELSEWHERE.model_copy(update={"since": "1999-01-01T00:00:00+00:00"})
    watch.beats(old, 1)
    assert roll.is_at_work("far")


def test_whoever_left_is_over_at_once(watch, roll):
    watch.beats(ELSEWHERE.model_copy(update={"left": True}), 7)
    assert roll.others() == [] and not roll.is_at_work("far") and not roll.is_at_work(None)
    assert roll.is_at_work(roll.me.id)


def test_processes_of_this_machine_are_looked_for():
    me = this_driver()
    assert is_over(me) is False
    assert is_over(me.model_copy(update={"started": me.started - 1})) is True  # the number came again
    child = subprocess.Popen([sys.executable, "-c", ""])
    of_child = me.model_copy(update={"process": child.pid})
    time.sleep(0.3)
    assert is_over(of_child) is True  # a zombie is over, too
    child.wait()
    assert is_over(of_child) is True and is_over(ELSEWHERE) is None


def test_a_second_driver_needs_to_ask(watch):
    roll = Roll(watch, RunConfig(heartbeat_s=0.1, lapse_s=0.5))
    said = []
    roll.require_alone(said.append)
    assert said == []
    watch.beats(ELSEWHERE, 1)
    roll.require_alone(said.append)  # it does not beat
    assert said == [f"waiting up to 0.5 s to see whether {ELSEWHERE} is alive"]
    sibling = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = int(Path(f"/proc/{sibling.pid}/stat").read_text().rpartition(")")[2].split()[19])
        near = this_driver().model_copy(update={"process": sibling.pid, "started": started})
        watch.beats(near, 1)
        with pytest.raises(InputError, match=f"another driver is at work: process {sibling.pid} on .*; do join"):
            roll.require_alone(said.append, "; do join")
    finally:
        sibling.kill()
        sibling.wait()


def test_presence_beats_and_leaves(watch):
    roll = Roll(watch, RunConfig(heartbeat_s=0.05, lapse_s=0.5))
    with roll.present():
        time.sleep(0.3)
        (mine,) = [Driver.model_validate(value) for value in watch.written.values()]
        assert mine.beat >= 3 and not mine.left
    (mine,) = [Driver.model_validate(value) for value in watch.written.values()]
    assert mine.left


def test_a_lapse_shorter_than_a_few_beats_is_refused(tmp_path):
    with pytest.raises(InputError, match="lapse_s must be at least three times heartbeat_s"):
        read_study(write_definition(tmp_path, {"run/heartbeat_s": 30}))


def test_latencies_of_two_machines_are_not_mixed(tmp_path):
    study = read_study(write_definition(tmp_path, {"device": "x86-1core", "objectives/cost": ["latency_ms"]}))
    local = load_device("x86-1core")
    check_one_machine(study, local, [this_driver()])
    with pytest.raises(InputError, match="'x86-1core' is the machine that trains, and there are two: far-away"):
        check_one_machine(study, local, [ELSEWHERE])
    without = read_study(write_definition(tmp_path / "b"))
    check_one_machine(without, load_device("raspberry-pi-4"), [ELSEWHERE])


def test_the_trial_of_a_driver_that_has_just_come_is_left_to_it(tmp_path):
    study = read_study(write_definition(tmp_path, {"budget": {}, "run/heartbeat_s": 100.0, "run/lapse_s": 300.0}))
    (tmp_path / "run").mkdir()
    ours, theirs = (Store.create(study, open_storage(tmp_path / "run")) for _ in range(2))
    roll = Roll(ours, study.run)
    sharing = Sharing(ours, roll, study.run.heartbeat_s)
    theirs.note(DRIVER + ELSEWHERE.id, ELSEWHERE.model_dump())  # after it was looked who is there
    number, _ = theirs.ask(ELSEWHERE.id)
    ours.refresh()
    assert sharing.seems_orphaned(set()) and sharing.orphan(set()) is None
    assert not sharing.seems_orphaned(set())
    theirs.note(DRIVER + ELSEWHERE.id, ELSEWHERE.model_copy(update={"left": True}).model_dump())
    later = Sharing(ours, Roll(ours, study.run), study.run.heartbeat_s)
    assert later.orphan(set()) == number and ours.running()[number].owner != ELSEWHERE.id
    assert not theirs.tell(blank(number), ELSEWHERE.id), "told by a driver whose trial it is no more"


def blank(number):
    return TrialRecord(trial_id="x", variant_id="x", number=number, status="FAILED")


def start(folder, *words):
    script = Path(__file__).with_name("drive_table.py")
    return subprocess.Popen([sys.executable, script, folder, *words], text=True, stdout=subprocess.PIPE)


def first_trial(process):
    """The number of the trial that a driver begins first."""
    while True:
        event = json.loads(process.stdout.readline())
        if isinstance(event, dict):
            return event["began"]


def events(process):
    return [json.loads(line) for line in process.communicate()[0].splitlines() if line.endswith(("]", "}", '"'))]


def records(folder):
    return Store(read_study(folder / "tiny.toml"), open_storage(folder / "run")).records()


def test_three_drivers_share_a_study(tmp_path):
    # A lapse that a busy machine does not reach: whoever lapses loses its trials, as is right.
    write_definition(tmp_path, {"trials": 24, "budget": {}} | QUICK | {"run/lapse_s": 30.0})
    (tmp_path / "run").mkdir()
    drivers = [start(tmp_path, "--join", "--seconds", "0.1") for _ in range(3)]
    check_shared(drivers, lambda: records(tmp_path), 24)


def check_shared(drivers, read, trials):
    """All ended well, no trial or student was run twice, and nobody did all the work."""
    told = [events(driver) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0] * len(drivers)
    began = [event for each in told for event in each if isinstance(event, dict)]
    found = read()
    assert sum(map(counts, found)) == trials
    assert [record.number for record in found] == list(range(len(found)))
    assert len({event["began"] for event in began}) == len(began)
    assert len({event["trial_id"] for event in began}) == len(began), "a student was trained twice"
    assert sum(any(isinstance(event, dict) for event in each) for each in told) >= 2


def test_the_trials_of_a_dead_driver_are_taken_over(tmp_path):
    write_definition(tmp_path, {"trials": 6, "budget": {}} | QUICK)
    (tmp_path / "run").mkdir()
    doomed = start(tmp_path, "--join", "--seconds", "600")
    stuck = first_trial(doomed)
    helper = start(tmp_path, "--join", "--seconds", "0.05")
    first_trial(helper)
    doomed.kill()
    doomed.communicate()
    told = events(helper)
    assert helper.returncode == 0
    assert stuck in [event["began"] for event in told if isinstance(event, dict)]
    assert sum(map(counts, records(tmp_path))) == 6


def test_a_driver_that_slept_too_long_gives_up_what_was_taken(tmp_path):
    write_definition(tmp_path, {"trials": 5, "budget": {}} | QUICK)
    (tmp_path / "run").mkdir()
    sleeper = start(tmp_path, "--join", "--seconds", "3")
    taken = first_trial(sleeper)
    os.kill(sleeper.pid, signal.SIGSTOP)
    helper = start(tmp_path, "--join", "--seconds", "0.05")
    told = events(helper)
    assert taken in [event["began"] for event in told if isinstance(event, dict)]
    before = records(tmp_path)
    os.kill(sleeper.pid, signal.SIGCONT)
    late = events(sleeper)
    assert sleeper.returncode == 0 and f"trial {taken}: another driver has taken it over" in late
    assert records(tmp_path) == before


def test_equal_students_do_not_run_beside_each_other(tmp_path, monkeypatch):
    """A space of two: with three at once the sampler must repeat itself."""
    monkeypatch.setattr(tuner_module, "POLL_S", 0.01)

    class Patient(TableBackend):
        """Ends a trial only when no more can be started."""

        most = 0

        def collect(self, timeout_s):
            self.most = max(self.most, len(self._waiting))
            ids = [job.trial_id for job in self._waiting]
            assert len(ids) == len(set(ids))
            return super().collect(timeout_s)

    two = {"space": {"student.width": {"choice": [4, 6]}}, "base/distill": {"schedule": {"kind": "supervised"}}}
    write_definition(tmp_path, {"trials": 5, "budget": {}, "search/sampler": "tpe", "teacher": None} | two)
    monkeypatch.setattr("drive_table.TableBackend", lambda lookup: Patient(lookup, slots=3))
    tuner, backend = drive(tmp_path)
    assert backend.most == 2 and len(backend.submitted) == 2
    found = tuner.store.records()
    first = {job.number for job in backend.submitted}
    assert {record.duplicate_of for record in found} == first | {None} and sum(map(counts, found)) == 2
