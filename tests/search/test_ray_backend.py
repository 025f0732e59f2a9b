"""Trials through Ray Tune on this machine: the contract of every backend, and what Tune's users expect."""

import struct
from pathlib import Path

import pytest
from backend_contract import TrainingContract, ended, job, until

from search.backends.base import Done
from search.run_config import Resources

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
    from search.backends.ray_backend import RayBackend

    return RayBackend(1, folder, Resources(cpus=1), **options)


def actors():
    """Processes of trials, by the names that Ray gives them."""
    return processes(b"ray::TrialOnNode") + processes(b"ray::ResourceTrainable")


def processes(*names):
    found = [file for file in Path("/proc").glob("[0-9]*/cmdline") if any(name in _read(file) for name in names)]
    return [int(file.parent.name) for file in found]


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
        from search.backends.ray_cluster import Cluster

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
    finally:
        backend.stop(now=True)
    assert isinstance(done, Done) and done.record.status == "COMPLETE"
    assert running and not set(running) & set(processes(b"raylet", b"gcs_server"))
    figures = {name: value for file in (tmp_path / "ray").rglob("events.out*") for name, value in scalars(file)}
    assert figures["ray/tune/scores/pesq_wb"] == pytest.approx(done.record.scores["pesq_wb"].mean)
    assert figures["ray/tune/cost/macs_per_s"] == pytest.approx(done.record.cost.macs_per_s)
    assert figures["ray/tune/share"] == 1


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
