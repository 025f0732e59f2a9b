"""The measuring process from within: it takes its limits upon itself, then serves one request from stdin.

Limits are set here and not by the parent between fork and exec, where code is unsafe in a parent with threads.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

PR_SET_PDEATHSIG = 1


def main(text: str) -> int:
    """``text``: JSON with ``parent``, ``task``, ``paths`` and the limits ``memory_bytes``, ``cpu_s``, ``file_bytes``,
    ``files`` and ``processes``; a limit of 0 is none."""
    settings = json.loads(text)
    die_with(settings["parent"])
    limit(settings)
    sys.path.extend(settings["paths"])
    if settings["task"] == "fingerprint":
        from .machine import fingerprint

        print(json.dumps(fingerprint()))
        return 0
    from .timing import main as time_model

    return time_model()


def die_with(parent: int) -> None:
    """An agent that is killed must not leave a process behind that measures on."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this could take effect
        sys.exit(1)


def limit(settings: dict[str, Any]) -> None:
    """Where memory runs out, this process goes first; it leaves no core dump."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_AS, settings["memory_bytes"])
    _lower(resource.RLIMIT_CPU, settings["cpu_s"])
    _lower(resource.RLIMIT_FSIZE, settings["file_bytes"])
    _lower(resource.RLIMIT_NOFILE, settings["files"])
    # Counts all tasks of the user, hence on top of those there are. It does not bind root.
    _lower(resource.RLIMIT_NPROC, settings["processes"] and settings["processes"] + tasks_of_user())


def _lower(which: int, wanted: int) -> None:
    _, hard = resource.getrlimit(which)
    if wanted:
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


def tasks_of_user() -> int:
    """Threads of all processes of this user."""
    tasks = 0
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        with suppress(OSError):
            if entry.isdecimal() and os.stat(f"/proc/{entry}").st_uid == os.getuid():
                tasks += len(os.listdir(f"/proc/{entry}/task"))
    return tasks
