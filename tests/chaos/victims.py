"""Who is killed, and what must happen then."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from disk import Filler
from processes import Process
from siege import Siege

RECOVERY_S = 60.0  # until a driver that lived through a blow has said something, or has ended


# They train nothing, and end 60 s after their cluster's head by Ray's own clock; a resumed search runs beside them.
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


class Blow(NamedTuple):
    """What a blow did: ``note`` for the line, and what of it was wrong; None: there was nobody to kill."""

    note: str
    wrong: list[str]


class Victim(ABC):
    """One kind of process to kill, or another way to make a run end."""

    name: str
    events: tuple[str, ...] | None = None  # after which it strikes; any unless given

    @abstractmethod
    def strike(self, siege: Siege, rng: random.Random) -> Blow | None:
        """Kills, and waits for what follows."""


class Driver(Victim):
    name = "driver"

    def strike(self, siege: Siege, rng: random.Random) -> Blow | None:
        siege.marked.alive()
        siege.command.kill()
        return _all_gone(siege)


class Everything(Victim):
    """As when the power fails."""

    name = "everything"

    def strike(self, siege: Siege, rng: random.Random) -> Blow | None:
        siege.marked.kill()
        return _all_gone(siege)


class Worker(Victim):
    """A process that runs trials; a trial whose worker dies twice under one driver has failed, hence once each."""

    name = "worker"

    def __init__(self, is_worker: Callable[[Process], bool], name: str = "worker") -> None:
        self._is_worker, self.name = is_worker, name

    def strike(self, siege: Siege, rng: random.Random) -> Blow | None:
        workers = [p for p in siege.marked.alive() if self._is_worker(p)]
        choice = [(p, siege.trial_of(p)) for p in workers]
        choice = [(p, n) for p, n in choice if siege.may_lose(n)]
        if not choice:
            return None
        victim, number = rng.choice(choice)
        said, again = len(siege.command.lines), len(siege.command.tried_again)
        victim.kill()
        siege.struck.add(number)
        tried = _until(lambda: len(siege.command.tried_again) > again or siege.command.ended, 10.0)
        if tried and not siege.command.ended:
            number = siege.command.tried_again[-1]
            siege.struck.add(number)
        came = _until(lambda: len(siege.command.lines) > said or siege.command.ended, RECOVERY_S)
        wrong = [] if came else [f"nothing came of the search within {RECOVERY_S:g} s"]
        if siege.command.ended and siege.command.process.returncode != 0:
            wrong += ["the driver did not survive the death of a worker", *siege.command.errors[-3:]]
        return Blow(f"of trial {number}" + ("" if tried else ", unnoticed"), wrong)


class FullDisk(Victim):
    """No byte is left where the run lies; either all the time, or until something is freed."""

    name = "full disk"
    events = ("the start", "a checkpoint", "a checkpoint begins", "the weights", "a result", "a line of the driver")

    def strike(self, siege: Siege, rng: random.Random) -> Blow | None:
        keeps_on = rng.random() < 0.5
        filler = Filler(siege.home, keeps_on=keeps_on)
        try:
            if not siege.command.wait(RECOVERY_S):
                siege.marked.kill()
                return Blow("", [f"went on for {RECOVERY_S:g} s on a full disk"])
        finally:
            filler.release()
        if siege.command.process.returncode == 0:
            return Blow("had nothing more to write", [])
        gone = _all_gone(siege)
        said = (siege.command.errors or [""])[-1].replace(str(siege.home), "...")
        return Blow(
            f"{'kept full, ' if keeps_on else ''}{said[:90]}; {gone.note}", siege.command.unclear() + gone.wrong
        )


class Raylet(Victim):
    """The node of the cluster: the driver goes on with another, or ends with one line."""

    name = "raylet"

    def strike(self, siege: Siege, rng: random.Random) -> Blow | None:
        raylets = [p for p in siege.marked.alive() if "/raylet/raylet " in p.words]
        if not raylets:
            return None
        rng.choice(raylets).kill()
        _until(lambda: siege.command.ended, 30.0)  # Ray ends a driver some trials after its node
        return _lives_or_says_why(siege)


class Server(Victim):
    """The database with all its processes; it is back after a pause."""

    name = "postgresql"

    def strike(self, siege: Siege, rng: random.Random) -> Blow | None:
        pause_s = rng.uniform(0.2, 4.0)
        siege.server.kill()
        time.sleep(pause_s)
        siege.server.start()
        blow = _lives_or_says_why(siege)
        return blow._replace(note=f"back after {pause_s:.1f} s, {blow.note}")


def _all_gone(siege: Siege) -> Blow:
    """The command has ended, and what it started ends by itself."""
    siege.command.wait(5.0)
    limit_s = 10.0 if siege.backend == "ray" else 3.0
    took_s, left = siege.marked.left_after(limit_s, RAY_AGENTS)
    wrong = [f"{limit_s:g} s later process {p.pid} still ran: {p.words[:120]}" for p in left]
    siege.marked.kill(lambda process: process in left)
    return Blow(f"all gone in {took_s:.1f} s", wrong)


def _lives_or_says_why(siege: Siege) -> Blow:
    said = len(siege.command.announced)
    _until(lambda: siege.command.ended or len(siege.command.announced) > said, RECOVERY_S)
    if not siege.command.ended:
        alive = len(siege.command.announced) > said
        return Blow("the search went on", [] if alive else [f"no trial ended within {RECOVERY_S:g} s"])
    siege.command.wait(5.0)
    if siege.command.process.returncode == 0:
        return Blow("the search went on to its end", [])
    gone = _all_gone(siege)
    said_last = (siege.command.errors or [""])[-1]
    return Blow(f"{said_last[:90]}; {gone.note}", siege.command.unclear() + gone.wrong)


def _until(true: Callable[[], bool], limit_s: float) -> bool:
    ends = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True
