"""A storage whose server goes away: what is tried again, for how long, and what fails at once."""

import sqlite3

import optuna
import pytest
import sqlalchemy

from search.storage import exchange as module
from search.storage.exchange import exchange
from sekd.errors import InputError


class Lost(Exception):
    """What a driver of PostgreSQL raises."""

    def __init__(self, text, sqlstate=None):
        super().__init__(text)
        self.sqlstate = sqlstate


def fails(times, cause, kind=sqlalchemy.exc.OperationalError):
    left = [times]

    def work():
        if left[0]:
            left[0] -= 1
            raise optuna.exceptions.StorageInternalError("commit") from kind("SELECT 1", {}, cause)
        return "done"

    return work


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)


@pytest.mark.parametrize("state", [None, "08006", "57P01", "57P03"])
def test_a_server_that_comes_back_is_waited_for(state):
    said = []
    assert exchange(fails(5, Lost("connection refused", state)), said.append) == "done"
    assert len(said) == 1 and "the study's storage is away" in said[0] and "for up to 120 s" in said[0]


@pytest.mark.parametrize(
    "cause", [sqlite3.OperationalError("database or disk is full"), Lost("no space left", "53100"), Lost("x", "42601")]
)
def test_what_waiting_does_not_mend_fails_at_once(cause):
    calls = fails(1, cause)
    with pytest.raises(InputError, match="storage failed: .*every finished trial is kept"):
        exchange(calls)
    assert calls() == "done", "it was tried again"


def test_patience_ends():
    with pytest.raises(InputError, match="storage failed: .*gone"):
        exchange(fails(10**9, Lost("gone")), patience_s=0.05)


def test_other_errors_are_the_callers():
    with pytest.raises(ZeroDivisionError):
        exchange(lambda: 1 / 0)
