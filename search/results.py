"""A study read back: what every command that looks at results starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from search.device import DeviceProfile, load_device
from search.ends import counts
from search.labels import kind_of
from search.pareto import hypervolume
from search.record import LATENCIES, Kind, TrialRecord
from search.selection import front_of
from search.storage.places import open_storage, remembered
from search.store import Store
from search.study import StudyDefinition, name_of_device, read_study, run_folder
from search.variants import flat, reference_for, students
from sekd.errors import InputError


class Results(NamedTuple):
    """A study's definition, folder and trials, seen from one device."""

    study: StudyDefinition
    folder: Path
    store: Store
    trials: list[TrialRecord]
    device: str
    baseline: dict[str, Any]
    profile: DeviceProfile | None = None  # of another device than the study's own, where it can be found

    @property
    def records(self) -> list[TrialRecord]:
        """Every student, flat: a trial with variants is there as these."""
        return students(self.trials, self.limits, self.device, kind=self.kind)

    @property
    def kind(self) -> Kind:
        return kind_of(flat(self.trials), self.device)

    @property
    def limits(self) -> dict[str, float]:
        """The study's budget; on another device without its latencies, but with what that device can hold."""
        limits = self.study.budget.limits()
        if self.device == self.study.device_name:
            return limits
        kept = {key: limit for key, limit in limits.items() if key not in LATENCIES}
        own = {} if self.profile is None else self.profile.limits
        return {key: min(limit, kept.get(key, limit)) for key, limit in own.items()} | {
            key: limit for key, limit in kept.items() if key not in own
        }

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
    if storage is None and remembered(folder) is None and not (folder / "study.db").exists():
        raise InputError(f"{folder}: no study.db here yet: launch the study first")
    store = Store(study, open_storage(folder, storage))
    trials = store.records()
    wanted = name_of_device(device or study.device)
    if wanted != study.device_name and not any(wanted in record.latency for record in flat(trials)):
        load_device(device or wanted)  # a mistyped name is told as such
        raise InputError(
            f"nothing of '{study.name}' was measured on '{wanted}': run sekd reprofile {name} --device {device}"
        )
    kept = folder / "baseline.json"
    baseline = json.loads(kept.read_text())["means"] if kept.exists() else (store.noted("baseline") or {})
    return Results(study, folder, store, trials, wanted, baseline, _profile(study, device, wanted))


def _profile(study: StudyDefinition, device: str | None, name: str) -> DeviceProfile | None:
    """The profile of another device, by what the command or the study calls it."""
    if name == study.device_name:
        return None
    for found in [device or name, *(other for other in study.also_on if name_of_device(other) == name)]:
        try:
            return load_device(found)
        except InputError:  # a file that is elsewhere or gone: what was measured is on record all the same
            continue
    return None


def hypervolume_over_trials(results: Results) -> list[float]:
    """Hypervolume of the front after each counted trial, against one reference for the whole study."""
    names, directions = results.study.objectives.names, results.study.objectives.directions
    kind, limits = results.kind, results.limits
    counted = [flat([trial]) for trial in results.trials if counts(trial)]
    points = [[r.value(name, results.device, kind=kind) for name in names] for trial in counted for r in trial]
    whole: list[Any] = [point for point in points if None not in point]
    if not whole:
        return [0.0] * len(counted)
    reference = reference_for(whole, names, limits, results.baseline.get("unprocessed", {}))
    volumes = []
    front: list[TrialRecord] = []
    for trial in counted:
        front = front_of([*front, *trial], names, limits, results.device, kind=kind)
        values = [[float(r.value(n, results.device, kind=kind) or 0) for n in names] for r in front]
        volumes.append(hypervolume(values, reference, directions) if values else 0.0)
    return volumes


def status_document(results: Results) -> dict[str, Any]:
    """The JSON of ``status``, also printed at the end of ``launch`` and ``resume``."""
    by_status = {name: 0 for name in ("complete", "infeasible", "stopped", "failed")}
    for trial in results.trials:
        if trial.duplicate_of is None:
            by_status[trial.status.lower()] += 1
    trained = [trial for trial in results.trials if trial.seconds.train is not None and trial.duplicate_of is None]
    spent = {
        stage: round(sum(getattr(record.seconds, stage) or 0.0 for record in trained), 1)
        for stage in ("train", "evaluate", "measure")
    }
    each = spent["train"] / len(trained) if trained else 0.0
    untrained = by_status["infeasible"] + sum(r.duplicate_of is not None for r in results.trials)
    volumes = hypervolume_over_trials(results)
    return {
        "study": results.study.name,
        "trials": {
            **by_status,
            "running": len(results.store.running()),
            "duplicate": sum(trial.duplicate_of is not None for trial in results.trials),
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
