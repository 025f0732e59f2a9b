"""The folder of one run: made, given its definition, and kept to one driver at a time."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from search.study import StudyDefinition, absolute_text, home, read_study
from sekd.errors import InputError


def start_run(path: Path) -> tuple[StudyDefinition, Path]:
    """The study at ``path`` and its run folder, made if it is new.

    Raises:
        InputError: the definition cannot be used, or the folder cannot be written.
    """
    study = read_study(path)
    if path.name == "definition.toml":  # a run continues where it lies, wherever that is
        return study, path.resolve().parent
    folder = home() / "runs" / study.name
    if not (folder / "definition.toml").exists():
        keep_definition(path, folder)
    return study, folder


def keep_definition(path: Path, folder: Path) -> None:
    """Makes the file at ``path`` the run's definition; an earlier one may differ in what is free to change.

    Raises:
        InputError: the folder cannot be written.
    """
    if path.resolve() == (folder / "definition.toml").resolve():
        return
    try:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        partial = folder / ".definition.partial"
        partial.write_text(absolute_text(path), encoding="utf-8")
        os.replace(partial, folder / "definition.toml")
    except OSError as error:
        raise InputError(f"{folder}: cannot write the run here: {error.strerror}") from error


@contextmanager
def driving(folder: Path, *, join: bool = False) -> Iterator[None]:
    """Marks the run folder as being driven; keeps everybody else off it who does not ask to ``join``.

    Raises:
        InputError: another one is at work; names its process and host.
    """
    try:
        file = open(folder / "driver.lock", "a+")
    except OSError as error:
        raise InputError(f"{folder}: cannot write here: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)  # nobody else is here
        except BlockingIOError:
            if not join:
                file.seek(0)
                who = "; ".join(file.read().split("\n")).strip("; ") or "unknown"
                raise InputError(f"{folder}: another driver is at work: {who}; --join works beside it") from None
        fcntl.flock(file, fcntl.LOCK_SH)  # drivers that join share it; who wants the run for himself does not get it
        now = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        yield
