"""What a measuring process may do: little, for a while, and without leaving anything."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agents import MEBI, QUICK, TOKEN
from hostile_onnx import endless_model, hungry_model
from streaming_onnx import streaming_model

from search.agent import child, sandbox
from search.agent.admission import admit
from search.agent.errors import Refused
from search.agent.jobs import Job
from search.agent.protocol import Order
from search.agent.sandbox import Limits, run_child
from search.agent.server import run_job

LIMITS = Limits(memory_bytes=512 * MEBI, startup_s=20.0)


@pytest.fixture
def temp(tmp_path, monkeypatch):
    """Where folders of processes are made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.glob("sekd-agent-*"))  # wiped, whatever happened


@pytest.fixture
def act(monkeypatch, temp):
    """Runs code in place of the measuring one, within the same limits."""

    def run(code, limits=LIMITS, limit_s=5.0, started=None):
        start = sandbox.START.replace("sys.exit(", "child = ").replace(".main(settings))", "")
        script = f"{start}\nimport json, os\nlimits = json.loads(settings)\nchild.die_with(limits['parent'])\n"
        monkeypatch.setattr(sandbox, "START", f"{script}child.limit(limits)\n{code}")
        return run_child("time", {"limit_s": limit_s}, limits, started=started)

    return run


def job(model, **request):
    return Job(Order("0" * 64, {**QUICK, **request}, model))


def test_a_model_is_measured(temp):
    model = streaming_model(temp / "m.onnx", hop=64).read_bytes()
    reply = run_job(job(model), LIMITS)
    assert reply["burst"]["n"] == 30 and reply["paced"]["n"] == 5
    assert {"cpu", "cpus", "governor", "onnxruntime"} <= reply["environment"].keys()
    assert "temperature_c" in reply


def test_a_loop_that_never_ends_is_killed(temp):
    began = time.monotonic()
    with pytest.raises(Refused, match="no answer within|killed by SIGXCPU|killed by SIGKILL"):
        run_job(job(endless_model(), limit_s=0.5), LIMITS._replace(startup_s=2.5))
    assert time.monotonic() - began < 15


def test_a_model_that_eats_memory_fails_alone(temp):
    with pytest.raises(Refused) as refused:
        run_job(job(hungry_model()), LIMITS)
    assert str(temp) not in str(refused.value) and "\n" not in str(refused.value)


def test_a_process_killed_by_someone_is_a_failure(act):
    with pytest.raises(Refused, match="killed by SIGSEGV"):
        act("os.kill(os.getpid(), 11)")


def test_it_has_its_limits_and_a_group_of_its_own(act):
    names = ("AS", "CPU", "FSIZE", "NOFILE", "NPROC", "CORE")
    reply = act(
        "import resource\n"
        f"found = {{name: resource.getrlimit(getattr(resource, 'RLIMIT_' + name))[1] for name in {names}}}\n"
        "print(json.dumps({**found, 'group': os.getpgrp() == os.getpid(), 'session': os.getsid(0) == os.getpid()}))"
    )
    assert (reply["AS"], reply["FSIZE"], reply["NOFILE"], reply["CORE"]) == (512 * MEBI, 16 * MEBI, 128, 0)
    assert reply["CPU"] == 25 and reply["group"] and reply["session"]
    assert 32 < reply["NPROC"] < 34 + 20_000


def test_its_environment_holds_no_token_and_its_folder_is_its_own(act, monkeypatch):
    monkeypatch.setenv("SEKD_AGENT_TOKEN", TOKEN)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    reply = act("print(json.dumps({'env': dict(os.environ), 'mode': os.stat('.').st_mode, 'at': os.getcwd()}))")
    assert TOKEN not in json.dumps(reply) and not [name for name in reply["env"] if "SEKD" in name or "PYTHON" in name]
    assert reply["mode"] & 0o777 == 0o700 and Path(reply["at"]).name.startswith("sekd-agent-")
    assert reply["env"]["TMPDIR"] == reply["env"]["HOME"] == reply["at"]


def test_files_are_bounded_and_wiped(act, temp):
    with pytest.raises(Refused, match="File too large"):
        act("open('big', 'wb').write(bytes(17 * 2**20))")


def test_what_it_says_is_bounded(act, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_REPLY_BYTES", 1000)
    with pytest.raises(Refused, match="ended with 0: no message"):
        act("print(json.dumps({'a': 'b' * 2000}))")


@pytest.mark.parametrize("text", ["", "no json", "[1]", "[" * 5000])
def test_what_is_no_reply_is_a_failure(act, text):
    with pytest.raises(Refused, match="ended with 0"):
        act(f"print({text!r})")


def test_its_children_end_with_it(act, tmp_path):
    reply = act(
        "pid = os.fork()\n"
        "if pid == 0:\n    import time; time.sleep(60)\n"
        "print(json.dumps({'pid': pid, 'group': os.getpgid(pid)}), flush=True)\nos._exit(0)"
    )
    assert _gone(reply["pid"])


def _gone(pid, within_s=5.0):
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_an_order_that_nobody_wants_any_more_ends_at_once(act):
    began = time.monotonic()
    with pytest.raises(Refused, match="killed by SIGKILL"):
        act("import time; time.sleep(60)", limit_s=50.0, started=lambda child: child.kill())
    assert time.monotonic() - began < 10


def test_a_killed_agent_leaves_no_process_and_the_next_one_wipes_its_folder(temp):
    code = (
        "from search.agent.sandbox import *\n"
        "sandbox_code = 'import importlib, sys, json; root, module, text = sys.argv[1:]; sys.path.insert(0, root);'\n"
        "sandbox_code += 'importlib.import_module(module).die_with(json.loads(text)[\"parent\"]); import time;'\n"
        "sandbox_code += 'time.sleep(60)'\n"
        "import search.agent.sandbox as s; s.START = sandbox_code\n"
        "run_child('time', {}, Limits(), started=lambda child: print(child._process.pid, flush=True))"
    )
    root = Path(sandbox.__file__).parents[2]
    killed = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "TMPDIR": str(temp)},
    )
    with killed:
        pid = int(killed.stdout.readline())
        time.sleep(0.7)  # it says that it wants to die with its parent
        killed.send_signal(signal.SIGKILL)
    assert _gone(pid)
    (left,) = temp.glob("sekd-agent-*")
    sandbox.wipe_leftovers()
    assert left.exists()  # too young: its agent may only just be making it
    os.utime(left, (time.time() - 100,) * 2)
    sandbox.wipe_leftovers()
    assert not left.exists()


def test_folders_in_use_are_not_wiped(temp):
    with sandbox.private_folder() as folder:
        os.utime(folder, (time.time() - 100,) * 2)
        sandbox.wipe_leftovers()
        assert folder.exists()


def test_tasks_of_the_user_are_counted():
    assert child.tasks_of_user() >= len(os.listdir("/proc/self/task"))


def test_limits_of_the_system_are_not_raised(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10, 10))
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: asked.append(pair))
    child._lower(resource.RLIMIT_AS, 100)
    child._lower(resource.RLIMIT_AS, 0)  # no limit is wanted
    assert asked == [(10, 10)]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"enable_profiling": True}, "unknown key 'enable_profiling'"),
        ({"register_custom_ops_library": "a"}, "unknown key 'register_custom_ops_library'"),
        ({"custom_ops": "/tmp/evil.so"}, "not a plain name"),
        ({"optimized_model_filepath": "x"}, "unknown key"),
        ({"session_options": {"a": "b"}}, "unknown key"),
        ({"model": "/etc/passwd"}, "names no model"),
        ({"provider": "../../evil.so"}, "not a plain name"),
        ({"provider": "a" * 100}, "not a plain name"),
        ({"provider": ["CPUExecutionProvider", {"ep_library": "x"}]}, "provider"),
        ({"cores": "0"}, "not a plain name"),
        ({"cores": [-1]}, "cores"),
        ({"threads": "many"}, "threads"),
        ({"threads": 1000}, "threads"),
        ({"threads": True}, "threads"),
        ({"limit_s": 301}, "at most 300"),
        ({"limit_s": -1}, "limit_s"),
        ({"limit_s": None}, "limit_s"),
        ({"limit_s": 10**400}, "limit_s"),
        ({"burst_frames": 200_000}, "at most 100000"),
        ({"paced_frames": {}}, "paced_frames"),
        ({"hop_ms": [1]}, "hop_ms"),
    ],
)
def test_requests_beyond_the_whitelist(tmp_path, request_, message):
    model = streaming_model(tmp_path / "m.onnx").read_bytes()
    with pytest.raises(Refused, match=message):
        admit(Order("0" * 64, request_, model))
    assert admit(Order("0" * 64, {}, model))["threads"] == 1


def test_a_broken_model_is_refused_before_a_process_is_made(monkeypatch):
    monkeypatch.setattr(sandbox, "Child", None)
    with pytest.raises(Refused, match="not an ONNX model"):
        run_job(job(b"no model"), LIMITS)
