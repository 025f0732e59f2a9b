"""The drivers of one study: who is at work, who has died, and the signs of life that tell."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from search.run_config import RunConfig
from sekd.config import Frozen
from sekd.errors import InputError

DRIVER = "sekd_driver:"  # prefix of their keys among the study's attributes


class Driver(Frozen):
    """A process that drives a study; ``beat`` counts its signs of life."""

    id: str
    host: str
    process: int
    started: int  # of the process, in clock ticks: process numbers come again
    place: str  # boot and process namespace within which its number means something
    since: str
    beat: int = 0
    left: bool = False

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"


def this_driver() -> Driver:
    """The calling process as a driver, new at each call."""
    process = os.getpid()
    return Driver(
        id=uuid.uuid4().hex[:12],
        host=socket.gethostname(),
        process=process,
        started=_started(process) or 0,
        place=this_place(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def this_place() -> str:
    """Equal for processes that can see each other: this start of this machine, and the process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _started(process: int) -> int | None:
    """When a process began, in clock ticks since boot; None if there is none, or only its remains."""
    try:
        # The name, in brackets, may hold anything; the state is the first field after it.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def is_over(driver: Driver) -> bool | None:
    """Whether a driver is at work no more; None where that cannot be told from here."""
    if driver.left:
        return True
    if driver.place != this_place():
        return None
    return _started(driver.process) != driver.started


class Board(Protocol):
    """Where drivers read of each other: the study's attributes."""

    def sign(self, key: str, value: Any) -> None:
        """Writes one."""

    def notes(self, prefix: str) -> Mapping[str, Any]:
        """All whose keys begin so."""


class Roll:
    """Who drives a study, as one driver sees it.

    No clock is compared with another machine's: a driver elsewhere is dead once its count of beats has stood
    still for ``lapse_s`` by the watch of whoever looks.
    """

    def __init__(self, board: Board, run: RunConfig, *, watch: Callable[[], float] = time.monotonic) -> None:
        self.me = this_driver()
        self._board, self._run, self._watch = board, run, watch
        self._seen: dict[str, tuple[int, float]] = {}
        self._over: set[str] = set()

    def others(self) -> list[Driver]:
        """All other drivers that are not known to be over."""
        drivers = [Driver.model_validate(value) for value in self._board.notes(DRIVER).values()]
        return [driver for driver in drivers if driver.id != self.me.id and not self._is_over(driver)]

    def _is_over(self, driver: Driver) -> bool:
        mine = driver.process == self.me.process and driver.place == self.me.place  # an earlier one of this process
        if driver.id not in self._over and (mine or is_over(driver) or self._has_lapsed(driver)):
            self._over.add(driver.id)
        return driver.id in self._over

    def _has_lapsed(self, driver: Driver) -> bool:
        now = self._watch()
        beat, since = self._seen.get(driver.id, (None, now))
        if beat != driver.beat:
            self._seen[driver.id] = (driver.beat, now)
            return False
        # Here its process was found alive; one that does not beat is stopped or stuck, and no better than dead.
        return now - since > self._run.lapse_s

    def is_at_work(self, owner: str | None) -> bool:
        """Whether the driver of that id may still be at a trial; nobody's trials are nobody's."""
        return owner == self.me.id or any(driver.id == owner for driver in self.others())

    def require_alone(self, say: Callable[[str], None], hint: str = "") -> None:
        """Waits until every other driver is known to be dead or alive; ``hint`` says what there is to do.

        Raises:
            InputError: one is alive; names it.
        """
        first = {driver.id: driver.beat for driver in self.others()}
        told = False
        while others := self.others():
            alive = [driver for driver in others if is_over(driver) is False or driver.beat != first.get(driver.id)]
            if alive:
                raise InputError(f"another driver is at work: {alive[0]}{hint}")
            if not told:
                say(f"waiting up to {self._run.lapse_s:g} s to see whether {others[0]} is alive")
                told = True
            time.sleep(min(1.0, self._run.heartbeat_s / 4))

    @contextmanager
    def present(self) -> Iterator[None]:
        """On the roll, with a sign of life every ``heartbeat_s``, until the block ends."""
        self._say()
        ending = threading.Event()
        heart = threading.Thread(target=self._live, args=(ending,), name="heartbeat", daemon=True)
        heart.start()
        try:
            yield
        finally:
            ending.set()
            heart.join()
            with suppress(InputError):  # a storage that is gone cannot be told; the beats have stopped anyway
                self._say(left=True)

    def _live(self, ending: threading.Event) -> None:
        while not ending.wait(self._run.heartbeat_s):
            with suppress(InputError):  # the next beat may get through
                self._say()

    def _say(self, *, left: bool = False) -> None:
        self.me = self.me.model_copy(update={"beat": self.me.beat + 1, "left": left})
        self._board.sign(DRIVER + self.me.id, self.me.model_dump())
