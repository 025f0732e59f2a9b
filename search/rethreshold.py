"""A trained student at a threshold of its gates that it was never tried at: its file is edited, not written anew."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from search.gate_figures import gated
from search.gate_load import mix_name, with_load
from search.gated_latency import with_expectation
from search.record import UNSCORED, Cost, TrialRecord
from search.results import Results
from search.space import THRESHOLD
from search.variants import variant_folder, variant_id
from sekd.errors import InputError
from sekd.onnx_gates import with_threshold


def tried_at(
    records: Sequence[TrialRecord], threshold: float, limits: Mapping[str, float]
) -> tuple[list[TrialRecord], bool]:
    """The students that ``threshold`` can be chosen for, and whether they were tried at it.

    Raises:
        InputError: it is no probability, no student has gates, or scores are wanted that nobody measured.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"gate threshold {threshold:g} is not within 0 to 1")
    able = [record for record in gated(records) if record.trained]
    if not able:
        raise InputError("no trained student has gates, and so none has a gate threshold")
    tried = [record for record in able if at(record) is not None and math.isclose(at(record) or 0.0, threshold)]
    if tried:
        return tried, True
    for key in limits:
        if key.startswith("min_"):
            known = ", ".join(f"{found:g}" for found in sorted({at(record) or 0.0 for record in able}))
            raise InputError(f"{key}: nothing was scored at gate threshold {threshold:g}, only at {known}")
    return able, False


def at(record: TrialRecord) -> float | None:
    """The threshold that a student was tried at."""
    return None if record.cost is None else record.cost.gate_threshold


def rethresholded(
    results: Results, record: TrialRecord, trial: Path, model: Path, threshold: float
) -> tuple[TrialRecord, Path]:
    """``record`` and its file at ``threshold``: loads and what follows from them anew, no scores.

    The file comes to lie where it would, had the threshold been swept; ``trial`` is the folder of the training.
    """
    setting = {**record.variant, THRESHOLD: threshold}
    identity = variant_id(record.trial_id, setting)
    path = variant_folder(trial, setting, identity) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with_threshold(model, partial, threshold)
    partial.replace(path)
    assert record.cost is not None
    cost = _loaded(record.cost, results, path, threshold)
    return record.model_copy(
        update={
            "variant": setting,
            "variant_id": identity,
            "cost": cost,
            "latency": {device: with_expectation(latency, cost) for device, latency in record.latency.items()},
            "scores": dict.fromkeys(record.scores),
            "teacher_beaten": None,
            "flags": [*record.flags, UNSCORED],
        }
    ), path


def _loaded(cost: Cost, results: Results, path: Path, threshold: float) -> Cost:
    """On the validation pairs, where they are at hand; else nobody knows the load."""
    unknown = dict.fromkeys(("load", "loads", "load_mix", "expected_macs_per_s"))
    cost = cost.model_copy(update={**unknown, "gate_threshold": threshold})
    shared = results.folder / "shared.json"
    facts = json.loads(shared.read_text()) if shared.exists() else {}
    if not facts or not (Path(facts["valid"]) / "noisy").is_dir():
        return cost
    return with_load(cost, path, Path(facts["valid"]), mix_name(facts["hashes"].get("valid")))
