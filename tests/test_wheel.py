"""What is shipped works without the checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STUDY = """
name = "wheel"
device = "x86-1core"
trials = 1
[objectives]
quality = "si_sdr_db"
cost = ["latency_ms"]
[data]
train = { manifest = "demo", demo_minutes = 0.6, pool_minutes = 0.1, segment_s = 1.0 }
valid = { manifest = "demo", demo_minutes = 0.6, count = 2, segment_s = 2.0 }
[base]
train = { steps = 2, batch = 2 }
distill = { schedule = { kind = "supervised" } }
[space]
"student.width" = { choice = [4, 6] }
"""


def sources(folder):
    """A copy to build from, so that building leaves nothing in the checkout."""
    for name in ("sekd", "search", "hw_profiles", "studies"):
        ignore = shutil.ignore_patterns("__pycache__", "runs", "cache")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.slow
def test_a_wheel_alone_does_a_search(tmp_path):
    pytest.importorskip("setuptools", minversion="77")  # what pyproject.toml builds with
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist"]
    done = subprocess.run([*build, sources(tmp_path / "sources")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", tmp_path / "site"]
    subprocess.run([*install, wheel], check=True)
    work = tmp_path / "work"
    work.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SEKD_")}
    environment["PYTHONPATH"] = str(tmp_path / "site")

    def sekd(*arguments):
        command = [sys.executable, "-c", "import sys; from search.cli import main; sys.exit(main())", *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = "import search, sekd, hw_profiles, studies; print(search.__file__, sekd.__file__, studies.__file__)"
    asked = subprocess.run([sys.executable, "-c", where], cwd=work, env=environment, capture_output=True, text=True)
    assert asked.stdout.count(str(tmp_path / "site")) == 3
    assert "x86-1core" in [profile["name"] for profile in json.loads(sekd("devices", "--json"))]
    assert json.loads(sekd("check", "quickstart", "--samples", "2", "--json"))["samples"] == 2
    (work / "wheel.toml").write_text(STUDY)
    assert json.loads(sekd("launch", "wheel.toml", "--json"))["trials"]["complete"] == 1
    assert (work / "studies/runs/wheel/study.db").exists()
