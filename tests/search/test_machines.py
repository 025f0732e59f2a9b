"""Drivers that cannot see each other's processes, as on two machines; real training, kill -9."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from definitions import write_definition

from search.drivers import DRIVER, Driver
from search.ends import counts
from search.results import open_results

pytestmark = pytest.mark.slow
# A process namespace of its own: to others its process numbers mean nothing, as if it ran on another machine.
APART = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, to hide processes from each other")
    monkeypatch.setenv("SEKD_HOME", str(tmp_path))
    monkeypatch.delenv("SEKD_CACHE", raising=False)
    changes = {"trials": 3, "budget": {}, "base/train/steps": 160, "base/student": {"depth": 2}}
    run = {"run/heartbeat_s": 1.0, "run/lapse_s": 6.0, "run/checkpoint_s": 1.0}
    write_definition(tmp_path, changes | run | {"space/student.width": {"choice": [12, 16]}})
    return tmp_path


def driver(*words):
    command = [*APART, sys.executable, "-m", "search.cli", "launch", "tiny", "--force", "--workers", "1", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def step_of(folder):
    """Where a trial's checkpoint stands; 0 without one."""
    path = folder / "checkpoint.pt"
    return torch.load(path, weights_only=True)["step"] if path.exists() else 0


def until(what, timeout_s=240):
    ends = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < ends, "nothing of the kind happened in time"
        time.sleep(0.05)
    return found


def test_the_trial_of_a_machine_that_died_goes_on_from_its_checkpoint(home):
    trial = home / "runs/tiny/trials/0"
    lost = driver()
    step = until(lambda: step_of(trial))
    helper = driver("--join")
    until(lambda: len(open_results("tiny").store.notes(DRIVER)) == 2)
    os.killpg(lost.pid, signal.SIGKILL)
    lost.communicate()
    killed_at, before = time.monotonic(), max(step, step_of(trial))
    seen = [before]
    until(lambda: seen.append(step_of(trial)) or (trial / "result.json").exists())
    steps = [step for step in seen if step]  # there is none any more when it has ended
    assert steps == sorted(steps) and max(steps) > before, "it began anew"
    assert time.monotonic() - killed_at > 5, "taken over before the lapse"
    said, _ = helper.communicate(timeout=240)
    assert helper.returncode == 0, said
    results = open_results("tiny")
    assert sum(map(counts, results.trials)) == 3 and [r.number for r in results.trials][:1] == [0]
    drivers = [Driver.model_validate(value) for value in results.store.notes(DRIVER).values()]
    assert sorted(one.left for one in drivers) == [False, True] and len({one.place for one in drivers}) == 2


def test_a_second_machine_must_ask_to_join(home):
    first = driver()
    until(lambda: step_of(home / "runs/tiny/trials/0"))
    other = subprocess.run(
        [*APART, sys.executable, "-m", "search.cli", "launch", "tiny", "--force"], capture_output=True, text=True
    )
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert other.returncode == 2 and "another driver is at work" in other.stderr
    assert other.stderr.count("\n") == 1
