"""Keeps training off the machine while it is being timed, across processes and across crashes."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from search.device import DeviceProfile
from sekd.errors import InputError


def lock_root() -> Path:
    """Where the locks of this machine lie, whatever study or folder asks: ``$SEKD_LOCKS``, else the user's own.

    Raises:
        InputError: the folder belongs to somebody else.
    """
    given = os.environ.get("SEKD_LOCKS")
    if given:
        return Path(given)
    folder = Path(tempfile.gettempdir()) / f"sekd-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise InputError(f"{folder}: not yours; name another folder for locks in SEKD_LOCKS")
    return folder


def lock_folder(device: DeviceProfile | None = None) -> Path:
    """Where the locks of ``device`` lie, by default this machine's: devices on it share its cores, hence one lock."""
    if device is None or device.latency != "agent":
        return lock_root() / "local"
    here = urlsplit(device.url or "").hostname in ("localhost", "127.0.0.1", "::1")
    return lock_root() / ("local" if here else device.name)


def keep_off(device: DeviceProfile) -> None:
    """Moves this process off the cores that ``device`` reserves for measuring on this machine."""
    if device.reserve and device.latency == "local" and device.cores is not None:
        left = os.sched_getaffinity(0) - set(device.cores)
        if not left:
            raise InputError(f"device '{device.name}': reserve = true leaves no core of this machine to train on")
        os.sched_setaffinity(0, left)


GATE, MAIN, MEASURERS = range(3)  # files of a lock


class DeviceLock:
    """Many trainers step, or one measurer measures; the kernel lets go for whoever dies.

    ``flock`` prefers no one: with trainers stepping all the time a measurer would wait for ever. Hence a
    gate before the main lock. A trainer passes the gate before each step; the measurer shuts it, waits for
    the steps under way, and has the machine.

    One instance belongs to one thread: a lock is that of the open file, which threads would share. Use it
    on a local disk.
    """

    def __init__(self, folder: Path) -> None:
        """The lock whose files lie in ``folder``; they are made when it is first taken."""
        self.folder = folder
        self._files: list[int] = []
        self._held = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one training step, some microseconds; waits while someone measures."""
        self._take()
        try:
            self._enter()
            yield
        finally:
            self._drop()

    def breathe(self) -> None:
        """Inside a long ``step``: whoever waits to measure goes first."""
        fcntl.flock(self._files[MAIN], fcntl.LOCK_UN)
        self._enter()

    def _enter(self) -> None:
        fcntl.flock(self._files[GATE], fcntl.LOCK_SH)
        try:
            fcntl.flock(self._files[MAIN], fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._files[GATE], fcntl.LOCK_UN)

    @contextmanager
    def exclusive(self, *, trainers: bool = True) -> Iterator[None]:
        """Around one measurement; waits for other measurers and, unless they are elsewhere, for the steps under way.

        Args:
            trainers: False lets training go on, where it is kept off the cores that are measured.
        """
        self._take()
        try:
            fcntl.flock(self._files[MEASURERS], fcntl.LOCK_EX)
            if trainers:
                fcntl.flock(self._files[GATE], fcntl.LOCK_EX)
                fcntl.flock(self._files[MAIN], fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(self._files[GATE], fcntl.LOCK_UN)
            self._drop()
            fcntl.flock(self._files[MEASURERS], fcntl.LOCK_UN)

    def close(self) -> None:
        """Gives the file handles back."""
        while self._files:
            os.close(self._files.pop())

    def _take(self) -> None:
        # Within one process flock would convert the lock instead of waiting, and protect nothing.
        if self._held:
            raise RuntimeError("this DeviceLock is already held: steps and measurements do not nest")
        if not self._files:
            self.folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            names = ("gate.lock", "main.lock", "measurers.lock")
            self._files = [os.open(self.folder / name, flags, 0o666) for name in names]
        self._held = True

    def _drop(self) -> None:
        fcntl.flock(self._files[MAIN], fcntl.LOCK_UN)
        self._held = False
