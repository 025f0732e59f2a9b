"""The agent as one file: what it needs, and that it runs where nothing else of ours is."""

import ast
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from agents import TOKEN, board
from streaming_onnx import streaming_model

import search.agent
from search.cli import main
from search.measure import Level, measure

SOURCES = sorted(Path(search.agent.__file__).parent.glob("*.py"))
# Newer than Python 3.9, though its grammar takes them.
NEWER = ("datetime.UTC", "itertools.pairwise", "itertools.batched", "math.exp2", "math.cbrt", "sys.exception")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "sekd-agent.pyz"
    assert main(["agent", "--pack", str(path)]) == 0
    return path


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_python_3_9_reads_and_runs_it(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    text = ast.unparse(tree)
    assert not [name for name in NEWER if name in text]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert not (name == "zip" and any(keyword.arg == "strict" for keyword in node.keywords))
            assert not (name in ("isinstance", "issubclass") and isinstance(node.args[1], ast.BinOp))
            assert not (name == "dataclass" and {k.arg for k in node.keywords} & {"slots", "kw_only"})
    assert "from __future__ import annotations" in text or len(tree.body) <= 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_it_imports_the_standard_library_numpy_and_onnxruntime_only(path):
    allowed = sys.stdlib_module_names | {"numpy", "onnxruntime"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 or node.module.split(".")[0] in allowed


def test_it_holds_all_that_is_needed_and_nothing_else(packed, tmp_path):
    names = set(zipfile.ZipFile(packed).namelist())
    beside = {path.name for path in SOURCES[0].parent.iterdir() if path.suffix in (".py", ".onnx", ".npz")}
    assert names == {"__main__.py"} | {f"sekd_agent/{name}" for name in beside}
    again = tmp_path / "again.pyz"
    assert main(["agent", "--pack", str(again)]) == 0
    assert again.read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("path", ["agent.zip", "nowhere/agent.pyz"])
def test_where_it_cannot_be_written(tmp_path, capsys, path):
    assert main(["agent", "--pack", str(tmp_path / path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def _start(packed, folder, *arguments, **environment):
    folder.mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], **environment}
    return subprocess.Popen(
        [sys.executable, "-I", str(packed), *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )  # fmt: skip


def _port(process):
    line = process.stderr.readline()
    assert "listening at http://127.0.0.1:" in line, line
    return int(line.rsplit(":", 1)[1])


def test_it_measures_from_an_empty_folder(packed, tmp_path, token_file, monkeypatch):
    monkeypatch.setenv("SEKD_AGENT_TOKEN", TOKEN)
    model = streaming_model(tmp_path / "m.onnx", hop=64)
    with _start(packed, tmp_path / "empty", "--port", "0", "--token-file", str(token_file)) as process:
        found = measure(model, board(_port(process)), level=Level("quick", 30, 5, 1, 0.0, 5.0))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (found.kind, found.source, found.n) == ("measured", "agent", 30)
    assert process.returncode == 130 and err.endswith("sekd agent: interrupted\n")
    assert not out and "Traceback" not in err and TOKEN not in err
    assert not list((tmp_path / "empty").iterdir())


def _refused(packed, tmp_path, *arguments, **environment):
    with _start(packed, tmp_path / "empty", *arguments, **environment) as process:
        out, err = process.communicate(timeout=20)
    assert process.returncode == 2 and not out and err.count("\n") == 1
    return err


def test_how_it_does_not_start(packed, tmp_path, token_file):
    token = {"SEKD_AGENT_TOKEN": TOKEN}
    open_file, short = tmp_path / "open", tmp_path / "short"
    open_file.write_text(TOKEN)
    open_file.chmod(0o644)
    short.write_text("short")
    short.chmod(0o600)
    assert "no token: set SEKD_AGENT_TOKEN" in _refused(packed, tmp_path)
    assert "--cert and --key, or --insecure" in _refused(packed, tmp_path, "--host", "0.0.0.0", **token)
    assert "others may read it; chmod 600" in _refused(packed, tmp_path, "--token-file", str(open_file))
    assert "16 to 512" in _refused(packed, tmp_path, SEKD_AGENT_TOKEN_FILE=str(short))
    assert "--cert and --key go together" in _refused(packed, tmp_path, "--cert", "c.pem", **token)
    assert "No such file" in _refused(packed, tmp_path, "--cert", "c.pem", "--key", "k.pem", **token)
    assert "nothing can be measured here" in _refused(packed, tmp_path, "--memory-mib", "16", **token)
    assert "cannot listen on 127.0.0.1" in _refused(packed, tmp_path, "--port", "70000", **token)


def test_its_command_says_the_same(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("SEKD_AGENT_TOKEN", raising=False)
    monkeypatch.delenv("SEKD_AGENT_TOKEN_FILE", raising=False)
    assert main(["agent"]) == 2
    assert "no token: set SEKD_AGENT_TOKEN" in capsys.readouterr().err
    assert main(["agent", "--host", "192.0.2.1"]) == 2
    assert "--insecure" in capsys.readouterr().err
