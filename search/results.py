"""A study read back: what every command that looks at results starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from search.device import load_device
from search.labels import kind_of
from search.pareto import hypervolume, reference_point
from search.record import Kind, TrialRecord
from search.selection import front_of
from search.store import Store, open_storage
from search.study import StudyDefinition, read_study, run_folder
from search.tuner import counts
from sekd.errors import InputError


class Results(NamedTuple):
    """A study's definition, folder and records, seen from one device."""

    study: StudyDefinition
    folder: Path
    store: Store
    records: list[TrialRecord]
    device: str
    baseline: dict[str, Any]

    @property
    def kind(self) -> Kind:
        return kind_of(self.records, self.device)

    @property
    def limits(self) -> dict[str, float]:
        return self.study.budget.limits()

    @property
    def front(self) -> list[TrialRecord]:
        return front_of(self.records, self.study.objectives.names, self.limits, self.device, kind=self.kind)


def open_results(name: str, *, storage: str | None = None, device: str | None = None) -> Results:
    """The results of NAME; on another device only what ``reprofile`` measured there.

    Raises:
        InputError: there is no such run, or nothing of it was measured on ``device``.
    """
    folder = run_folder(name)
    study = read_study(folder / "definition.toml")
    if storage is None and not (folder / "study.db").exists():
        raise InputError(f"{folder}: no study.db here yet: launch the study first")
    store = Store(study, open_storage(folder, storage))
    records = store.records()
    wanted = device or study.device_name
    if wanted != study.device_name and not any(wanted in record.latency for record in records):
        load_device(wanted)  # a mistyped name is told as such
        raise InputError(
            f"nothing of '{study.name}' was measured on '{wanted}': run sekd reprofile {name} --device {wanted}"
        )
    kept = folder / "baseline.json"
    baseline = json.loads(kept.read_text())["means"] if kept.exists() else (store.noted("baseline") or {})
    return Results(study, folder, store, records, wanted, baseline)


def hypervolume_over_trials(results: Results) -> list[float]:
    """Hypervolume of the front after each counted trial, against one reference for the whole study."""
    names, directions = results.study.objectives.names, results.study.objectives.directions
    counted = [record for record in results.records if counts(record)]
    points = [[r.value(name, results.device, kind=results.kind) for name in names] for r in counted]
    whole = [point for point in points if None not in point]
    if not whole:
        return [0.0] * len(counted)
    reference = _reference(results, whole)
    volumes = []
    for last in range(1, len(counted) + 1):
        front = front_of(counted[:last], names, results.limits, results.device, kind=results.kind)
        values = [[float(r.value(n, results.device, kind=results.kind) or 0) for n in names] for r in front]
        volumes.append(hypervolume(values, reference, directions) if values else 0.0)
    return volumes


def _reference(results: Results, points: list[Any]) -> list[float]:
    """Unprocessed audio at the budget's edge: what a student must beat to be worth anything."""
    reference = reference_point(points, results.study.objectives.directions)
    for place, name in enumerate(results.study.objectives.names):
        if name in results.limits:
            reference[place] = results.limits[name]
        unprocessed = results.baseline.get("unprocessed", {}).get(name)
        if unprocessed and unprocessed["mean"] is not None:
            reference[place] = unprocessed["mean"]
    return reference


def status_document(results: Results) -> dict[str, Any]:
    """The JSON of ``status``, also printed at the end of ``launch`` and ``resume``."""
    by_status = {name: 0 for name in ("complete", "infeasible", "stopped", "failed")}
    for record in results.records:
        if record.duplicate_of is None:
            by_status[record.status.lower()] += 1
    trained = [record for record in results.records if record.seconds.train is not None and record.duplicate_of is None]
    spent = {
        stage: round(sum(getattr(record.seconds, stage) or 0.0 for record in trained), 1)
        for stage in ("train", "evaluate", "measure")
    }
    each = spent["train"] / len(trained) if trained else 0.0
    untrained = by_status["infeasible"] + sum(r.duplicate_of is not None for r in results.records)
    volumes = hypervolume_over_trials(results)
    return {
        "study": results.study.name,
        "trials": {
            **by_status,
            "running": len(results.store.running()),
            "duplicate": sum(record.duplicate_of is not None for record in results.records),
        },
        "hypervolume": volumes[-1] if volumes else 0.0,
        "hypervolume_over_trials": volumes,
        "best": _best(results),
        # What the untrained proposals would have cost at this study's mean: an estimate, not a measurement.
        "seconds": {**spent, "saved_estimated": round(untrained * each, 1)},
    }


def _best(results: Results) -> dict[str, Any] | None:
    quality = results.study.objectives.quality
    front = [record for record in results.front if record.score(quality) is not None]
    if not front:
        return None
    return max(front, key=lambda record: record.score(quality) or 0.0).document()


def front_document(results: Results, *, everything: bool = False) -> dict[str, Any]:
    """The JSON of ``front``."""
    volumes = hypervolume_over_trials(results)
    document: dict[str, Any] = {
        "study": results.study.name,
        "device": results.device,
        "objectives": list(results.study.objectives.names),
        "front": [record.document() for record in results.front],
        "hypervolume": volumes[-1] if volumes else 0.0,
    }
    if everything:
        document["all"] = [record.document() for record in results.records]
    return document
