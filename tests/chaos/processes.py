"""The processes of one run, found by what they carry: a path that only this run uses."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    born: str  # in ticks since boot: a number may be used again
    parent: int
    words: str

    @property
    def alive(self) -> bool:
        found = _read(self.pid)
        return found is not None and found.born == self.born

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    @property
    def open_files(self) -> list[str]:
        return list(_links(self.pid))


class Marked:
    """Processes whose environment, words or open files name ``mark``, and all that descend from them.

    What was marked once stays so: titles are written over environments, and children outlive their parents.
    """

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)
        self._known: set[tuple[int, str]] = set()

    def alive(self) -> list[Process]:
        everything = {process.pid: process for process in _all()}
        ours = {pid for pid, p in everything.items() if (pid, p.born) in self._known or self._carries(p)}
        grown = True
        while grown:
            more = {pid for pid, p in everything.items() if p.parent in ours} - ours
            grown = bool(more)
            ours |= more
        found = [everything[pid] for pid in sorted(ours)]
        self._known |= {(p.pid, p.born) for p in found}
        return found

    def _carries(self, process: Process) -> bool:
        if process.pid == os.getpid():
            return False
        if self._mark in process.words or self._mark in _text(process.pid, "environ"):
            return True
        return any(self._mark in link for link in _links(process.pid))

    def left_after(self, limit_s: float, patience: tuple[str, ...] = ()) -> tuple[float, list[Process]]:
        """Seconds until none was alive whose words do not begin as in ``patience``, and who was after ``limit_s``."""
        began = time.monotonic()
        while True:
            left = [process for process in self.alive() if not process.words.startswith(patience)]
            if not left or time.monotonic() - began > limit_s:
                return time.monotonic() - began, left
            time.sleep(0.02)

    def kill(self, chosen: Callable[[Process], bool] = lambda process: True) -> None:
        for process in self.alive():
            if chosen(process):
                process.kill()


def _all() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdecimal() and (found := _read(int(name))) is not None:
            yield found


def _read(pid: int) -> Process | None:
    """None for one that has ended, waited for or not."""
    stat = _text(pid, "stat")
    if not stat:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    if fields[0] in "ZX":
        return None
    return Process(pid, fields[19], int(fields[1]), _text(pid, "cmdline").replace("\0", " ").strip())


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _links(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                yield os.readlink(entry.path)
