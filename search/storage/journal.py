"""Optuna's journal file, mended where a kill or a full disk tore it, and locked so that no death stops the others."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import BaseJournalFileLock

from sekd.errors import InputError

GRACE_S = 5  # until the lock that another program left behind is taken from it
PATIENCE_S = 60.0  # with one of ours that is alive and does not go on
_START = '{"op_code":'


def open_journal(path: Path, say: Callable[[str], None]) -> JournalStorage:
    """The journal at ``path``, made if it is new and mended if it was torn.

    Raises:
        InputError: the file is none of Optuna's journals, or is damaged in a way that no kill explains.
        OSError: it cannot be written.
    """
    open(path, "ab").close()  # before the lock: that of Optuna points at the file
    lock = JournalLock(path, say)
    lock.acquire()
    try:
        mend(path, say)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


class JournalLock(BaseJournalFileLock):
    """``flock`` among ourselves, which the kernel takes from whoever dies; inside it Optuna's lock against others.

    Whoever gets it also finds the file's end whole: a line that was torn since would swallow the next one.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda line: None) -> None:
        self._path, self._say = path, say
        self._others = JournalFileSymlinkLock(str(path), grace_period=GRACE_S)
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        """Waits for the lock.

        Raises:
            StorageInternalError: a living process has kept it for ``PATIENCE_S``.
        """
        file = _flocked(Path(f"{self._path}.flock"))
        try:
            self._others.acquire()
            try:
                if _torn(self._path):
                    mend(self._path, self._say)
            except BaseException:
                self._others.release()
                raise
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def release(self) -> None:
        assert self._file is not None
        try:
            with suppress(RuntimeError):  # another program lost patience; what we wrote is on the disk all the same
                self._others.release()
        finally:
            self._file.close()


def _flocked(path: Path) -> BinaryIO:
    file = open(path, "ab")
    until, pause = time.monotonic() + PATIENCE_S, 0.001
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > until:
                file.close()
                raise StorageInternalError(f"{path}: another process has held it for {PATIENCE_S:g} s") from None
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        except BaseException:
            file.close()
            raise


def _torn(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def mend(path: Path, say: Callable[[str], None]) -> None:
    """Leaves the whole operations of the journal at ``path`` and keeps the file as it was; the caller has the lock.

    An operation without its line's end was told to nobody, so that dropping it contradicts nothing: every other
    operation keeps its meaning. A damaged line that no torn write explains is another matter: without it the
    trials after it would have other numbers.

    Raises:
        InputError: the file is no journal, or a line in its middle holds no whole operation.
    """
    raw = path.read_bytes()
    if not raw.startswith(_START.encode()[: len(raw)]):
        raise InputError(f"{path}: this is no journal of Optuna's; it is left as it is")
    *lines, tail = raw.split(b"\n")
    kept: list[bytes] = []
    damaged = [len(lines) + 1] if tail else []
    for number, line in enumerate(lines, 1):
        found = operations(line)
        if found == [line]:
            kept.append(line)
            continue
        if not found and (tail or number < len(lines)):
            raise InputError(f"{path}: line {number} is damaged, not torn: put a copy of the file in its place")
        kept += found
        damaged.insert(0, number)
    if damaged:
        backup = _keep(path)
        _replace(path, b"".join(line + b"\n" for line in kept))
        where = ", ".join(map(str, sorted(damaged)))
        say(f"{path}: a write was torn at line {where}: mended; the file as it was is {backup.name}")


def operations(line: bytes) -> list[bytes]:
    """The whole operations in ``line``: itself as a rule, what stands behind a torn one where two were glued."""
    text = line.decode("ascii", "replace")  # Optuna writes ASCII
    if _is_operation(_decoded(text)):
        return [line]
    found, start = [], text.find(_START)
    while start >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(text, start)
        except ValueError:
            value, end = None, start + 1
        if _is_operation(value):
            found.append(text[start:end].encode())
        start = text.find(_START, end)
    return found


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_operation(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("op_code"), int) and "worker_id" in value


def _keep(path: Path) -> Path:
    """A copy of the file beside it, under the first free number."""
    number = 1
    while (backup := Path(f"{path}.broken-{number}")).exists():
        number += 1
    shutil.copy2(path, backup)
    return backup


def _replace(path: Path, content: bytes) -> None:
    partial = Path(f"{path}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    shutil.copymode(path, partial)
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)
