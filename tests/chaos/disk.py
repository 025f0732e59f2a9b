"""A disk of some megabytes that can be filled to its last byte."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIZE_MIB = 24


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A memory disk at ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def why_no_disk(scratch: Path) -> str | None:
    """Why small disks cannot be had here, if they cannot."""
    try:
        with small_disk(scratch / "disk-tried"):
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no small disk can be mounted: {getattr(error, 'stderr', None) or error}"


class Filler:
    """Takes every byte there is, and whatever is freed, until it is released."""

    def __init__(self, disk: Path, *, keeps_on: bool) -> None:
        self._path = disk / "filler"
        self._released = threading.Event()
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._fill()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        if keeps_on:
            self._thread.start()

    def _fill(self) -> None:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while os.write(self._file, bytes(size)) == size:
                    pass

    def _go_on(self) -> None:
        while not self._released.wait(0.005):
            self._fill()

    def release(self) -> None:
        self._released.set()
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._file)
        self._path.unlink()
