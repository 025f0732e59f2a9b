"""Trained students measured again, on their own device or another; nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from search.device import load_device, require_measurable
from search.device_lock import DeviceLock
from search.measure import MeasurementFailed
from search.network_latency import fresh_latency
from search.remote import require_agent
from search.results import Results
from search.study import cache_folder
from sekd.config import content_hash
from sekd.errors import InputError


def reprofile(results: Results, device_name: str, *, say: Callable[[str], None]) -> int:
    """Measures the network of every trained student of a study on a device; how many students there were.

    Raises:
        InputError: the device cannot be measured, or no trained student is there.
    """
    device = load_device(device_name)
    require_measurable(device)
    require_agent(device)
    trained = [r for r in results.records if r.status == "COMPLETE" and r.duplicate_of is None]
    files = {r.number: results.folder / "trials" / str(r.number) / "model.onnx" for r in trained}
    present = {number: path for number, path in files.items() if path.exists()}
    if not present:
        raise InputError(f"{results.folder}: no trained student to measure")
    networks: dict[str, list[int]] = {}
    for number, path in present.items():
        networks.setdefault(_network(path.parent), []).append(number)
    lock = DeviceLock(cache_folder() / "locks" / "local")
    for count, numbers in enumerate(networks.values(), 1):
        named = f"[{count}/{len(networks)}] trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
        try:
            latency = fresh_latency(present[numbers[0]], device, lock=lock)
        except MeasurementFailed as error:
            say(f"{named}: not {device.kind}: {error}")
            continue
        for number in numbers:
            results.store.add_latency(device.name, number, latency.model_dump(mode="json"))
        flags = f" ({', '.join(latency.flags)})" if latency.flags else ""
        how = " predicted" if latency.kind == "predicted" else ""
        say(f"{named}: {latency.p50_ms:.4f} ms a hop{how}{flags}")
    lock.close()
    return len(present)


def _network(trial: Path) -> str:
    """Equal for equal networks, which noise must not tell apart."""
    return content_hash(json.loads((trial / "config.json").read_text()).get("student"))
