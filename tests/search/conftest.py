import pytest


@pytest.fixture(autouse=True)
def own_locks(tmp_path_factory, monkeypatch):
    """Tests neither wait for each other's measurements nor know how fast the machine was in another."""
    monkeypatch.setenv("SEKD_LOCKS", str(tmp_path_factory.mktemp("locks")))


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server, for this process's tests alone."""
    from postgres import Postgres, programs

    if programs() is None:
        pytest.skip("no PostgreSQL here: make test-services installs it")
    with Postgres() as server:
        yield server
