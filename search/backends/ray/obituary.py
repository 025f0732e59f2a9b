"""What a driver can no longer say itself: Ray ends its process, without a word, some time after its raylet has died."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

# Ends when the other end of its pipe does: with a last word there is nothing to say.
CODE = "import os, sys\nif not os.read(0, 1):\n    print(sys.argv[1], file=sys.stderr)"


class Obituary:
    """A small process that says ``line`` on stderr if this one ends before ``close``."""

    def __init__(self, line: str) -> None:
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", CODE, line],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not meant for it
        )

    def close(self) -> None:
        """Nothing will be said."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(b".")
        self._process.wait()
        self._process = None
