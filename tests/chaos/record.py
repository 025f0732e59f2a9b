"""The record of a run, read from a copy: looking must not mend what a kill has left."""

from __future__ import annotations

import shutil
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from search.storage.places import open_storage
from search.store import RECORD


def told(folder: Path, name: str, url: str | None, scratch: Path) -> dict[int, str]:
    """Trial number to the JSON of its record, of every finished trial."""
    copy = _copied(folder, url, scratch)
    if copy is None:
        return {}
    storage = open_storage(*copy)
    try:
        return _told(storage, name)
    finally:
        _close(storage)


def _copied(folder: Path, url: str | None, scratch: Path) -> tuple[Path, str | None] | None:
    """Folder and URL to open; None if there is no study yet. A server cannot be copied, and is read itself."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    if url is None or url.startswith("sqlite:///"):
        source = Path(url.removeprefix("sqlite:///")) if url else folder / "study.db"
        return (scratch, None) if _snapshot(source, scratch / "study.db") else None
    if url.startswith("journal://"):
        journal = Path(url.removeprefix("journal://"))
        if not journal.exists():
            return None
        shutil.copy(journal, scratch / journal.name)
        return scratch, f"journal://{scratch / journal.name}"
    return folder, url


def _snapshot(source: Path, target: Path) -> bool:
    """A copy of one moment, whoever writes meanwhile; False where no study is in it yet."""
    if not source.exists():
        return False
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
        tables = {name for (name,) in new.execute("select name from sqlite_master where type = 'table'")}
    return "trial_user_attributes" in tables


def _told(storage: BaseStorage, name: str) -> dict[int, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            return {}
        trials = study.get_trials(deepcopy=False)
    return {t.number: t.user_attrs[RECORD] for t in trials if t.state.is_finished() and RECORD in t.user_attrs}


def _close(storage: BaseStorage) -> None:
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    if engine is not None:
        engine.dispose()
