"""A cost model for a device, fitted to networks that are measured on it for this."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch

from search.device import DeviceProfile, require_measurable
from search.device_lock import DeviceLock
from search.latency import Latency
from search.measure import RANKING, Level, MeasurementFailed, measure
from search.prediction.cost_model import CostModel, Known
from search.prediction.features import Features, features_of
from search.prediction.fit import FEWEST, Judged, fit, interval_ratio, judge
from search.prediction.networks import MOST, name_of, spread
from search.remote import require_agent
from sekd.errors import InputError
from sekd.export import export_onnx
from sekd.models import build

# The median of one process is enough where three passes follow, and a model of bursts needs no paced frames.
CALIBRATION: Level = RANKING._replace(name="calibration", paced_frames=0, processes=1)
PASSES = 3

Say = Callable[[str], None]
Time = Callable[[Path], Latency]  # raises MeasurementFailed


class Subject(NamedTuple):
    """One network of the calibration."""

    name: str
    path: Path
    features: Features


def calibrate(
    device: DeviceProfile, count: int, *, lock: DeviceLock, say: Say, level: Level = CALIBRATION
) -> CostModel:
    """Measures ``count`` networks on ``device`` and fits a model to them.

    Raises:
        InputError: the device cannot be measured, or too few of the networks could be.
    """
    require_measurable(device)
    if device.kind != "measured":
        raise InputError(
            f"device '{device.name}': latency = \"{device.latency}\" is not measured, so nothing to fit to"
        )
    require_agent(device)
    if not FEWEST <= count <= MOST:
        raise InputError(f"--networks {count}: {FEWEST} to {MOST}")
    with tempfile.TemporaryDirectory() as folder:
        subjects = export_spread(count, Path(folder))
        passes = measure_all(subjects, lambda path: measure(path, device, level=level, lock=lock), say)
    return model_from(subjects, passes, device, level.name)


def export_spread(count: int, folder: Path) -> list[Subject]:
    subjects = []
    for number, config in enumerate(spread(count)):
        torch.manual_seed(number)
        path = export_onnx(build(config).eval(), folder / f"{number}.onnx").path
        subjects.append(Subject(name_of(config), path, features_of(path)))
    return subjects


def measure_all(subjects: Sequence[Subject], time: Time, say: Say) -> dict[str, list[Latency]]:
    """Of each network, by name, one latency a pass; every second pass goes backwards, so that a machine that grows
    warm or slow does so for all alike. Networks that fail are left out."""
    found: dict[str, list[Latency]] = {subject.name: [] for subject in subjects}
    for turn in range(PASSES):
        for subject in subjects[:: -1 if turn % 2 else 1]:
            try:
                latency = time(subject.path)
            except MeasurementFailed as error:
                say(f"{subject.name}: left out: {error}")
                continue
            found[subject.name].append(latency)
            say(f"pass {turn + 1} of {PASSES}: {subject.name}: {latency.p50_ms:.4f} ms")
    return {name: latencies for name, latencies in found.items() if len(latencies) == PASSES}


def model_from(
    subjects: Sequence[Subject], passes: dict[str, list[Latency]], device: DeviceProfile, level: str
) -> CostModel:
    """The model of all networks in ``passes``, and what left-out ones tell of it.

    Raises:
        InputError: fewer networks than a fit needs.
    """
    from scipy.stats import kendalltau, spearmanr

    used = [subject for subject in subjects if subject.name in passes]
    figures = [subject.features.figures for subject in used]
    measured_ms = [time_of(passes[subject.name]) for subject in used]
    fitted = fit(figures, measured_ms)
    judged = judge(figures, measured_ms)
    known = [_known(*each, passes[each[0].name]) for each in zip(used, measured_ms, judged, strict=True)]
    predicted_ms = [each.predicted_ms for each in judged]
    return CostModel(
        device=device.name,
        threads=device.threads,
        spinning=device.spinning,
        provider=device.provider,
        us_per=fitted.us_per,
        ranges={name: (min(f[name] for f in figures), max(f[name] for f in figures)) for name in fitted.us_per},
        operators=tuple(sorted({operator for subject in used for operator in subject.features.operators})),
        interval_ratio=interval_ratio(fitted.errors),
        coverage=sum(each.covered for each in known) / len(known),
        spearman=float(spearmanr(measured_ms, predicted_ms).statistic),
        kendall=float(kendalltau(measured_ms, predicted_ms).statistic),
        networks=tuple(known),
        level=level,
        environment=passes[used[0].name][0].environment,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def time_of(latencies: Sequence[Latency]) -> float:
    """The middle one of the passes, ms; those of a machine that was slowed count only where there are no others."""
    steady = [latency for latency in latencies if "slowed" not in latency.flags]
    return statistics.median_low(_medians(steady or latencies))


def _medians(latencies: Sequence[Latency]) -> list[float]:
    return [latency.p50_ms for latency in latencies if latency.p50_ms is not None]


def _known(subject: Subject, measured_ms: float, judged: Judged, latencies: Sequence[Latency]) -> Known:
    return Known(
        name=subject.name,
        measured_ms=measured_ms,
        passes_ms=tuple(_medians(latencies)),
        predicted_ms=judged.predicted_ms,
        interval_ms=(judged.predicted_ms / judged.ratio, judged.predicted_ms * judged.ratio),
        figures=subject.features.figures,
        flags=tuple(sorted({flag for latency in latencies for flag in latency.flags})),
    )
