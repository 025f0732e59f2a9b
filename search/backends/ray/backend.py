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

from search.backends.base import Backend, Event
from search.backends.ray.cluster import Cluster, bundle, every_node, on_node, slots_of
from search.backends.ray.home import Home, new_token
from search.backends.ray.node import require_one_machine, require_same, this_node
from search.backends.ray.obituary import Obituary
from search.backends.ray.trial import TrialOnNode
from search.backends.ray.tune import RETRIES, Ears, Jobs, Stop
from search.device import DeviceProfile
from search.run_config import Resources
from search.trial import Job
from sekd.errors import InputError

STOP_S = 25.0  # for checkpoints and for Tune to end


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
        self._obituary = Obituary(
            f"sekd: the driver was ended, as Ray does when its raylet on this machine dies; every finished trial is on "
            f"record: continue with sekd resume {self._folder.name}"
        )
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
            self._obituary.close()
            raise
        self._jobs = Jobs(self._home, self._keys)
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
                    stop=Stop(self._jobs),
                    callbacks=[Ears(self._keys, self._events, self._folder / "logs" / "ray.log"), *callbacks],
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
        self._obituary.close()


def _name(trial: Any) -> str:
    return f"trial-{trial.config['number']}"


def _dirname(trial: Any) -> str:
    return f"{trial.config['number']}-{trial.trial_id}"  # a trial that is submitted again gets another
