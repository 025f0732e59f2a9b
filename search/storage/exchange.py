"""Talking to Optuna: its warnings are not for the user, its failures are, and a server may be away for a while."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TypeVar

import optuna
import sqlalchemy

from search.storage.turns import TurnLost
from search.storage.urls import reason_of
from sekd.errors import InputError

PATIENCE_S = 120.0  # for a database server that is being restarted
PAUSE_S = 1.0

Result = TypeVar("Result")
Say = Callable[[str], None]


def exchange(work: Callable[[], Result], say: Say = lambda line: None, *, patience_s: float | None = None) -> Result:
    """What ``work`` gives; done again while the server of the storage is away, so it must bear being cut anywhere.

    Raises:
        InputError: the storage failed for good, as on a full disk.
    """
    ends: float | None = None
    patience_s = PATIENCE_S if patience_s is None else patience_s
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return work()
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError, TurnLost) as error:
            if isinstance(error, OSError) and error.errno is None:  # not the system's word on a file
                raise
            reason = reason_of(error.__cause__ or error)
            if not _is_away(error) or (ends is not None and time.monotonic() > ends):
                raise InputError(
                    f"the study's storage failed: {reason}; every finished trial is kept: mend it, then sekd resume"
                ) from error
            if ends is None:
                ends = time.monotonic() + patience_s
                say(f"the study's storage is away ({reason}): trying again for up to {patience_s:g} s")
            time.sleep(PAUSE_S)


def _is_away(error: BaseException) -> bool:
    """Whether a server broke the connection or refused it; SQLite has none, and a full disk is not away."""
    if isinstance(error, TurnLost):
        return True
    found: BaseException | None = error
    while found is not None and not isinstance(found, sqlalchemy.exc.DBAPIError):
        found = found.__cause__
    if found is None or "sqlite" in type(found.orig).__module__:
        return False
    if found.connection_invalidated:
        return True
    state = getattr(found.orig, "sqlstate", None)  # PostgreSQL's; a connection that was never made has none
    lost = state is None or state.startswith(("08", "57P"))
    return isinstance(found, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError) and lost
