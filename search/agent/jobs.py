"""Orders that wait, the one that runs, and results kept for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .errors import Refused
from .protocol import ENDED, Order

QUEUE = 4  # waiting besides the one that runs
KEPT = 64
KEPT_S = 600.0

Run = Callable[["Job"], "dict[str, Any]"]  # raises Refused with the reason of a failure


class Job:
    """One order on its way; ``stop`` ends it while it runs, which its runner provides."""

    def __init__(self, order: Order) -> None:
        self.order, self.state, self.ended_at = order, "queued", 0.0
        self.result: dict[str, Any] = {}
        self.stopped = False
        self.stop: Callable[[], None] = lambda: None

    def document(self) -> dict[str, Any]:
        return {"id": self.order.id, "state": self.state, **self.result}


class Full(Exception):
    """No more orders wait; come again."""


class Jobs:
    """Runs one job at a time, in the order of their coming."""

    def __init__(self, run: Run, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock, self._closed = run, clock, False
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        # Children die with the thread that started them (see child.py): this one stays as long as the agent.
        self._worker = threading.Thread(target=self._work, name="worker", daemon=True)
        self._worker.start()

    def require_room(self) -> None:
        """Raises Full; asked before a body is read."""
        with self._changed:
            if sum(job.state == "queued" for job in self._jobs.values()) >= QUEUE:
                raise Full

    def submit(self, order: Order) -> Job:
        """The job of ``order``, which is there already if the order came before.

        Raises:
            Full: too many wait.
            Refused: another order has its id.
        """
        with self._changed:
            self._forget()
            job = self._jobs.get(order.id)
            if job is not None:
                if job.order.request != order.request or (job.order.model and job.order.model != order.model):
                    raise Refused("another order has this id")
                return job
            self.require_room()
            job = self._jobs[order.id] = Job(order)
            self._changed.notify_all()
            return job

    def find(self, job_id: str, wait_s: float = 0.0) -> Job | None:
        """The job, as soon as it has ended and after ``wait_s`` at the latest; None if there is none."""
        with self._changed:
            self._forget()
            job = self._jobs.get(job_id)
            if job is not None and wait_s > 0:
                self._changed.wait_for(lambda: job.state in ENDED or job.stopped or self._closed, wait_s)
            return job

    def remove(self, job_id: str) -> bool:
        """Forgets the job, ended if it runs; whether there was one."""
        with self._changed:
            job = self._jobs.pop(job_id, None)
            if job is not None:
                self._end(job)
            return job is not None

    def close(self) -> None:
        """Ends all jobs, and the worker with them."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                self._end(job)
            self._jobs.clear()
            self._changed.notify_all()
        self._worker.join(10)

    def _end(self, job: Job) -> None:
        job.stopped = True
        job.stop()
        self._changed.notify_all()

    def _forget(self) -> None:
        """What ended too long ago, and the oldest of too many."""
        ended = sorted((job for job in self._jobs.values() if job.state in ENDED), key=lambda job: job.ended_at)
        for index, job in enumerate(ended):
            if index < len(ended) - KEPT or self._clock() - job.ended_at > KEPT_S:
                del self._jobs[job.order.id]

    def _next(self) -> Job | None:
        with self._changed:
            while not self._closed:
                for job in self._jobs.values():
                    if job.state == "queued":
                        job.state = "running"
                        return job
                self._changed.wait()
            return None

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                result: dict[str, Any] = {"reply": self._run(job)}
                state = "done"
            except Refused as error:
                state, result = "failed", {"error": " ".join(str(error).split())}
            except Exception as error:  # the agent outlives whatever one job meets
                state, result = "failed", {"error": f"the agent failed: {type(error).__name__}"}
            with self._changed:
                job.state, job.result, job.ended_at = state, result, self._clock()
                job.order = job.order._replace(model=b"")  # results wait long, models need not
                self._changed.notify_all()
