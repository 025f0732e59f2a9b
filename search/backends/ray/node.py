"""What a node of a Ray cluster is: what must be equal on all of one study, and what tells machines apart."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from search.trial import Job
from sekd.errors import InputError


def this_node() -> dict[str, str]:
    """What must be equal on all machines of a study, and what tells machines apart."""
    from sekd.preparation import CORE_VERSION

    return {
        "sekd core": str(CORE_VERSION),
        "torch": importlib.metadata.version("torch"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "host": platform.node(),
    }


def require_same(driver: dict[str, str], node: dict[str, str], job: Job | None = None) -> None:
    """Refuses a node on which the same configuration could give another result.

    Raises:
        InputError: names what differs.
    """
    for key in ("sekd core", "torch", "python"):
        if driver[key] != node[key]:
            raise InputError(
                f"node {node['host']} has {key} {node[key]}, the driver has {driver[key]}: install the same"
            )
    if job is not None and job.shared.latency_wanted and job.shared.device.latency == "local":
        require_one_machine(driver, node, job.shared.device.name)


def require_one_machine(driver: dict[str, str], node: dict[str, str], device: str) -> None:
    """Refuses to measure one device on two machines.

    Raises:
        InputError: says what to do instead.
    """
    if driver["boot"] != node["boot"]:
        raise InputError(
            f"device '{device}' is measured where a trial runs, and node {node['host']} is another machine than the "
            'driver\'s: latencies would mix; run `sekd agent` on one machine and give the device latency = "agent"'
        )
