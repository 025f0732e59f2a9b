"""A Ray cluster to run trials on: started on this machine, or joined."""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.backends.ray.node import this_node
from search.run_config import Resources
from sekd.errors import InputError

OBJECT_STORE_BYTES = 150 << 20  # files travel in chunks; Ray's own default is a third of the machine's memory
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # or it writes to the driver's stderr
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "5",  # as the processes of the local backend: the driver and a person's own work come first
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


class Cluster:
    """Ray as this process uses it; what was started here ends with `close`, what was joined stays up."""

    def __init__(self, address: str | None, resources: Resources, workers: int | None, temp: Path | None) -> None:
        """Joins the cluster at ``address``, or starts one on this machine for ``workers`` trials at once.

        Raises:
            InputError: there is no such cluster, or it is reached in a way that Tune cannot use.
        """
        self._temp: Path | None = None
        self._own_token = False
        self._joined_before = ray.is_initialized()  # by a person's own program: theirs to end
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        if self._joined_before:
            return
        # What raylets say of each other is printed on stdout whatever log_to_driver is, and --json owns that.
        ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None  # type: ignore[assignment]
        if address is None:
            self._start(resources, workers, temp)
        else:
            _join(address)

    def _start(self, resources: Resources, workers: int | None, temp: Path | None) -> None:
        cores = len(os.sched_getaffinity(0))
        at_once = workers or max(1, int(cores // cpus_of(resources)))
        folder = self._temp = temp or Path(tempfile.mkdtemp(prefix="sekd-ray-"))
        self._own_token = _token_of_our_own()
        _one_machine(True)
        try:
            with _silent():
                ray.init(
                    num_cpus=max(cores, math.ceil(at_once * cpus_of(resources))),
                    resources={name: amount * at_once for name, amount in resources.custom.items()} or None,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(folder),
                )
        except Exception as error:  # it raises plain ones
            self.close()
            raise InputError(f"Ray did not start on this machine: {str(error).strip().splitlines()[0]}") from error

    def close(self) -> None:
        if self._joined_before:
            return
        ray.shutdown()
        if self._temp is not None:
            shutil.rmtree(self._temp, ignore_errors=True)
            self._temp = None
            _one_machine(False)
        if self._own_token:
            self._own_token = False
            del os.environ["RAY_AUTH_TOKEN"], os.environ["RAY_AUTH_MODE"]
            _read_authentication()


@contextmanager
def _silent() -> Iterator[None]:
    """Around Ray's start: its libraries say nothing on stderr, and what Python does on SIGTERM stays what it was."""
    kept, handler = os.dup(2), signal.getsignal(signal.SIGTERM)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the driver with a stack trace


def _one_machine(alone: bool) -> None:
    """Whether Ray keeps to 127.0.0.1, as it does on systems where it knows no clusters; else it listens everywhere."""
    ray_constants.ENABLE_RAY_CLUSTER = not alone
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0" if alone else "1"


def _join(address: str) -> None:
    if address.startswith("ray://"):
        raise InputError(
            f"--address {address}: Tune's callbacks and our files need a driver inside the cluster; give the "
            "address of its head as host:6379, or start the driver there: ray job submit -- sekd launch ... "
            "(docs/clusters.md)"
        )
    _read_authentication()
    logging.getLogger("ray").setLevel(logging.ERROR)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # Ray does so for clusters that it starts alone
    try:
        with _silent():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        told = str(error).splitlines()[0]
        raise InputError(f"--address {address}: no cluster there that takes our RAY_AUTH_TOKEN: {told}") from error


def _token_of_our_own() -> bool:
    """A cluster that others on this machine cannot use, without writing to the user's home as Ray would."""
    if any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return False  # decided already
    os.environ |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_MODE": "token"}
    _read_authentication()
    return True


def _read_authentication() -> None:
    """Ray goes by what stood in the environment at its import."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def cpus_of(resources: Resources) -> float:
    return resources.cpus or 1.0


def bundle(resources: Resources) -> dict[str, float]:
    """One trial's share of a node, in Ray's names."""
    gpus = {"GPU": resources.gpus} if resources.gpus else {}
    return {"CPU": cpus_of(resources)} | gpus | resources.custom


def slots_of(resources: Resources) -> int:
    """How many trials the nodes that are up take at once."""
    wanted = bundle(resources)
    return sum(
        min(int(node["Resources"].get(name, 0) / amount + 1e-9) for name, amount in wanted.items()) for node in alive()
    )


def alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def every_node() -> list[dict[str, str]]:
    """What each node that is up says of itself.

    Raises:
        InputError: sekd is missing on one, or another version than it can answer.
    """
    ask = ray.remote(num_cpus=0)(this_node)
    asked = {node["NodeManagerHostname"]: ask.options(scheduling_strategy=on_node(node["NodeID"])).remote()
             for node in alive()}  # fmt: skip
    found = []
    for name, answer in asked.items():
        try:
            found.append(ray.get(answer, timeout=120))
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise InputError(f"node {name}: sekd does not run there: {last}") from error
    return found
