"""Trials in real worker processes: their ends, good and bad."""

import os
import signal
import subprocess
import sys
import time

import pytest
from backend_contract import ENDLESS, BackendContract, TrainingContract, alive, ended, job, training, until
from definitions import recorded

from search.backends.base import Died, Done
from search.backends.local import LocalBackend
from search.backends.table import TableBackend


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def backend(tmp_path):
    made = LocalBackend(1, 1, tmp_path / "logs")
    yield made
    made.stop(now=True)


class TestTable(BackendContract):
    @pytest.fixture
    def backend(self):
        return TableBackend(recorded)


class TestLocal(TrainingContract):
    @pytest.fixture
    def backend(self, tmp_path):
        made = LocalBackend(1, 1, tmp_path / "logs")
        yield made
        made.stop(now=True)

    def pids(self, backend):
        return [worker.process.pid for worker in backend._workers]


def test_a_worker_takes_one_trial_after_another(tmp_path, cache, backend):
    workers = []
    for number in (0, 1):
        backend.submit(job(tmp_path, cache, number))
        assert isinstance(until(backend, ended), Done)
        workers += backend._workers
    assert workers[0] is workers[1]


def test_a_crash_is_told_even_where_the_log_cannot_be_written(tmp_path, cache, backend):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/worker-0.log").symlink_to("/dev/full")
    made = job(tmp_path, cache)
    broken = made.model_copy(update={"shared": made.shared.model_copy(update={"unprocessed": tmp_path / "gone.json"})})
    backend.submit(broken)
    died = until(backend, ended)
    assert isinstance(died, Died) and died.reason.startswith("FileNotFoundError")


def test_a_killed_worker_is_told_and_replaced(tmp_path, cache, backend):
    backend.submit(job(tmp_path, cache, steps=ENDLESS))
    until(backend, training)
    backend._workers[0].process.kill()
    assert until(backend, ended) == Died(0, "the worker was killed by SIGKILL")
    backend.submit(job(tmp_path, cache, 1))
    assert isinstance(until(backend, ended), Done)


def test_a_cancelled_trial_ends_its_worker(tmp_path, cache, backend):
    backend.submit(job(tmp_path, cache, steps=ENDLESS))
    until(backend, training)
    (worker,) = backend._workers
    backend.cancel(0)
    assert worker.process.wait(10) == 0 and (tmp_path / "trials/0/checkpoint.pt").exists()


DRIVER = """
import sys, time
from pathlib import Path
from search.backends.local import LocalBackend
from search.trial import Job
backend = LocalBackend(1, 1, Path(sys.argv[1]) / "logs")
backend.submit(Job.model_validate_json(sys.stdin.read()))
while True:
    for event in backend.collect(timeout_s=1.0):
        if getattr(event, "stage", "") == "train":
            print(backend._workers[0].process.pid, flush=True)
"""


def test_workers_end_with_their_driver(tmp_path, cache):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    driver.stdin.write(job(tmp_path, cache, steps=ENDLESS).model_dump_json())
    driver.stdin.close()
    worker = int(driver.stdout.readline())
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    ends = time.monotonic() + 2
    while alive(worker):
        assert time.monotonic() < ends, "the worker outlived its driver"
        time.sleep(0.05)
