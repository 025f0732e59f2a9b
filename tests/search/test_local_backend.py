"""Trials in real worker processes: their ends, good and bad."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from definitions import write_definition

from search.backends.base import Died, Done, Progress
from search.backends.local import LocalBackend
from search.device import load_device
from search.study import read_study
from search.trial import Shared, make_job
from sekd.distillation import DataConfig
from sekd.preparation import TeacherConfig, prepare


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def job(folder, cache, number=0, *, steps=2, params=None, threads=1):
    """A supervised trial of a few steps on the embedded corpus, or of very many."""
    changes = {"base/train/steps": steps, "teacher": None, "space": {"train.lr": {"float": [1e-3, 1e-2]}}}
    study = read_study(write_definition(folder, changes | {"base/distill": {"schedule": {"kind": "supervised"}}}))
    document = study.document({})
    data = DataConfig.model_validate(document["data"])
    prepared = prepare(
        data, TeacherConfig(**document["teacher"]) if "teacher" in document else None, seed=3, cache=cache
    )
    names = [file.stem for file in (prepared.valid / "clean").iterdir()]
    scores = dict.fromkeys(("pesq_wb", "estoi", "si_sdr_db"), 1.0)
    (folder / "unprocessed.json").write_text(json.dumps({name: scores for name in names}))
    shared = Shared(
        device=load_device("raspberry-pi-4"), latency_wanted=False, pool=None, valid=prepared.valid, teacher=None,
        outputs=None, hashes=prepared.hashes.model_dump(), cache=cache, measured=folder / "measured",
        lock=folder / "lock", unprocessed=folder / "unprocessed.json", teacher_quality=None, threads=threads,
        torch_device="cpu", frames=32,
    )  # fmt: skip
    return make_job(study, number, f"id{number}", params or {}, folder, shared)


def until(backend, wanted, timeout_s=60):
    """The first event that ``wanted`` accepts."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        for event in backend.collect(timeout_s=0.2):
            if wanted(event):
                return event
    raise AssertionError("nothing of the kind happened in time")


def training(event):
    return isinstance(event, Progress) and event.stage == "train"


def ended(event):
    return not isinstance(event, Progress)


@pytest.fixture
def backend(tmp_path):
    made = LocalBackend(1, 1, tmp_path / "logs")
    yield made
    made.stop(now=True)


def test_a_trial_comes_back_and_its_worker_takes_the_next(tmp_path, cache, backend):
    backend.submit(job(tmp_path, cache))
    done = until(backend, ended)
    assert isinstance(done, Done) and (done.number, done.record.status) == (0, "COMPLETE")
    assert done.record.scores["pesq_wb"].n == 2 and done.record.seconds.train > 0
    assert (tmp_path / "trials/0/model.onnx").exists()
    (worker,) = backend._workers
    # A latency that is unknown is never within a limit; a rate that explodes is a failure with its reason.
    backend.submit(job(tmp_path, cache, 1).model_copy(update={"limits": {"latency_ms": 1.0}}))
    over = until(backend, ended).record
    assert (over.status, over.reason) == ("INFEASIBLE", "over budget: latency_ms unknown > 1")
    backend.submit(job(tmp_path, cache, 2, steps=40, params={"train.lr": 1e30}))
    failed = until(backend, ended).record
    assert failed.status == "FAILED" and "is not finite at step" in failed.reason
    assert backend._workers == [worker]


def test_a_crash_is_told_with_its_reason_and_logged(tmp_path, cache, backend):
    made = job(tmp_path, cache)
    broken = made.model_copy(update={"shared": made.shared.model_copy(update={"unprocessed": tmp_path / "gone.json"})})
    backend.submit(broken)
    died = until(backend, ended)
    assert isinstance(died, Died) and died.reason.startswith("FileNotFoundError")
    assert "Traceback" in (tmp_path / "logs/worker-0.log").read_text()


def test_a_crash_is_told_even_where_the_log_cannot_be_written(tmp_path, cache, backend):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/worker-0.log").symlink_to("/dev/full")
    made = job(tmp_path, cache)
    broken = made.model_copy(update={"shared": made.shared.model_copy(update={"unprocessed": tmp_path / "gone.json"})})
    backend.submit(broken)
    died = until(backend, ended)
    assert isinstance(died, Died) and died.reason.startswith("FileNotFoundError")


def test_a_killed_worker_is_told_and_replaced(tmp_path, cache, backend):
    backend.submit(job(tmp_path, cache, steps=100_000))
    until(backend, training)
    backend._workers[0].process.kill()
    assert until(backend, ended) == Died(0, "the worker was killed by SIGKILL")
    backend.submit(job(tmp_path, cache, 1))
    assert isinstance(until(backend, ended), Done)


def test_a_cancelled_trial_is_not_heard_of_again(tmp_path, cache, backend):
    backend.submit(job(tmp_path, cache, steps=100_000))
    until(backend, training)
    (worker,) = backend._workers
    backend.cancel(0)
    backend.submit(job(tmp_path, cache, 1))
    seen = []
    until(backend, lambda event: seen.append(event) or isinstance(event, Done))
    assert {event.number for event in seen} == {1}
    assert worker.process.wait(10) == 0 and (tmp_path / "trials/0/checkpoint.pt").exists()


def test_stopping_leaves_a_checkpoint_and_no_process(tmp_path, cache, backend):
    backend.submit(job(tmp_path, cache, steps=100_000))
    until(backend, training)
    process = backend._workers[0].process
    backend.stop()
    assert process.poll() == 0
    assert (tmp_path / "trials/0/checkpoint.pt").exists()


def test_a_result_on_disk_is_not_made_again(tmp_path, cache, backend):
    made = job(tmp_path, cache)
    backend.submit(made)
    first = until(backend, ended).record
    backend.submit(made)
    assert until(backend, ended).record == first


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
    driver.stdin.write(job(tmp_path, cache, steps=100_000).model_dump_json())
    driver.stdin.close()
    worker = int(driver.stdout.readline())
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    ends = time.monotonic() + 2
    while alive(worker):
        assert time.monotonic() < ends, "the worker outlived its driver"
        time.sleep(0.05)


def alive(process):
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
