"""Trials in processes of this machine: one at a time in each, restarted when it dies, gone when the driver is."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from search.backends.base import Backend, Died, Done, Event, Progress
from search.record import TrialRecord
from search.trial import Job

GRACE_S = 20.0  # for a checkpoint after the first Ctrl-C


class LocalBackend(Backend):
    """``workers`` processes, each with ``threads`` torch threads."""

    def __init__(self, workers: int, threads: int, logs: Path) -> None:
        self.slots = workers
        self._threads, self._logs = threads, logs
        self._events: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
        self._workers: list[_Worker] = []

    def submit(self, job: Job) -> None:
        idle = next((worker for worker in self._workers if worker.number is None and not worker.cancelled), None)
        if idle is None:
            idle = _Worker(self._threads, self._logs / f"worker-{len(self._workers)}.log", self._events)
            self._workers.append(idle)
        idle.give(job)

    def collect(self, timeout_s: float) -> list[Event]:
        events: list[Event] = []
        try:
            lines = [self._events.get(timeout=timeout_s)]
            while not self._events.empty():
                lines.append(self._events.get_nowait())
        except queue.Empty:
            return events
        for worker, line in lines:
            events.extend(self._read(worker, line))
        return events

    def _read(self, worker: _Worker, line: str | None) -> list[Event]:
        if line is None:
            self._workers = [other for other in self._workers if other is not worker]
            worker.close()
            if worker.number is None or worker.cancelled:
                return []
            return [Died(worker.number, worker.how_it_ended())]
        reply = json.loads(line)
        number = reply["number"]
        if worker.cancelled:
            if "stage" not in reply:  # it was done before the signal came, and would wait for a next trial
                worker.process.kill()
            return []
        if "stage" in reply:
            return [Progress(number, reply["stage"], reply["share"])]
        worker.number = None
        if "died" in reply:
            return [Died(number, reply["died"], reply["disk_full"])]
        return [Done(number, TrialRecord.model_validate(reply["record"]))]

    def cancel(self, number: int) -> None:
        for worker in self._workers:
            if worker.number == number:  # the process ends too: a SIGTERM that met it between two trials would stay
                worker.cancelled = True
                worker.process.send_signal(signal.SIGTERM)

    def stop(self, *, now: bool = False) -> None:
        for worker in self._workers:
            worker.process.send_signal(signal.SIGKILL if now or worker.number is None else signal.SIGTERM)
        for worker in self._workers:
            try:
                worker.process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.close()
        self._workers = []


class _Worker:
    """A process, and the number of the trial it is at."""

    def __init__(self, threads: int, log: Path, events: queue.Queue[tuple[_Worker, str | None]]) -> None:
        self.number: int | None = None
        self.cancelled = False
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "search.backends.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C in the terminal is the driver's to handle
            )
        self._listener = threading.Thread(target=self._listen, args=(events,), daemon=True)
        self._listener.start()

    def give(self, job: Job) -> None:
        self.number = job.number
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(job.model_dump_json() + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died while idle; its end is reported by the listening thread

    def _listen(self, events: queue.Queue[tuple[_Worker, str | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put((self, line))
        self.process.wait()
        events.put((self, None))

    def close(self) -> None:
        """Gives back the pipes of a process that has ended."""
        self._listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what it did not live to read
                pipe.close()

    def how_it_ended(self) -> str:
        code = self.process.returncode
        if code is not None and code < 0:
            return f"the worker was killed by {signal.Signals(-code).name}"
        return f"the worker ended with exit code {code}"
