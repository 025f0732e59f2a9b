"""What a study needs before it is worth preparing: a device that gives latencies, recordings, a readable teacher."""

from __future__ import annotations

from collections.abc import Sequence

from search.device import DeviceProfile, load_device, require_measurable
from search.drivers import Driver, this_place
from search.prediction.cost_model import cost_model_of
from search.record import LATENCIES
from search.remote import require_agent
from search.study import StudyDefinition
from sekd.data import DEMO, source_files
from sekd.distillation import DistillConfig
from sekd.errors import InputError
from sekd.teacher import look_at, require_trust


def wants_latency(study: StudyDefinition) -> bool:
    """Whether an objective or a limit is a latency."""
    return any(name in LATENCIES for name in (*study.objectives.cost, *study.budget.limits()))


def check_device(study: StudyDefinition, device: DeviceProfile) -> None:
    """Refuses a latency that cannot be had on the device: a local number would pass for it.

    Raises:
        InputError: names the device: its cost model cannot be read, or its agent does not answer.
    """
    if wants_latency(study):
        require_measurable(device)
        require_agent(device)
        if device.latency == "model":
            cost_model_of(device)
            if "paced_p95_ms" in (*study.objectives.cost, *study.budget.limits()):
                raise InputError(f"device '{device.name}': paced_p95_ms is not predicted; use latency_ms")
        elif device.latency not in ("local", "agent"):
            raise InputError(f"device '{device.name}': latency = \"{device.latency}\" is not built yet")


def check_one_machine(study: StudyDefinition, device: DeviceProfile, others: Sequence[Driver]) -> None:
    """Refuses to mix the latencies of two machines under one device's name.

    Raises:
        InputError: the device is the machine that trains, and another driver is on another machine.
    """
    boot = this_place().split()[0]
    for other in others:
        if wants_latency(study) and device.latency == "local" and other.place.split()[0] != boot:
            raise InputError(
                f"device '{device.name}' is the machine that trains, and there are two: {other.host} is at work "
                'on this study; measure on one through sekd agent (latency = "agent" in the profile)'
            )


def check_also_on(study: StudyDefinition) -> tuple[DeviceProfile, ...]:
    """The study's other devices; none may be its own, come twice, or give no latencies.

    Raises:
        InputError: names the device.
    """
    seen = {study.device_name}
    others = tuple(load_device(name) for name in study.also_on)
    for device in others:
        if device.name in seen:
            raise InputError(f"also_on: '{device.name}' is measured already")
        seen.add(device.name)
        require_measurable(device)
    return others


def check_recordings(config: DistillConfig) -> None:
    """Says at once, and not after minutes of preparation, that something is missing.

    Raises:
        InputError: recordings or the teacher's file cannot be used.
    """
    for recipe in (config.data.train, config.data.valid):
        if recipe.manifest != DEMO:
            source_files(recipe)
    source = None if config.teacher is None else config.teacher.source
    if source is not None:
        look_at(source)  # `sekd check` comes here as well, and never runs code that a study names


def check_trust(config: DistillConfig, trust_code: bool) -> None:
    """Says before anything is read or written that the teacher is code which nobody allowed.

    Raises:
        InputError: names the function and the flag.
    """
    source = None if config.teacher is None else config.teacher.source
    if source is not None:
        require_trust(source, trust_code)
