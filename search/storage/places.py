"""Where a study's record lies: SQLite, a journal file or a database server, by URL, and how a run remembers which."""

from __future__ import annotations

import json
import os
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from search.storage.journal import open_journal
from search.storage.urls import parse_url, reason_of, scheme_of, without_password
from sekd.cache import write_json
from sekd.errors import InputError

optuna.logging.set_verbosity(optuna.logging.WARNING)  # its news are not for the user

CONNECT_S = 10
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "sqlite": {"connect_args": {"timeout": 60}},
    # A server that vanished without a word must be noticed: after idle + interval * count seconds.
    "postgresql": {
        "pool_pre_ping": True,
        "connect_args": {
            "connect_timeout": CONNECT_S, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
            "tcp_user_timeout": 60_000, "application_name": "sekd",
        },
    },
    "mysql": {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_S}},
}  # fmt: skip
DRIVERS = {"postgresql": "pip install 'sekd[postgresql]'", "mysql": "pip install mysqlclient"}


def open_storage(
    folder: Path, url: str | None = None, *, say: Callable[[str], None] = lambda line: None
) -> BaseStorage:
    """The storage at ``url``; without one what the run remembers, else SQLite in its folder.

    ``sqlite:///file``, ``journal:///file``, ``postgresql://user@host/database``; ``mysql://`` goes the same way and
    is untested.

    Args:
        say: hears what was mended.

    Raises:
        InputError: it cannot be opened or written; in words without a password.
    """
    if url is None:
        url = remembered(folder) or _own(folder)
    scheme = scheme_of(url)
    if scheme == "journal":
        return _journal(url, say)
    parsed = _with_password(parse_url(url))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _database(parsed, {key: dict(value) if key == "connect_args" else value
                                  for key, value in OPTIONS[scheme].items()})  # fmt: skip


def remembered(folder: Path) -> str | None:
    """The URL, without password, of a run whose study does not lie in its folder's ``study.db``.

    Raises:
        InputError: what is kept cannot be read.
    """
    kept = folder / "storage.json"
    try:
        return str(json.loads(kept.read_text(encoding="utf-8"))["url"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{kept}: cannot be read: delete it, and name the study's place with --storage") from None


def remember(folder: Path, url: str) -> None:
    """From now on the run in ``folder`` opens ``url``; a password is not kept."""
    place = without_password(url)
    if place == without_password(f"sqlite:///{(folder / 'study.db').absolute()}"):
        (folder / "storage.json").unlink(missing_ok=True)
    else:
        write_json(folder / "storage.json", {"url": place})


def _own(folder: Path) -> str:
    database = folder / "study.db"
    if not os.access(folder, os.W_OK) or (database.exists() and not os.access(database, os.W_OK)):
        raise InputError(f"{folder}: the study cannot be written here")
    return f"sqlite:///{database}"


def _journal(url: str, say: Callable[[str], None]) -> BaseStorage:
    path = Path(url.removeprefix("journal://"))
    if not path.is_absolute():
        raise InputError(f"{url}: write the journal's whole path, as in journal:///home/me/study.journal")
    try:
        return open_journal(path, say)
    except (OSError, StorageInternalError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{url}: cannot open the study's storage: {reason}") from error


def _database(url: URL, options: dict[str, Any]) -> RDBStorage:
    shown, scheme = without_password(url.render_as_string(hide_password=False)), url.get_backend_name()
    # What the URL says itself goes first.
    options["connect_args"] = {k: v for k, v in options["connect_args"].items() if k not in url.query}
    try:
        storage = _made(url, options)
        weakref.finalize(storage, storage.engine.dispose)  # its pool would keep the connections open
        if scheme == "sqlite":
            _careful(storage)
        return storage
    except ImportError as error:
        cause = error.__cause__ or error
        package = getattr(cause, "name", None) or "of the database"
        raise InputError(f"{shown}: the driver {package} is missing: {DRIVERS.get(scheme, str(cause))}") from error
    except Exception as error:  # SQLAlchemy, Alembic and drivers each have their own
        raise InputError(f"{shown}: cannot open the study's storage: {reason_of(error, url)}") from None


def _made(url: URL, options: dict[str, Any]) -> RDBStorage:
    text = url.render_as_string(hide_password=False)
    for left in (2, 1, 0):
        try:
            return RDBStorage(text, engine_kwargs=dict(options))
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            # Two drivers that begin at once both make the tables.
            if not left or not any(word in str(error) for word in ("already exists", "duplicate key", "UNIQUE")):
                raise
            time.sleep(0.5)
    raise AssertionError


def _careful(storage: RDBStorage) -> None:
    """Readers beside the writer, and every commit on the disk before it returns."""

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def full(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=FULL")

    storage.engine.dispose()  # connections from before
    with storage.engine.connect() as connection:  # stays with the file
        connection.execute(sqlalchemy.text("PRAGMA journal_mode=WAL"))


def _with_password(url: URL) -> URL:
    """libpq finds a password by itself (PGPASSWORD, ~/.pgpass); other drivers do not."""
    password = os.environ.get("SEKD_STORAGE_PASSWORD")
    if url.get_backend_name() == "mysql" and url.password is None and password:
        return url.set(password=password)
    return url
