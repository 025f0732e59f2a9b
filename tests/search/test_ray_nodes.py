"""Trials on a cluster of two nodes: one dies, and the other goes on where it stood."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from backend_contract import ended, job, training, until
from ray_nodes import Nodes, parent_of
from test_ray_backend import IGNORED, actors

from search.backends.base import Done
from search.run_config import Resources

pytestmark = [*IGNORED, pytest.mark.slow]
STEPS = 900


@pytest.fixture
def short():
    """A folder whose path leaves room for the sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="sekd"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["shared", "hidden"])
def nodes(request, short, tmp_path, monkeypatch):
    folders = [tmp_path / "run", tmp_path / "cache"]
    for folder in folders:
        folder.mkdir()
    made = Nodes(short, 2, hidden=folders if request.param == "hidden" else ())
    try:
        made.__enter__()
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", made.token)
    yield made
    made.__exit__()


def test_a_trial_of_a_node_that_dies_goes_on_at_another(nodes, tmp_path):
    from search.backends.ray.backend import RayBackend

    run = tmp_path / "run"
    backend = RayBackend(1, run, Resources(cpus=1), address=nodes.address)
    try:
        backend.submit(job(run, tmp_path / "cache", steps=STEPS))
        checkpoint = run / "trials/0/checkpoint.pt"
        until(backend, lambda event: checkpoint.exists())
        step = torch.load(checkpoint, weights_only=True)["step"]
        (first,) = actors()
        raylet = parent_of(first)
        os.kill(raylet, signal.SIGKILL)
        until(backend, lambda event: event.stage != "train")
        continued = until(backend, training)
        (second,) = actors()
        assert parent_of(second) != raylet and continued.share > step / STEPS > 0
        done = until(backend, ended, timeout_s=120)
        assert isinstance(done, Done) and done.record.status == "COMPLETE"
        left = {file.name for file in (run / "trials/0").iterdir()} - {"lock"}
        assert left == {"environment.json", "identity", "model.onnx", "model.safetensors", "result.json", "scores.json"}
        if nodes.hidden:
            assert list(nodes.temp.glob("node*/cache/valid-*/clean/000.flac"))
    finally:
        backend.stop(now=True)
