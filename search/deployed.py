"""A trained student at one setting of its free knobs: written for its device, checked, scored and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from search.cost import cost_of, with_graph
from search.device import DeviceProfile, too_long
from search.device_lock import DeviceLock
from search.gate_load import mix_name, with_load
from search.gated_latency import nodes_shut, with_expectation
from search.graphs.graph import graph_facts
from search.measure import RANKING, SCREENING, Level, MeasurementFailed
from search.network_latency import measuring, network_key, network_latency
from search.ranking import enters_front
from search.record import Cost, Score, Seconds, TrialRecord
from search.scoring import Enhance, Tell, evaluate_student
from search.space import merged, nested
from search.trial import Job, Shared
from search.variants import variant_folder, variant_id
from sekd.config import parse
from sekd.deployment import DeployConfig
from sekd.distillation import DistillConfig
from sekd.errors import InputError
from sekd.export import Export, export_error
from sekd.models import Enhancer
from sekd.quantize import write_deployed
from sekd.streaming import OnnxEnhancer

TOLERANCE = 1e-4  # of a float export against torch, relative to the RMS of the output
DRIFT = 0.10  # between the latency before training and the ranking after it: beyond, the record says so


class Facts(NamedTuple):
    """What a trial knows of its student before training."""

    cost: Cost
    export: Export
    latency: dict[str, Any]
    seconds: float


class Trained(NamedTuple):
    """A student that is ready to be written, at whatever setting."""

    model: Enhancer
    audio: Callable[[DistillConfig], Iterable[np.ndarray]]  # noisy training signals, for a quantiser
    seconds: float


def config_at(job: Job, setting: Mapping[str, Any]) -> DistillConfig:
    """The trial's configuration at one setting of the free knobs."""
    return parse(DistillConfig, merged(job.document, nested(setting)), f"trial {job.number}")


def blank(job: Job, status: Any, setting: Mapping[str, Any] | None = None) -> TrialRecord:
    """The trial's record, or that of its variant at ``setting``, with nothing known yet."""
    identity = variant_id(job.trial_id, setting or {})
    return TrialRecord(
        trial_id=job.trial_id, variant_id=identity, number=job.number, status=status, params=job.params,
        variant=dict(setting or {}),
    )  # fmt: skip


def deployed(
    student: Trained, job: Job, setting: Mapping[str, Any], facts: Facts | None, lock: DeviceLock, tell: Tell
) -> TrialRecord:
    """The record of the trained student at ``setting``; ``facts`` where it was measured before training.

    Raises:
        InputError: the file differs from torch, is not finite, or could not be measured.
    """
    config, shared = config_at(job, setting), job.shared
    folder = variant_folder(job.folder, setting, variant_id(job.trial_id, setting))
    folder.mkdir(parents=True, exist_ok=True)
    tell("verify", 0.0)
    student.model.take_knobs(config.student)
    export, cost = _written(student, config, folder / "model.onnx", facts, lock)
    cost = with_load(cost, export.path, shared.valid, mix_name(shared.hashes.get("valid")), guard=lock.step)
    started = time.monotonic()
    tell("evaluate", 0.0)
    enhance = _torch(student.model) if config.deploy.dtype == "fp32" else OnnxEnhancer(export.path).enhance
    scores = evaluate_student(enhance, job, lock, tell, folder)
    evaluated = time.monotonic()
    tell("verify", 0.0)
    latency = {shared.device.name: with_expectation(_latency(export.path, shared, facts, lock), cost)}
    also, failed = _elsewhere(export.path, cost, shared, lock)
    record = blank(job, "COMPLETE", setting).model_copy(
        update={
            "cost": cost,
            "latency": latency | also,
            "scores": scores,
            "teacher_beaten": _beaten(scores[job.quality], shared.teacher_quality),
            "flags": [*latency[shared.device.name].get("flags", ()), *failed],
        }
    )
    record = _ranked(record, export.path, job, lock)
    measured = time.monotonic() - evaluated + (facts.seconds if facts else 0.0)
    spent = Seconds(train=student.seconds, evaluate=evaluated - started, measure=measured)
    return record.model_copy(update={"seconds": spent})


def _ranked(record: TrialRecord, path: Path, job: Job, lock: DeviceLock) -> TrialRecord:
    """``record`` with a latency of more frames, if it enters the front and its network has none yet."""
    shared, name = job.shared, job.shared.device.name
    if record.latency_kind(name) != "measured" or shared.front is None:
        return record
    if not enters_front(record, shared.front, job.objectives, job.limits, name):
        return record
    before = record.latency[name]
    try:
        with measuring(shared.device, lock) as held:
            ranked = network_latency(path, shared.device, shared.measured, level=RANKING, lock=held)
    except MeasurementFailed:  # the student is trained, and was measured: it stays, and says so
        return record.model_copy(update={"flags": [*record.flags, "unranked"]})
    ranked = with_expectation(ranked, record.cost)
    drifted = {"drift"} if abs(ranked["p50_ms"] / before["p50_ms"] - 1) > DRIFT else set()
    flags = {flag for flag in record.flags if flag not in before["flags"]} | {*ranked["flags"]} | drifted
    return record.model_copy(update={"latency": record.latency | {name: ranked}, "flags": sorted(flags)})


def _beaten(score: Score, teacher: float | None) -> bool | None:
    return None if teacher is None or score.mean is None else score.mean > teacher


def _written(
    student: Trained, config: DistillConfig, path: Path, facts: Facts | None, lock: DeviceLock
) -> tuple[Export, Cost]:
    """The file, and what it costs; one in float equals torch, one in integers is judged by its scores alone."""
    with lock.step():
        export = write_deployed(student.model, config.deploy, path, student.audio(config))
        # Gates drawn by lot say the same at every threshold: once, at the setting that was measured before training.
        by_lot = facts is not None
        error = export_error(student.model, path, by_lot=by_lot) if config.deploy.dtype == "fp32" else 0.0
        # Again of this file: training may tell weights apart that were equal before, and stored once.
        cost = as_exported(facts.cost if facts else cost_of(student.model), export, config.deploy)
    if error > TOLERANCE:
        raise InputError(f"{path}: differs from torch by {error:.2g} of its RMS, allowed {TOLERANCE:g}")
    return export, cost


def as_exported(cost: Cost, export: Export, deploy: DeployConfig) -> Cost:
    """``cost`` of a network with what its file says; quantised weights take what the file holds."""
    cost = with_graph(cost, graph_facts(export.path))
    if cost.gated:
        cost = cost.model_copy(update={"graph_nodes_shut": nodes_shut(export.path)})
    return cost if deploy.dtype == "fp32" else cost.model_copy(update={"weight_bytes": export.weight_bytes})


def _latency(path: Path, shared: Shared, facts: Facts | None, lock: DeviceLock) -> dict[str, Any]:
    """On the study's own device; what was had before training holds, unless training changed the graph.

    Raises:
        InputError: it could not be measured.
    """
    if not shared.latency_wanted:
        return {"kind": "unmeasured", "source": None}
    if facts is not None and facts.latency.get("network") in (None, network_key(path)):
        return facts.latency
    try:
        return latency_on(shared.device, path, shared, lock)
    except MeasurementFailed as failure:
        raise InputError(f"the trained student could not be measured: {failure}") from failure


def _elsewhere(path: Path, cost: Cost, shared: Shared, lock: DeviceLock) -> tuple[dict[str, Any], list[str]]:
    """Latencies on the study's other devices, and a flag for each that gave none: `reprofile` asks it again."""
    found: dict[str, Any] = {}
    failed = []
    for device in shared.others:
        if too_long(device, cost):
            failed.append(f"unmeasured:{device.name}")
            continue
        try:
            found[device.name] = with_expectation(latency_on(device, path, shared, lock), cost)
        except (MeasurementFailed, InputError):
            failed.append(f"unmeasured:{device.name}")
    return found, failed


def latency_on(device: DeviceProfile, path: Path, shared: Shared, lock: DeviceLock) -> dict[str, Any]:
    """The latency of the network in ``path`` on ``device``, under that device's own lock.

    Raises:
        MeasurementFailed: it could not be had.
    """
    with measuring(device, lock) as held:
        return network_latency(path, device, shared.measured, level=screening(shared), lock=held)


def screening(shared: Shared) -> Level:
    return SCREENING._replace(paced_frames=shared.frames)


def _torch(model: Enhancer) -> Enhance:
    @torch.no_grad()
    def enhance(noisy: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(noisy)[None])[0].numpy()

    return enhance
