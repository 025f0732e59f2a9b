"""Trained students measured again, on their own device or another; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from search.device import load_device, require_measurable, too_long
from search.device_lock import DeviceLock, lock_folder
from search.gated_latency import with_expectation
from search.labels import settings_text
from search.measure import RANKING, MeasurementFailed
from search.network_latency import fresh_latency, measuring, network_key
from search.record import TrialRecord
from search.remote import require_agent
from search.results import Results
from search.variants import model_file
from sekd.errors import InputError


def reprofile(results: Results, device_name: str, *, say: Callable[[str], None]) -> int:
    """Measures the network of every trained student of a study on a device; how many students there were.

    A variant is a student of its own: it has a file of its own.

    Raises:
        InputError: the device cannot be measured, or no trained student is there.
    """
    device = load_device(device_name)
    require_measurable(device)
    require_agent(device)
    networks = _by_network(results)
    if not networks:
        raise InputError(f"{results.folder}: no trained student to measure")
    with closing(DeviceLock(lock_folder())) as local, measuring(device, local) as lock:
        for count, (path, students) in enumerate(networks, 1):
            named = f"[{count}/{len(networks)}] {_named(students)}"
            cost = students[0].cost
            if cost is not None and (refused := too_long(device, cost)):
                say(f"{named}: not {device.kind}: {refused[0].reason}")
                continue
            try:
                latency = fresh_latency(path, device, level=RANKING, lock=lock)
            except MeasurementFailed as error:
                say(f"{named}: not {device.kind}: {error}")
                continue
            document = latency.model_dump(mode="json")
            expected = {_key(student): with_expectation(document, student.cost) for student in students}
            results.store.add_latency(device.name, expected)
            flags = f" ({', '.join(latency.flags)})" if latency.flags else ""
            how = " predicted" if latency.kind == "predicted" else ""
            shut = "" if latency.shut is None else f" with gates open, {latency.shut.p50_ms:.4f} ms shut"
            say(f"{named}: {latency.p50_ms:.4f} ms a hop{shut}{how}{flags}")
    return sum(len(students) for _, students in networks)


def _by_network(results: Results) -> list[tuple[Path, list[TrialRecord]]]:
    """A file of each network and all students that are it, which noise must not tell apart."""
    found: dict[str, tuple[Path, list[TrialRecord]]] = {}
    for student in results.records:
        path = model_file(results.folder, student)
        if student.trained and student.duplicate_of is None and path.exists():
            found.setdefault(network_key(path), (path, []))[1].append(student)
    return list(found.values())


def _key(student: TrialRecord) -> tuple[int, str | None]:
    return student.number, student.variant_id if student.variant else None


def _named(students: list[TrialRecord]) -> str:
    """``trials 3, 7`` and, of variants, the setting that made them this network."""
    settings = {settings_text(student.variant) for student in students if student.variant}
    numbers = list(dict.fromkeys(str(student.number) for student in students))
    at = f" at {' / '.join(sorted(settings))}" if settings else ""
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}{at}"
