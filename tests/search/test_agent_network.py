"""Driver and agent in network namespaces of their own, far from each other."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from agents import TOKEN
from far_away import Link
from streaming_onnx import streaming_model

import search
from search.agent_pack import pack_agent

pytestmark = pytest.mark.slow
ENVIRONMENT = {"PATH": os.environ["PATH"], "SEKD_AGENT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def link():
    try:
        with Link(delay_s=0.04, loss=0.05) as made:
            yield made
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")


@pytest.fixture
def there(link, tmp_path):
    """An agent with TLS at the far end; a profile of it."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=board", "-addext", "subjectAltName=IP:10.213.7.2", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    packed = pack_agent(tmp_path / "agent.pyz")
    command = [sys.executable, "-I", str(packed), "--host", "10.213.7.2", "--cert", "cert.pem", "--key", "key.pem"]
    with subprocess.Popen(
        ["ip", "netns", "exec", link.far, *command], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as agent:
        assert "listening at https://10.213.7.2:8517" in agent.stderr.readline()
        (tmp_path / "board.toml").write_text(
            'name = "board"\ndescription = "far away"\nlatency = "agent"\n'
            'url = "https://10.213.7.2"\nca_file = "cert.pem"\n'
        )
        yield tmp_path / "board.toml"
        agent.terminate()
        agent.communicate(timeout=20)


def measured(link, profile):
    model = str(streaming_model(profile.parent / "m.onnx", hop=64))
    command = [sys.executable, "-m", "search.cli", "measure", model, "--device", str(profile)]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(Path(search.__file__).parents[1])}
    return subprocess.run(
        ["ip", "netns", "exec", link.near, *command, "--level", "screening", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_measures_over_a_slow_way_that_loses_packets(link, there):
    done = measured(link, there)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["latency"]["board"]
    assert (found["kind"], found["source"]) == ("measured", "agent")
    assert found["burst"]["p50_ms"] < 10  # of the frame alone: the way there is 80 ms long
    assert link.carried > 20 and link.lost > 0


def test_a_way_that_is_cut_for_a_while_is_waited_for(link, there):
    link.loss = 1.0
    threading.Timer(4.0, setattr, (link, "loss", 0.0)).start()
    began = time.monotonic()
    done = measured(link, there)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began > 3 and link.lost > 0
