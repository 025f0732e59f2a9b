"""Trials on a cluster, through Ray Tune: it places, retries and watches them; what to try is decided elsewhere."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from search.backends.base import Backend, Died, Done, Event, Progress
from search.backends.ray_cluster import Cluster, alive, bundle, every_node, on_node, slots_of
from search.backends.ray_files import Home, new_token
from search.backends.ray_trial import TrialOnNode, require_one_machine, require_same, this_node
from search.device import DeviceProfile
from search.record import TrialRecord
from search.run_config import Resources
from search.trial import Job
from sekd.errors import InputError

RETRIES = 1  # by Tune, of a trial whose process died
STOP_S = 25.0  # for checkpoints and for Tune to end
IDLE_S = 60.0


class RayBackend(Backend):
    """``workers`` trials at once (what the cluster takes, unless given), each with ``resources`` of a node."""

    def __init__(
        self,
        workers: int | None,
        folder: Path,
        resources: Resources,
        *,
        address: str | None = None,
        storage_path: str | None = None,
        callbacks: Sequence[tune.Callback] = (),
        devices: Sequence[DeviceProfile] = (),
        temp: Path | None = None,
    ) -> None:
        """For the run in ``folder``, on the cluster at ``address`` or one of our own on this machine.

        Args:
            storage_path: where Tune keeps checkpoints and logs, a folder that all nodes see or a URL; else ``folder``.
            callbacks: of Ray Tune, for example W&B's; TensorBoard, JSON and CSV are written in any case.
            devices: that latencies are measured on, to be refused where the cluster would mix machines.
            temp: of a cluster of our own; short, since paths of sockets in it may have 107 bytes.

        Raises:
            InputError: there is no such cluster, or its nodes cannot run this study together.
        """
        self._folder, self._resources = folder.resolve(), resources
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._keys: dict[str, int] = {}  # Tune's name of each trial that somebody waits for
        self._lost: BaseException | None = None
        self._stopped = False
        self._cluster = Cluster(address, resources, workers, temp)
        try:
            self._driver = this_node() | {"storage": "given" if storage_path else ""}
            if address is not None:
                self._check_nodes(devices)
            self.slots = workers or slots_of(resources)
            if not self.slots:
                raise InputError(f"no node of the cluster has {bundle(resources)}: change the study's [resources]")
            self._home = self._at_home()
        except BaseException:
            self._cluster.close()
            raise
        self._jobs = _Jobs(self._home, self._keys)
        self._fit = threading.Thread(target=self._run_tune, args=(storage_path, callbacks), daemon=True)
        self._fit.start()

    def _check_nodes(self, devices: Sequence[DeviceProfile]) -> None:
        for node in every_node():
            require_same(self._driver, node)
            for device in devices:
                if device.latency == "local":
                    require_one_machine(self._driver, node, device.name)

    def _at_home(self) -> Any:
        here = on_node(ray.get_runtime_context().get_node_id())
        again = {"max_restarts": -1, "max_task_retries": -1}  # killed, it comes back with what it knew
        options = {"num_cpus": 0, "max_concurrency": 8, "scheduling_strategy": here, **again}
        return ray.remote(Home).options(**options).remote(self._folder, new_token(self._folder), self._driver)

    def _run_tune(self, storage_path: str | None, callbacks: Sequence[tune.Callback]) -> None:
        os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(self.slots))
        trainable = tune.with_parameters(TrialOnNode, home=self._home)
        try:
            tune.Tuner(
                tune.with_resources(trainable, tune.PlacementGroupFactory([bundle(self._resources)])),
                tune_config=tune.TuneConfig(
                    search_alg=self._jobs,
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=_name,
                    trial_dirname_creator=_dirname,
                ),
                run_config=tune.RunConfig(
                    name=time.strftime("%Y-%m-%d_%H-%M-%S"),
                    storage_path=storage_path or str(self._folder / "ray"),
                    stop=_Stop(self._jobs),
                    callbacks=[_Ears(self._keys, self._events, self._folder / "logs" / "ray.log"), *callbacks],
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    checkpoint_config=tune.CheckpointConfig(num_to_keep=1, checkpoint_at_end=False),
                    verbose=0,
                ),
            ).fit()
        except BaseException as error:  # nobody is above this thread: the driver learns of it in `collect`
            self._lost = error
        self._events.put(None)

    def submit(self, job: Job) -> None:
        if job.shared.torch_device.startswith("cuda") and not self._resources.gpus:
            raise InputError(
                "--torch-device cuda on Ray needs gpus in the study's [resources]: a trial sees no other GPU"
            )
        self._jobs.put(job)

    def collect(self, timeout_s: float) -> list[Event]:
        """What happened.

        Raises:
            InputError: Tune has ended, and nothing more will happen.
        """
        events: list[Event] = []
        try:
            event = self._events.get(timeout=timeout_s)
            while event is not None:
                events.append(event)
                event = self._events.get_nowait()
        except queue.Empty:
            return events
        self._events.put(None)  # it holds for the next call too
        if events:
            return events
        told = (
            f"{type(self._lost).__name__}: {self._lost}".strip().splitlines()[-1] if self._lost else "its run is over"
        )
        raise InputError(f"Ray Tune ended: {told}; every finished trial is on record: resume the study")

    def cancel(self, number: int) -> None:
        self._jobs.withdraw(number)
        for key in [key for key, known in self._keys.items() if known == number]:
            del self._keys[key]
            self._home.end.remote(key)

    def stop(self, *, now: bool = False) -> None:
        self._keys.clear()
        if self._fit.is_alive():
            self._jobs.finish()
            if now:
                ray.get(self._home.hurry.remote())
            self._fit.join(STOP_S)
        if not self._stopped:
            self._stopped = True
            ray.get(self._home.tidy.remote())
            ray.kill(self._home)
        self._cluster.close()


class _Jobs(Searcher):
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
        return _Jobs, (None, {})  # Tune keeps a copy, which nobody reads


class _Stop(tune.Stopper):
    def __init__(self, jobs: _Jobs) -> None:
        self._jobs = jobs

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._jobs.finished


class _Ears(tune.Callback):
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
        return _Ears, ({}, None, self._log)  # Tune keeps a copy, which nobody reads


def _why(told: str) -> str:
    """The last failure of Tune's error file in one line."""
    lines = [line.strip() for line in told.rpartition("Failure #")[2].splitlines()[1:] if line.strip()]
    return f"the trial's process died {RETRIES + 1} times: {lines[0] if lines else 'no reason is known'}"


def _name(trial: Any) -> str:
    return f"trial-{trial.config['number']}"


def _dirname(trial: Any) -> str:
    return f"{trial.config['number']}-{trial.trial_id}"  # a trial that is submitted again gets another
