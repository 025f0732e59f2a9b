"""Trials through Ray Tune on this machine: the contract of every backend, and what Tune's users expect."""

import gc
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from backend_contract import ENDLESS, TrainingContract, ended, job, training, until
from ray_nodes import family_of

from search.backends.base import Done
from search.backends.ray.node import require_one_machine, require_same
from search.run_config import Resources
from sekd.errors import InputError

# Ray's own: it leaves sockets and files to the end of its processes, and calls parts of numpy and pandas as of old.
IGNORED = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::UserWarning:ray"),
]
pytestmark = IGNORED


def make(folder, **options):
    from search.backends.ray.backend import RayBackend

    return RayBackend(1, folder, Resources(cpus=1), **options)


def actors():
    """Processes of trials, by the names that Ray gives them."""
    return processes(b"ray::TrialOnNode", b"ray::ResourceTrainable")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
def test_a_run_of_tune_that_ends_early_is_an_error_and_no_waiting(tmp_path, cache):
    from ray import tune

    class Broken(tune.Callback):
        def on_trial_result(self, *_, **__):
            raise RuntimeError("a callback of somebody's")

    backend = make(tmp_path, callbacks=[Broken()])
    try:
        backend.submit(job(tmp_path, cache))
        with pytest.raises(InputError, match="Ray Tune ended: .*a callback of somebody's"):
            until(backend, lambda event: False)
    finally:
        backend.stop(now=True)
    del backend
    gc.collect()  # Tune left its loggers open


DRIVER = """
import sys, time
from pathlib import Path
from search.backends.ray.backend import RayBackend
from search.run_config import Resources
from search.trial import Job
backend = RayBackend(1, Path(sys.argv[1]), Resources(cpus=1))
backend.submit(Job.model_validate_json(sys.stdin.read()))
while True:
    backend.collect(timeout_s=1.0)
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_loses_only_work_since_the_checkpoint(tmp_path, cache):
    made, checkpoint = job(tmp_path, cache, steps=ENDLESS), tmp_path / "trials/0/checkpoint.pt"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdin=subprocess.PIPE, text=True)
    with driver.stdin as pipe:
        pipe.write(made.model_dump_json())
    ends = time.monotonic() + 90
    while not checkpoint.exists() and time.monotonic() < ends:
        time.sleep(0.2)
    step = torch.load(checkpoint, weights_only=True)["step"]
    driver.kill()
    driver.wait()
    backend = make(tmp_path)  # at once: the trial may still be running, and holds its folder until it is gone
    try:
        backend.submit(made)
        assert until(backend, training).share > step / ENDLESS
        assert len(actors()) == 1
    finally:
        backend.stop(now=True)


@pytest.mark.slow
def test_the_actor_that_knows_the_jobs_comes_back_with_them(tmp_path, cache):
    backend = make(tmp_path)
    try:
        backend.submit(job(tmp_path, cache, steps=400))
        until(backend, training)
        for process in processes(b"ray::Home"):
            os.kill(process, signal.SIGKILL)
        assert isinstance(until(backend, ended), Done)
        for process in processes(b"ray::Home"):
            os.kill(process, signal.SIGKILL)
        backend.submit(job(tmp_path, cache, 1))
        done = until(backend, ended)
        assert isinstance(done, Done) and (done.number, done.record.status) == (1, "COMPLETE")
    finally:
        backend.stop()
    assert not list((tmp_path / "ray").glob(".home-*"))


def test_nodes_that_differ_are_refused():
    node = {"sekd core": "2", "torch": "2.11.0", "python": "3.11", "boot": "b", "host": "node7"}
    require_same(node, node)
    with pytest.raises(InputError, match="^node node7 has torch 2.11.0, the driver has 2.10.0: install the same$"):
        require_same(node | {"torch": "2.10.0"}, node)
    require_one_machine(node, node, "x86-1core")
    with pytest.raises(InputError, match="node7 is another machine than the driver's: latencies would mix"):
        require_one_machine(node | {"boot": "a"}, node, "x86-1core")


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match="ray job submit"):
        make(tmp_path, address="ray://127.0.0.1:1")


def processes(*names):
    """Of this test's own, by what their command line holds."""
    family = set(family_of(os.getpid()))
    return [pid for pid in family if any(name in _read(Path(f"/proc/{pid}/cmdline")) for name in names)]


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
class TestRay(TrainingContract):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def cluster(cls):
        from search.backends.ray.cluster import Cluster

        made = Cluster(None, Resources(cpus=1), 1, None)  # one for all tests, as of a program that has called ray.init
        yield
        made.close()

    @pytest.fixture
    def backend(self, tmp_path):
        made = make(tmp_path)
        yield made
        made.stop(now=True)

    def pids(self, backend):
        return actors()


def test_a_trial_through_tune_and_nothing_left_of_ray(tmp_path):
    backend = make(tmp_path)
    try:
        backend.submit(job(tmp_path, tmp_path / "cache"))
        done = until(backend, ended)
        running = processes(b"raylet", b"gcs_server")
        heard_at = listening(family_of(os.getpid()))
    finally:
        backend.stop(now=True)
    assert isinstance(done, Done) and done.record.status == "COMPLETE"
    assert running and not set(running) & set(processes(b"raylet", b"gcs_server"))
    assert heard_at and {address.removeprefix("::ffff:") for address in heard_at} == {"127.0.0.1"}
    figures = {name: value for file in (tmp_path / "ray").rglob("events.out*") for name, value in scalars(file)}
    assert figures["ray/tune/scores/pesq_wb"] == pytest.approx(done.record.scores["pesq_wb"].mean)
    assert figures["ray/tune/cost/macs_per_s"] == pytest.approx(done.record.cost.macs_per_s)
    assert figures["ray/tune/share"] == 1


def listening(pids):
    """Addresses at which these processes can be reached over a network."""
    import psutil

    found = set()
    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections("inet")
        except psutil.Error:  # it has ended meanwhile
            continue
        found |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    return found


def scalars(path):
    """Names and values in a file of TensorBoard: records of a length, a checksum, an event and a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes()
    at = 0
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + size])
        yield from ((value.tag, value.simple_value) for value in event.summary.value)
        at += 16 + size
