"""Where the record of a storm's studies lies, and the server that some of them need."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from search.storage.places import open_storage
from sekd.errors import InputError


class Storages:
    """URLs by the storage's name; one PostgreSQL server serves all studies, under their names."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._server: Any = None

    @property
    def server(self) -> Any:
        """With ``fresh()``, ``kill()`` and ``start()``; started when it is first wanted."""
        if self._server is None:
            self._server = self._stack.enter_context(import_module("postgres").Postgres())
        return self._server

    def url(self, storage: str, folder: Path) -> str | None:
        """Of the study in ``folder``, whose home may be a small disk."""
        return {
            "sqlite": lambda: None,
            "elsewhere": lambda: f"sqlite:///{folder}/record.db",
            "journal": lambda: f"journal://{folder}/home/record.journal",
            "postgresql": lambda: self.server.fresh(),
        }[storage]()


def why_not(backend: str, storage: str) -> str | None:
    """Why this cannot run here, if it cannot."""
    if backend == "ray" and find_spec("search.backends.ray.backend") is None:
        return "there is no search.backends.ray.backend"
    if storage == "postgresql":
        if find_spec("postgres") is None:
            return "there is no tests/search/postgres.py"
        return None if import_module("postgres").programs() else "no PostgreSQL is installed"
    if storage == "journal":
        with tempfile.TemporaryDirectory() as folder:
            try:
                open_storage(Path(folder), f"journal://{folder}/tried.journal")
            except InputError as error:
                return str(error)
    return None
