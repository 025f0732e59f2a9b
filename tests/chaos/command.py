"""One `sekd launch` or `sekd resume`, started as a user would, and what it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENDED = re.compile(r"^\[\d+/\d+\] trial (\d+) ")
TRIED_AGAIN = re.compile(r"^trial (\d+): .*continues from its checkpoint")


class Command:
    """A process of its own session; its output is read as it comes."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.words = words
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "search.cli", *words],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
            cwd=environment["HOME"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        pipes = ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        self._readers = [threading.Thread(target=_read, args=pair, daemon=True) for pair in pipes]
        for reader in self._readers:
            reader.start()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def announced(self) -> set[int]:
        """Trials that were printed as ended."""
        return {int(found[1]) for line in list(self.lines) if (found := ENDED.match(line))}

    @property
    def tried_again(self) -> list[int]:
        return [int(found[1]) for line in list(self.lines) if (found := TRIED_AGAIN.match(line))]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def wait(self, limit_s: float) -> bool:
        """Whether it ended within ``limit_s``; all it said has been read then."""
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        ends = time.monotonic() + 2.0  # a child that outlives it may hold the pipe
        for reader in self._readers:
            reader.join(max(0.0, ends - time.monotonic()))
        return True

    def unclear(self) -> list[str]:
        """What is wrong with how it ended by its own: one line says what happened, and no traceback."""
        code, errors = self.process.returncode, [line for line in self.errors if line.strip()]
        wrong = [] if code in (1, 2) else [f"ended with exit code {code}, not 1 or 2"]
        if any(line.startswith("Traceback") for line in [*errors, *self.lines]):
            wrong.append("printed a traceback")
        if len(errors) != 1 or not errors[0].startswith("sekd: "):
            wrong.append(f"{len(errors)} lines on stderr instead of one")
        return [f"{problem}: {' / '.join(errors)[-600:]}" for problem in wrong]


def _read(pipe, into: list[str]) -> None:
    for line in pipe:
        into.append(line.rstrip("\n"))
