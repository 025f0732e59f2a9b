"""One measurement in a process that has little: limits, a group and a folder of its own, no token, an end in time."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from .errors import Refused

PREFIX = "sekd-agent-"
MAX_REPLY_BYTES = 8 * 2**20
START = """
import importlib, sys
root, module, settings = sys.argv[1:]
sys.path.insert(0, root)
sys.exit(importlib.import_module(module).main(settings))
"""
PACKAGE = __name__.rpartition(".")[0]  # __package__ is not there yet while Python 3.9 loads from a zip file
# The folder, or the .pyz, that holds this package. Resolved at once: the child works elsewhere.
ROOT = Path(__file__).resolve().parents[len(PACKAGE.split("."))]


class Limits(NamedTuple):
    """What one measuring process may take; 0 is no limit. ``startup_s`` is added to the time that it is asked for."""

    memory_bytes: int = 1024 * 2**20
    file_bytes: int = 16 * 2**20
    files: int = 128
    processes: int = 32  # and two for each thread that is asked for
    startup_s: float = 30.0


class Child:
    """A process of its own session, whose files are in ``folder``."""

    def __init__(self, folder: Path, task: str, request: dict[str, Any], limits: Limits) -> None:
        self._folder, self._ended, self._lock = folder, False, threading.Lock()
        self.limit_s, threads = limits.startup_s + request.get("limit_s", 0), request.get("threads", 1)
        settings = {
            **limits._asdict(),
            "task": task,
            "parent": os.getpid(),
            "paths": [site.getusersitepackages()] if site.ENABLE_USER_SITE else [],
            "cpu_s": math.ceil(self.limit_s * threads),
            "processes": limits.processes and limits.processes + 2 * threads,
        }
        (folder / "stdin").write_text(json.dumps(request))
        # Files, not pipes: RLIMIT_FSIZE bounds them, and nobody has to read meanwhile.
        with (
            open(folder / "stdin") as given,
            open(folder / "stdout", "wb") as out,
            open(folder / "stderr", "wb") as err,
        ):
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", START, str(ROOT), f"{PACKAGE}.child", json.dumps(settings)],
                stdin=given, stdout=out, stderr=err, cwd=folder, env=_environment(folder), start_new_session=True,
            )  # fmt: skip

    def wait(self) -> bool:
        """Until it has ended, killed if need be; whether it ended in time."""
        overtime = threading.Timer(self.limit_s, self.kill)
        overtime.daemon = True
        began = time.monotonic()
        overtime.start()
        # Neither polls, which would disturb what is measured, nor reaps: the number of the group stays taken.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        overtime.cancel()
        self.kill()  # whatever it left behind in its group
        with self._lock:
            self._ended = True
            self._process.wait()
        return time.monotonic() - began < self.limit_s

    def kill(self) -> None:
        with self._lock:
            if not self._ended:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def reply(self) -> dict[str, Any]:
        """Raises Refused with what it said of its failure, or how it died."""
        with open(self._folder / "stdout", "rb") as file:
            text = file.read(MAX_REPLY_BYTES + 1)
        try:
            reply = json.loads(text) if len(text) <= MAX_REPLY_BYTES else None
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise Refused(self._how_it_died())
        if "error" in reply:
            raise Refused(self._outside(str(reply["error"])))
        return reply

    def _how_it_died(self) -> str:
        code = self._process.returncode
        if code < 0:
            return f"the measuring process was killed by {signal.Signals(-code).name}"
        with open(self._folder / "stderr", "rb") as file:
            lines = file.read(64 * 1024).decode("utf-8", "replace").strip().splitlines()
        return f"the measuring process ended with {code}: {self._outside(lines[-1] if lines else 'no message')}"

    def _outside(self, text: str) -> str:
        return text.replace(f"{self._folder}/", "").replace(str(ROOT), "")[:500]


def run_child(task: str, request: dict[str, Any], limits: Limits, model: bytes = b"", started: Any = None) -> Any:
    """The reply of one fresh process.

    Args:
        started: called with the Child as soon as it can be killed.

    Raises:
        Refused: it failed, died, or had to be killed.
    """
    with private_folder() as folder:
        if model:
            (folder / request["model"]).write_bytes(model)
        child = Child(folder, task, request, limits)
        if started:
            started(child)
        if not child.wait():
            raise Refused(f"no answer within {child.limit_s:g} s: killed")
        return child.reply()


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for one process, held by a lock so that :func:`wipe_leftovers` knows those that no one uses."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def wipe_leftovers() -> None:
    """Folders of agents that were killed before they could wipe them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                about = os.fstat(held)
                # One that was made just now may not be locked yet.
                if about.st_uid == os.getuid() and time.time() - about.st_mtime > 60:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


def _environment(folder: Path) -> dict[str, str]:
    """As little as Python needs: nothing that changes figures, and no token."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    return {**kept, "HOME": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
