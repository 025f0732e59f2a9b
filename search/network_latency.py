"""The latency of a network, had once in a study however many trials share it: measured, or predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from search.cost_model import cost_model_of, predict
from search.device import DeviceProfile
from search.device_lock import DeviceLock
from search.latency import Latency
from search.measure import SCREENING, Level, measure
from search.onnx_graph import graph_facts
from sekd.cache import write_json
from sekd.config import content_hash

ATTEMPTS = 3  # at a measurement without a flag


def network_latency(
    model: Path, device: DeviceProfile, folder: Path, *, level: Level = SCREENING, lock: DeviceLock | None = None
) -> dict[str, Any]:
    """The latency of ``model`` on ``device`` as a document; what was had before is in ``folder``.

    Equal networks must not be told apart by noise, hence all files of one graph share it.

    Raises:
        MeasurementFailed: it could not be had.
    """
    graph = graph_facts(model)
    # One graph may serve several hops, and a device may be calibrated anew.
    calibrated = cost_model_of(device).at if device.latency == "model" else None
    network = content_hash([graph.graph_hash, graph.hop_ms, calibrated], 16)
    known = folder / f"{device.name}-{network}-{level.name}.json"
    if known.exists():
        return json.loads(known.read_text())
    for _ in range(ATTEMPTS):  # its flags would go with every trial of this network
        latency = fresh_latency(model, device, level=level, lock=lock)
        if not latency.flags or latency.kind == "predicted":
            break
    document = latency.model_dump(mode="json")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(known, document)
    return document


def fresh_latency(
    model: Path, device: DeviceProfile, *, level: Level = SCREENING, lock: DeviceLock | None = None
) -> Latency:
    """The latency of ``model`` on ``device`` as it is had there: predicted where the profile says so, else measured.

    Raises:
        MeasurementFailed: it could not be had.
        InputError: latency on the device cannot be had.
    """
    if device.latency == "model":
        return predict(model, cost_model_of(device))
    return measure(model, device, level=level, lock=lock)
