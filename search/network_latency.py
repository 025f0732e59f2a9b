"""The latency of a network, had once in a study however many trials share it: measured, or predicted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from search.device import DeviceProfile
from search.device_lock import DeviceLock
from search.measure import SCREENING, Level, measure
from sekd.cache import write_json

ATTEMPTS = 3  # at a measurement without a flag


def network_latency(
    model: Path, device: DeviceProfile, folder: Path, *, level: Level = SCREENING, lock: DeviceLock | None = None
) -> dict[str, Any]:
    """The latency of ``model`` on ``device`` as a document; what was had before is in ``folder``.

    Equal networks must not be told apart by noise, hence all files of one graph share it.

    Raises:
        MeasurementFailed: it could not be had.
    """
    known = folder / f"{device.name}-{network_key(model)}-{level.name}.json"
    if known.exists():
        return json.loads(known.read_text())
    for _ in range(ATTEMPTS):  # its flags would go with every trial of this network
        latency = measure(model, device, level=level, lock=lock)
        if not latency.flags:
            break
    document = latency.model_dump(mode="json")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(known, document)
    return document


def network_key(model: Path) -> str:
    """Equal for files of one graph: names, shapes and types count, weights do not, for no kernel looks at them."""
    import onnx  # late: reading commands do without

    graph = onnx.load(model)
    for weight in graph.graph.initializer:
        if weight.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL):  # those are shapes and indices
            for field in ("raw_data", "float_data", "int32_data", "double_data"):
                weight.ClearField(field)
    del graph.metadata_props[:]
    return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()[:16]


@contextmanager
def measuring(device: DeviceProfile, local: DeviceLock) -> Iterator[DeviceLock]:
    """The lock to measure ``device`` under: this machine's own, or that of another device, beside it."""
    if device.latency == "local":
        yield local
        return
    with closing(DeviceLock(local.folder.with_name(device.name))) as other:
        yield other
