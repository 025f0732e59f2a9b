"""What every backend keeps to; a test module of a backend derives from one of these classes."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from definitions import write_definition

from search.backends.base import Died, Done, Progress
from search.device import load_device
from search.study import read_study
from search.trial import Shared, make_job
from sekd.data import DataConfig
from sekd.preparation import TeacherConfig, prepare

ENDLESS = 100_000  # steps


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


def alive(process):
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


class BackendContract:
    """Jobs go in, their records come out; a deriving class has the fixture ``backend``, of one slot."""

    @pytest.fixture(scope="class")
    @classmethod
    def cache(cls, tmp_path_factory):
        return tmp_path_factory.mktemp("cache")

    @pytest.fixture
    def backend(self, tmp_path):
        raise NotImplementedError

    def test_one_job_after_another_comes_back(self, tmp_path, cache, backend):
        assert backend.slots == 1
        for number in (0, 1):
            backend.submit(job(tmp_path, cache, number))
            done = until(backend, ended)
            assert isinstance(done, Done) and (done.number, done.record.status) == (number, "COMPLETE")
            assert (done.record.number, done.record.trial_id) == (number, f"id{number}")
            assert done.record.scores["pesq_wb"].mean is not None and done.record.cost.macs_per_s > 0

    def test_a_cancelled_trial_is_not_heard_of_again(self, tmp_path, cache, backend):
        backend.submit(job(tmp_path, cache, steps=ENDLESS))
        backend.cancel(0)
        backend.submit(job(tmp_path, cache, 1))
        seen = []
        until(backend, lambda event: seen.append(event) or isinstance(event, Done))
        assert {event.number for event in seen} == {1}

    def test_stopping_twice_is_no_error(self, tmp_path, cache, backend):
        backend.submit(job(tmp_path, cache, steps=ENDLESS))
        backend.stop(now=True)
        backend.stop()


class TrainingContract(BackendContract):
    """Of a backend that trains, in processes of its own."""

    def pids(self, backend):
        """Of the processes that run trials."""
        raise NotImplementedError

    def test_its_files_are_in_the_run_folder(self, tmp_path, cache, backend):
        backend.submit(job(tmp_path, cache))
        seen = []
        done = until(backend, lambda event: seen.append(event) or ended(event))
        assert any(training(event) for event in seen) and all(event.number == 0 for event in seen)
        assert done.record.scores["pesq_wb"].n == 2 and done.record.seconds.train > 0
        left = {file.name for file in (tmp_path / "trials/0").iterdir()} - {"lock"}
        assert left == {"environment.json", "identity", "model.onnx", "model.safetensors", "result.json", "scores.json"}

    def test_infeasible_and_failed_are_records(self, tmp_path, cache, backend):
        # A latency that is unknown is never within a limit; a rate that explodes is a failure with its reason.
        backend.submit(job(tmp_path, cache, 1).model_copy(update={"limits": {"latency_ms": 1.0}}))
        over = until(backend, ended).record
        assert (over.status, over.reason) == ("INFEASIBLE", "over budget: latency_ms unknown > 1")
        backend.submit(job(tmp_path, cache, 2, steps=40, params={"train.lr": 1e30}))
        failed = until(backend, ended).record
        assert failed.status == "FAILED" and "is not finite at step" in failed.reason

    def test_a_result_on_disk_is_not_made_again(self, tmp_path, cache, backend):
        made = job(tmp_path, cache)
        backend.submit(made)
        first = until(backend, ended).record
        backend.submit(made)
        assert until(backend, ended).record == first

    def test_a_crash_is_told_with_its_reason_and_logged(self, tmp_path, cache, backend):
        made = job(tmp_path, cache)
        gone = made.shared.model_copy(update={"unprocessed": tmp_path / "gone.json"})
        backend.submit(made.model_copy(update={"shared": gone}))
        died = until(backend, ended)
        assert isinstance(died, Died) and died.reason.startswith("FileNotFoundError") and not died.disk_full
        assert any("Traceback" in log.read_text() for log in (tmp_path / "logs").iterdir())

    def test_a_killed_trial_continues_from_its_checkpoint(self, tmp_path, cache, backend):
        backend.submit(job(tmp_path, cache, steps=ENDLESS))
        until(backend, training)
        checkpoint = tmp_path / "trials/0/checkpoint.pt"
        until(backend, lambda event: checkpoint.exists())
        step = torch.load(checkpoint, weights_only=True)["step"]
        pids = self.pids(backend)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        # Either the driver is told, and submits again, or the backend has done so itself.
        again = until(backend, lambda event: isinstance(event, Died) or event.stage != "train")
        if isinstance(again, Died):
            assert again.number == 0 and not again.final
            backend.submit(job(tmp_path, cache, steps=ENDLESS))
        continued = until(backend, training)
        assert pids and step > 1 and continued.share > step / ENDLESS

    def test_a_trial_cancelled_in_training_leaves_a_checkpoint(self, tmp_path, cache, backend):
        backend.submit(job(tmp_path, cache, steps=ENDLESS))
        until(backend, training)
        backend.cancel(0)
        backend.submit(job(tmp_path, cache, 1))
        seen = []
        until(backend, lambda event: seen.append(event) or isinstance(event, Done))
        assert {event.number for event in seen} == {1}
        assert (tmp_path / "trials/0/checkpoint.pt").exists()

    def test_stopping_leaves_a_checkpoint_and_no_process(self, tmp_path, cache, backend):
        backend.submit(job(tmp_path, cache, steps=ENDLESS))
        until(backend, training)
        pids = self.pids(backend)
        backend.stop()
        ends = time.monotonic() + 5
        while any(alive(pid) for pid in pids) and time.monotonic() < ends:
            time.sleep(0.1)
        assert pids and not any(alive(pid) for pid in pids)
        assert (tmp_path / "trials/0/checkpoint.pt").exists()
