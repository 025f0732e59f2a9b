import os
import select
import subprocess
import sys
import threading
import time

import pytest

from search.device import DeviceProfile
from search.device_lock import DeviceLock, lock_folder
from sekd.errors import InputError

# Takes the lock the named way as often as a line arrives, and says when it has it.
CHILD = """
import sys
import threading
from pathlib import Path
from search.device_lock import DeviceLock
lock = DeviceLock(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    with getattr(lock, line.strip())():
        print("held", flush=True)
        sys.stdin.readline()
    print("free", flush=True)
"""

STEPPER = """
import sys, time
from pathlib import Path
from search.device_lock import DeviceLock
lock = DeviceLock(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    with lock.step():
        time.sleep(0.002)
"""


class Child:
    def __init__(self, folder, code=CHILD):
        self.process = subprocess.Popen([sys.executable, "-c", code, folder], stdin=-1, stdout=-1, text=True, bufsize=1)
        assert self.hears(30) == "ready"

    def say(self, word):
        self.process.stdin.write(word + "\n")

    def hears(self, seconds):
        """The next line, or None if none comes in time."""
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                return None
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, "the child died"
            line += byte
        return line.decode().strip()


@pytest.fixture
def child(tmp_path):
    started = []

    def start(code=CHILD):
        started.append(Child(tmp_path, code))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        each.process.stdin.close()
        each.process.stdout.close()


def test_no_step_proceeds_while_someone_measures(tmp_path, child):
    trainers = [child(), child()]
    lock = DeviceLock(tmp_path)
    with lock.exclusive():
        for trainer in trainers:
            trainer.say("step")
        assert [trainer.hears(0.2) for trainer in trainers] == [None, None]
    assert [trainer.hears(30) for trainer in trainers] == ["held", "held"]  # both at once: steps are shared
    lock.close()


def test_the_measurer_waits_for_the_step_under_way(tmp_path, child):
    trainer, measurer = child(), child()
    trainer.say("step")
    assert trainer.hears(30) == "held"
    measurer.say("exclusive")
    assert measurer.hears(0.2) is None
    trainer.say("done")
    assert (trainer.hears(30), measurer.hears(30)) == ("free", "held")


@pytest.mark.parametrize("way", ["exclusive", "step"])
def test_a_killed_holder_holds_nothing(tmp_path, child, way):
    holder, waiting = child(), child()
    holder.say(way)
    assert holder.hears(30) == "held"
    waiting.say("exclusive")
    assert waiting.hears(0.2) is None
    holder.process.kill()
    assert waiting.hears(30) == "held"


def test_busy_trainers_do_not_starve_the_measurer(tmp_path, child):
    for _ in range(3):
        child(STEPPER)
    lock, began = DeviceLock(tmp_path), time.monotonic()
    for _ in range(5):
        with lock.exclusive():
            pass
    lock.close()
    assert time.monotonic() - began < 20  # five waits for steps of 2 ms; the margin is for a loaded machine


def test_an_error_inside_lets_go(tmp_path):
    lock, other = DeviceLock(tmp_path), DeviceLock(tmp_path)
    for hold in (lock.exclusive, lock.step):
        with pytest.raises(ZeroDivisionError), hold():
            _ = 1 / 0
    with other.exclusive():
        pass
    lock.close()
    other.close()


def test_nesting_is_refused(tmp_path):
    lock = DeviceLock(tmp_path)
    with lock.step(), pytest.raises(RuntimeError, match="do not nest"):
        with lock.exclusive():
            pass
    lock.close()


def test_a_step_costs_next_to_nothing(tmp_path):
    lock = DeviceLock(tmp_path)
    start = time.perf_counter()
    for _ in range(1000):
        with lock.step():
            pass
    each_us = (time.perf_counter() - start) * 1000
    lock.close()
    print(f"step(): {each_us:.1f} us")
    assert each_us < 1000  # some microseconds in truth; only a wrong design reaches milliseconds


def test_a_long_step_that_breathes_lets_the_measurer_in(tmp_path, child):
    measurer = child()
    lock = DeviceLock(tmp_path)
    with lock.step():
        measurer.say("exclusive")
        assert measurer.hears(0.2) is None
        done = threading.Timer(0.3, measurer.say, ["done"])
        done.start()
        lock.breathe()  # comes back when the measurer is through
        assert [measurer.hears(1), measurer.hears(1)] == ["held", "free"]
        done.join()
        measurer.say("exclusive")
        assert measurer.hears(0.2) is None  # and the step is held again
    lock.close()
    assert measurer.hears(30) == "held"


def test_measurers_of_a_reserved_core_exclude_each_other_and_no_trainer(tmp_path, child):
    trainer, measurer = child(), child()
    lock = DeviceLock(tmp_path)
    with lock.exclusive(trainers=False):
        trainer.say("step")
        assert trainer.hears(30) == "held"
        trainer.say("done")
        measurer.say("exclusive")
        assert measurer.hears(0.2) is None
    lock.close()
    assert trainer.hears(30) == "free" and measurer.hears(30) == "held"


def device(**fields):
    return DeviceProfile(**{"name": "d", "description": "x", "latency": "local"} | fields)


@pytest.mark.parametrize(
    ("fields", "folder"),
    [
        ({}, "local"),
        ({"latency": "agent", "url": "http://127.0.0.1:8517"}, "local"),
        ({"latency": "agent", "url": "https://board.lan:8517"}, "d"),
    ],
)
def test_devices_on_one_machine_share_one_lock(tmp_path, monkeypatch, fields, folder):
    monkeypatch.setenv("SEKD_LOCKS", str(tmp_path))
    assert lock_folder(device(**fields)) == tmp_path / folder and lock_folder() == tmp_path / "local"


def test_locks_are_of_the_machine_and_nobody_else_can_hold_them(tmp_path, monkeypatch):
    monkeypatch.delenv("SEKD_LOCKS", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = lock_folder().parent
    assert mine.parent == tmp_path and mine.stat().st_mode & 0o777 == 0o700
    mine.rmdir()
    mine.symlink_to(tmp_path)
    with pytest.raises(InputError, match="not yours"):
        lock_folder()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_reserved_core_is_left_to_measuring():
    code = (
        "import os; from search.device import DeviceProfile; from search.device_lock import keep_off\n"
        "cores = sorted(os.sched_getaffinity(0))\n"
        "profile = dict(name='d', description='x', latency='local', sources={'cores': 'x'}, reserve=True)\n"
        "keep_off(DeviceProfile(cores=cores[:1], **profile)); print(os.sched_getaffinity(0) == set(cores[1:]))\n"
        "try: keep_off(DeviceProfile(cores=cores, **profile))\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "True" and "leaves no core" in done.stdout
