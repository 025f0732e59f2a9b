"""A PostgreSQL server of one's own for a test: ``with Postgres() as server: server.fresh()`` is the URL of a database.

It listens on 127.0.0.1 alone, under a random password, in a temporary folder; it can be killed and started again.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

PATIENCE_S = 30


def programs() -> Path | None:
    """Where Debian's package has the newest server, if it is installed."""
    found = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "initdb").exists()]
    return max(found, key=lambda folder: float(folder.parent.name)) if found else None


class Postgres:
    """A cluster that lives as long as the ``with``; fsync is on, as with a real one."""

    def __init__(self) -> None:
        bin_folder = programs()
        if bin_folder is None:
            raise FileNotFoundError("no PostgreSQL here: apt-get install postgresql")
        self._bin = bin_folder
        self.password = secrets.token_hex(16)
        self.folder = Path(tempfile.mkdtemp(prefix="sekd-postgres-", dir=_room()))
        self._data, self._count = self.folder / "data", 0
        # The server refuses to run as root.
        user = "postgres" if os.getuid() == 0 else None
        self._as = {"user": user, "group": user, "extra_groups": []} if user else {}
        if user:
            os.chown(self.folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        try:
            self._make()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGQUIT)  # at once, but it takes its shared memory with it
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def url(self, database: str = "postgres", *, password: bool = True) -> str:
        secret = f":{self.password}" if password else ""
        return f"postgresql://sekd{secret}@127.0.0.1:{self.port}/{database}"

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        self._count += 1
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE fresh_{self._count}")
        return self.url(f"fresh_{self._count}")

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=5)

    def _make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # inside a folder that is the server's alone
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, "-U", "sekd", "--auth=scram-sha-256", f"--pwfile={secret}",
             "--encoding=UTF8", "--locale=C", "--no-sync"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/", **self._as,
        )  # fmt: skip
        secret.unlink()

    def start(self) -> None:
        """Starts it, after a ``kill`` on the same port and data; back when it answers."""
        options = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": self.port, "fsync": "on",
            "dynamic_shared_memory_type": "mmap",  # in the folder: a kill leaves nothing elsewhere
        }  # fmt: skip
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *(f"--{key}={value}" for key, value in options.items())],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True, **self._as,
            )  # fmt: skip
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if not self.running or time.monotonic() > until:
                    said = (self.folder / "log").read_text()[-2000:]
                    raise RuntimeError(f"PostgreSQL does not start: {said}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL for the server and each of its processes at once: as near as it gets to a power cut."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # it must not see them go
        for child in _children(self._process.pid):
            os.kill(child, signal.SIGKILL)
        self._process.kill()
        self._process.wait()


def _room() -> str | None:
    """Memory if there is enough: a kill takes nothing from it, and every commit waits for a disk."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 2**30 else None


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found
