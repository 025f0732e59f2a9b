"""The latency of a network, had once in a study however many trials share it: measured, or predicted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from search.device import DeviceProfile
from search.device_lock import DeviceLock, lock_folder
from search.latency import Latency
from search.measure import SCREENING, Level, measure
from sekd.cache import write_json

SHIFTED = 0.10


def network_latency(
    model: Path, device: DeviceProfile, folder: Path, *, level: Level = SCREENING, lock: DeviceLock | None = None
) -> dict[str, Any]:
    """The latency of ``model`` on ``device`` as a document; what was had before is in ``folder``.

    Equal networks must not be told apart by noise, hence all files of one graph share it.

    Raises:
        MeasurementFailed: it could not be had.
    """
    stem = f"{device.name}-{network_key(model)}-{level.name}"
    known = folder / f"{stem}.json"
    if known.exists():
        return json.loads(known.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    latency = measure(model, device, level=level, lock=lock, samples=folder / f"{stem}.npz")
    shifted = ["shifted"] if _shifted(latency, folder / f"{device.name}-canary.json") else []
    document = latency.model_dump(mode="json")
    document |= {"flags": [*latency.flags, *shifted], "samples": f"{folder.name}/{stem}.npz"}
    write_json(known, document)
    return document


def network_key(model: Path) -> str:
    """Equal for files of one graph and hop: weights by name, shape and type alone, for no kernel looks at them."""
    import onnx  # late: reading commands do without

    graph = onnx.load(model)
    for weight in graph.graph.initializer:
        if weight.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL):  # those are shapes and indices
            for field in ("raw_data", "float_data", "int32_data", "double_data"):
                weight.ClearField(field)
    return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()[:16]


@contextmanager
def measuring(device: DeviceProfile, local: DeviceLock) -> Iterator[DeviceLock]:
    """The lock to measure ``device`` under: this machine's own, or that of another machine, beside it."""
    name = lock_folder(device, local.folder).name
    if name == "local":
        yield local
        return
    with closing(DeviceLock(local.folder.with_name(name))) as other:
        yield other


def _shifted(latency: Latency, first: Path) -> bool:
    """Whether the machine is no longer as fast as when the study first measured, which the canary of then tells."""
    if latency.canary_ms is None:  # predicted
        return False
    if not first.exists():
        write_json(first, {"canary_ms": latency.canary_ms, "at": latency.at})
    reference = json.loads(first.read_text())["canary_ms"]
    return not 1 / (1 + SHIFTED) <= latency.canary_ms / reference <= 1 + SHIFTED
