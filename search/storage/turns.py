"""One driver at a time: what the drivers of one storage may not do at once, on whatever machine they run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import sqlalchemy
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from search.storage.urls import reason_of, without_password
from sekd.errors import InputError

_held: set[tuple[int, str, str]] = set()
_threads: WeakKeyDictionary[BaseStorage, dict[str, threading.Lock]] = WeakKeyDictionary()
_making = threading.Lock()


class TurnLost(InputError):
    """The turn ended while it was thought held: another may have written meanwhile, so look before going on."""


@contextmanager
def one_at_a_time(storage: BaseStorage, name: str) -> Iterator[None]:
    """Keeps every other holder of ``name`` off this storage; the holder's death gives it up.

    PostgreSQL: an advisory lock on a connection of its own. MySQL: GET_LOCK, untested. SQLite and journals: ``flock``
    on a file beside them, which holds between machines as far as their file system carries it. In memory: threads.

    Raises:
        SQLAlchemyError: the server cannot be reached.
        TurnLost: on the way out: the server or its connection went away in between.
        RuntimeError: this thread holds it already.
    """
    storage = getattr(storage, "_backend", storage) if not isinstance(storage, JournalStorage) else storage
    place, lock = _lock_of(storage)
    mine = (threading.get_ident(), place, name)
    if mine in _held:
        raise RuntimeError(f"the turn '{name}' is this thread's already")
    with lock(name):
        _held.add(mine)
        try:
            yield
        finally:
            _held.discard(mine)


def _lock_of(storage: BaseStorage) -> tuple[str, Callable[[str], AbstractContextManager[None]]]:
    """Where the storage is, and what locks a name there."""
    if isinstance(storage, InMemoryStorage):
        return f"memory {id(storage)}", lambda name: _thread(storage, name)
    if isinstance(storage, JournalStorage):
        path = os.path.realpath(storage._backend._file_path)  # type: ignore[attr-defined]
        return path, lambda name: _file(path, name)
    assert isinstance(storage, RDBStorage), f"no turns on {type(storage).__name__}"
    if storage.engine.url.get_backend_name() == "sqlite":
        path = os.path.realpath(str(storage.engine.url.database))
        return path, lambda name: _file(path, name)
    return without_password(storage.url), lambda name: _server(storage, name)


@contextmanager
def _thread(storage: BaseStorage, name: str) -> Iterator[None]:
    with _making:
        lock = _threads.setdefault(storage, {}).setdefault(name, threading.Lock())
    with lock:
        yield


@contextmanager
def _file(database: str, name: str) -> Iterator[None]:
    # Never `<database>.lock`: beside a journal that is Optuna's own.
    plain = name if re.fullmatch(r"[\w.-]{1,80}", name) else hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    path = Path(f"{database}.{plain}.lock")
    while True:
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _same(file.fileno(), path):  # deleted while we waited: others lock another file by now
                continue
            yield
            if not _same(file.fileno(), path):
                raise TurnLost(f"{path}: was deleted while it was held: another driver may have written meanwhile")
            return


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _server(storage: RDBStorage, name: str) -> Iterator[None]:
    url = storage.engine.url
    take, give_back = _STATEMENTS[url.get_backend_name()]
    key = hashlib.blake2b(f"sekd:{url.database}:{name}".encode(), digest_size=8).digest()
    value: int | str = int.from_bytes(key, "big", signed=True) if "advisory" in take else f"sekd:{key.hex()}"
    # Not from the storage's pool, and really closed at the end: what closes it in any way gives the turn up.
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.NullPool, pool_reset_on_return=None, isolation_level="AUTOCOMMIT",
        connect_args=storage.engine_kwargs.get("connect_args", {}),
    )  # fmt: skip
    with engine.connect() as connection:
        if "advisory" in take:
            _let_go_of_the_dead(connection)
        taken = connection.execute(sqlalchemy.text(take), {"key": value}).scalar()
        if taken == 0 or taken is None:  # MySQL says so, PostgreSQL gives an empty text
            raise InputError(f"the study's storage failed: the server refuses the lock '{name}'")
        yield
        try:
            kept = connection.execute(sqlalchemy.text(give_back), {"key": value}).scalar()
            why = "its server says that it was not held"
        except SQLAlchemyError as error:
            kept, why = False, reason_of(error, url)
        if not kept:
            raise TurnLost(f"the turn '{name}' was lost: {why}: another driver may have written meanwhile")


_STATEMENTS = {
    "postgresql": ("SELECT pg_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"),
    "mysql": ("SELECT GET_LOCK(:key, -1)", "SELECT RELEASE_LOCK(:key)"),
}


def _let_go_of_the_dead(connection: Connection) -> None:
    """A machine that lost its power says nothing: the server asks after 10 s and gives up 15 s later, not in hours."""
    for setting, seconds in (("idle", 10), ("interval", 5), ("count", 3)):
        connection.execute(sqlalchemy.text(f"SET tcp_keepalives_{setting} = {seconds}"))
