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
from urllib.parse import quote, quote_plus

import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError

from search.journal import open_journal
from sekd.cache import write_json
from sekd.errors import InputError, nearest

SCHEMES = ("sqlite", "journal", "postgresql", "mysql")
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


def scheme_of(url: str) -> str:
    """What kind of storage ``url`` names.

    Raises:
        InputError: none that we know.
    """
    written, found, _ = url.partition("://")
    scheme = written.partition("+")[0]
    if found and scheme in SCHEMES:
        return scheme
    if found:
        raise InputError(f"storage {written}://: not a URL of a storage{nearest(scheme, SCHEMES)}")
    if "@" in url:  # it may hold a password
        raise InputError("storage: not a URL: write postgresql:// before it")
    raise InputError(f"storage '{url}': not a URL: for a file write sqlite:///{url}")


def parse_url(url: str) -> URL:
    """``url`` in its parts, the file of SQLite absolute.

    Raises:
        InputError: it cannot be read without doubt.
    """
    scheme = url.partition("://")[0]
    server = not scheme.startswith("sqlite")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # their text may show the password
        raise InputError(f"{scheme}://: cannot be read: write {scheme}://user@host:port/database") from None
    if server and url.partition("?")[0].count("@") > 1:
        raise InputError(f"{scheme}://: more than one @ in the URL: write one that is in a password as %40")
    if server:
        return parsed
    if parsed.database in (None, "", ":memory:"):
        raise InputError(f"{url}: this storage keeps nothing: name a file, as in sqlite:////home/me/study.db")
    return parsed.set(database=str(Path(parsed.database or "").absolute()))


def without_password(url: str) -> str:
    """``url`` as it may be shown and kept.

    Raises:
        InputError: it cannot be read without doubt.
    """
    if scheme_of(url) == "journal":
        return url
    parsed = parse_url(url)
    return URL.create(
        parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database,
        {key: value for key, value in parsed.query.items() if not _secret(key)},
    ).render_as_string(hide_password=False)  # fmt: skip


def reason_of(error: BaseException, url: str | URL = "sqlite://") -> str:
    """What a driver says, on one line and without the password of ``url``."""
    text = " ".join(str(getattr(error, "orig", None) or error).split()) or type(error).__name__
    parsed = make_url(url)
    secrets = [str(parsed.password or "")] + [str(value) for key, value in parsed.query.items() if _secret(key)]
    for secret in filter(None, secrets):
        for written in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(written, "***")
    return text[:300]


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
    except OSError as error:
        raise InputError(f"{url}: cannot open the study's storage: {error.strerror}") from error


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


def _secret(key: str) -> bool:
    return "pass" in key and key != "passfile"


def _with_password(url: URL) -> URL:
    """libpq finds a password by itself (PGPASSWORD, ~/.pgpass); other drivers do not."""
    password = os.environ.get("SEKD_STORAGE_PASSWORD")
    if url.get_backend_name() == "mysql" and url.password is None and password:
        return url.set(password=password)
    return url
