"""The latency of a network, had once in a study however many trials share it: measured, or predicted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from search.device import DeviceProfile
from search.device_lock import DeviceLock, lock_folder
from search.gated_latency import of_each_frame
from search.graphs.graph import graph_facts
from search.latency import Latency
from search.measure import RANKING, SCREENING, Level, measure
from search.prediction.cost_model import cost_model_of, predict
from sekd.cache import write_json
from sekd.config import content_hash


def network_latency(
    model: Path, device: DeviceProfile, folder: Path, *, level: Level = SCREENING, lock: DeviceLock | None = None
) -> dict[str, Any]:
    """The latency of ``model`` on ``device`` as a document; what was had before is in ``folder``.

    Equal networks must not be told apart by noise, hence all files of one graph share it, whatever the threshold of
    their gates: what to expect at one of them is worked out for each (``search.gated_latency.with_expectation``).

    Raises:
        MeasurementFailed: it could not be had.
    """
    if device.latency == "model":
        return fresh_latency(model, device).model_dump(mode="json")
    network = network_key(model)
    stems = {name: f"{device.name}-{network}-{name}" for name in (RANKING.name, level.name)}
    files = [file for stem in stems.values() if (file := folder / f"{stem}.json").exists()]
    known = max((json.loads(file.read_text()) for file in files), key=_worth, default=None)
    if known is not None and not is_better({"level": level.name}, known):
        return known
    folder.mkdir(parents=True, exist_ok=True)
    stem = stems[level.name]

    def had(file: Path, suffix: str) -> Latency:
        samples = folder / f"{stem}{suffix}.npz"
        latency = measure(file, device, level=level, lock=lock, samples=samples)
        return latency.model_copy(update={"samples": f"{folder.name}/{samples.name}"})

    document = of_each_frame(model, had).model_dump(mode="json") | {"network": network}
    if known is not None and not is_better(document, known):
        return known
    write_json(folder / f"{stem}.json", document)
    return document


def is_better(new: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether ``new`` says more of a network: of a device at its full speed first, then of more frames."""
    return _worth(new) > _worth(known)


def _worth(latency: Mapping[str, Any]) -> tuple[bool, bool]:
    return "slowed" not in latency.get("flags", ()), latency.get("level") == RANKING.name


def network_key(model: Path) -> str:
    """Equal for files of one graph and hop, whatever their weights."""
    graph = graph_facts(model)
    return content_hash([graph.graph_hash, graph.hop_ms], 16)


def fresh_latency(
    model: Path, device: DeviceProfile, *, level: Level = SCREENING, lock: DeviceLock | None = None
) -> Latency:
    """The latency of ``model`` on ``device`` as it is had there: predicted where the profile says so, else measured.

    Raises:
        MeasurementFailed: it could not be had.
        InputError: latency on the device cannot be had.
    """
    if device.latency == "model":
        costs = cost_model_of(device)
        return of_each_frame(model, lambda file, _: predict(file, costs), predicted=True)
    return of_each_frame(model, lambda file, _: measure(file, device, level=level, lock=lock))


@contextmanager
def measuring(device: DeviceProfile, local: DeviceLock) -> Iterator[DeviceLock]:
    """The lock to measure ``device`` under: this machine's own, or that of another machine, beside it."""
    name = lock_folder(device).name
    if name == "local":
        yield local
        return
    with closing(DeviceLock(local.folder.with_name(name))) as other:
        yield other
