"""What Ray Tune asks and tells: a searcher that only forwards, and a callback that turns its news into events."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from search.backends.base import Died, Done, Event, Progress
from search.backends.ray.cluster import alive
from search.record import TrialRecord
from search.trial import Job

RETRIES = 3  # by Tune, of a trial whose process died; one death may count as two: training and saving were under way
IDLE_S = 60.0


class Jobs(Searcher):
    """Hands Tune what was submitted, and decides nothing."""

    def __init__(self, home: Any, keys: dict[str, int]) -> None:
        super().__init__()
        self._home, self._keys = home, keys
        self._waiting: list[Job] = []
        self._out: set[str] = set()
        self._news = threading.Condition()
        self.finished = False

    def put(self, job: Job) -> None:
        with self._news:
            self._waiting.append(job)
            self._news.notify()

    def withdraw(self, number: int) -> None:
        with self._news:
            self._waiting = [job for job in self._waiting if job.number != number]

    def finish(self) -> None:
        with self._news:
            self.finished = True
            self._news.notify()

    def suggest(self, trial_id: str) -> Any:
        with self._news:
            if not self._out:  # Tune would sleep for a second between two questions
                self._news.wait_for(lambda: self._waiting or self.finished, IDLE_S)
            if self.finished:
                return Searcher.FINISHED
            if not self._waiting:
                return None
            job = self._waiting.pop(0)
            self._out.add(trial_id)
            self._keys[trial_id] = job.number
        ray.get(self._home.give.remote(trial_id, job.model_dump_json()))
        return {"number": job.number, **job.params}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self._out.discard(trial_id)

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Nothing: the study's storage is the record."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's storage is the record."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study's storage is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a resumed study submits again what it still needs."""

    def __reduce__(self) -> Any:
        return Jobs, (None, {})  # Tune keeps a copy, which nobody reads


class Stop(tune.Stopper):
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._jobs.finished


class Ears(tune.Callback):
    """Turns what Tune tells of its trials into events; first of the callbacks, so that others see figures alone."""

    def __init__(self, keys: dict[str, int], events: queue.Queue[Event | None], log: Path) -> None:
        self._keys, self._events, self._log = keys, events, log
        self._nodes: dict[str, str] = {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        record, died, told = (result.pop(key, None) for key in ("record", "died", "traceback"))
        full = result.pop("disk_full", False)
        self._nodes[trial.trial_id] = result.pop("node", "")
        if told:
            self._keep(told)
        number = self._keys.get(trial.trial_id)
        if number is None:
            return
        if result.get("done"):
            del self._keys[trial.trial_id]
        if died:
            self._events.put(Died(number, died, full))
        elif record:
            self._events.put(Done(number, TrialRecord.model_validate_json(record)))
        elif result.get("done"):
            self._events.put(Died(number, "the trial was stopped"))
        else:
            self._events.put(Progress(number, result["stage"], result["share"]))

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        if self._nodes.get(trial.trial_id) not in {node["NodeID"] for node in alive()}:
            trial.max_failures += 1  # a node that dies is no fault of the trial's

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        told = Path(trial.error_file).read_text() if trial.error_file else ""
        self._keep(told)
        number = self._keys.pop(trial.trial_id, None)
        if number is not None:
            self._events.put(Died(number, _why(told), final=True))

    def _keep(self, told: str) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._log, "a") as file:
            file.write(told)

    def __reduce__(self) -> Any:
        return Ears, ({}, None, self._log)  # Tune keeps a copy, which nobody reads


def _why(told: str) -> str:
    """The last failure of Tune's error file in one line."""
    lines = [line.strip() for line in told.rpartition("Failure #")[2].splitlines()[1:] if line.strip()]
    return f"the trial's process died too often: {lines[0] if lines else 'no reason is known'}"
