"""Folders that are made once: under a lock, in a temporary place, and renamed when whole."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sekd.errors import InputError


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """``folder``, made by ``build`` (which writes into the path it is given) unless it is there already.

    A build that was killed leaves its temporary folder, so that a long one continues where it stood; two
    processes that want the same folder build it once.
    """
    if folder.exists():
        return folder
    with locked(folder.with_name(folder.name + ".lock")):
        if not folder.exists():
            partial = folder.with_name(folder.name + ".partial")
            partial.mkdir(exist_ok=True)
            build(partial)
            partial.rename(folder)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds ``path`` against other processes; a crash releases it.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")
    except OSError as error:
        raise InputError(f"{path.parent}: cannot write here: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: Path, value: Any) -> None:
    """``value`` at ``path``, whole or not at all, and on the disk before this returns."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
