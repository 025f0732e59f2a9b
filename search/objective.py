"""The life of a trial: cost, measure, gate, distil, evaluate, verify. Runs in a worker, writes ``result.json``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from search.cost import cost_of, with_graph
from search.device import check_fits
from search.device_lock import DeviceLock
from search.measure import SCREENING, Level, MeasurementFailed, measure
from search.network_latency import network_latency
from search.onnx_graph import graph_facts
from search.record import Cost, Score, Seconds, TrialRecord, Violation
from search.selection import fits
from search.trial import Job, Shared
from sekd.audio import read_audio
from sekd.cache import locked, write_json
from sekd.config import parse
from sekd.distillation import DistillConfig, distill
from sekd.errors import InputError
from sekd.export import Export, export_error, export_onnx
from sekd.metrics import Triple, score_pairs, summarise
from sekd.models import Enhancer, build
from sekd.preparation import Hashes, Prepared
from sekd.train import NotFinite, Progress, Run

TOLERANCE = 1e-4  # of the export against torch, relative to the RMS of the output
DRIFT = 0.10  # between the untrained and the trained file's latency: beyond, the record says so
COST_LIMITS = ("macs_per_s", "weight_kib", "state_kib")  # known before anything is run

Tell = Callable[[str, float], None]  # stage and share of it done


class Facts(NamedTuple):
    """What a trial knows of its student before training."""

    cost: Cost
    export: Export
    latency: dict[str, Any]
    seconds: float


class Rejected(Exception):
    """The student does not fit its device; nothing is trained."""

    def __init__(self, reason: str, violations: list[Violation], cost: Cost, latency: dict[str, Any] | None):
        super().__init__(reason)
        self.reason, self.violations, self.cost, self.latency = reason, violations, cost, latency


def run_trial(job: Job, tell: Tell) -> TrialRecord:
    """The record of ``job``, made now or read from an earlier life of the same trial."""
    done = job.folder / "result.json"
    if done.exists():
        return TrialRecord.model_validate_json(done.read_text())
    torch.set_num_threads(job.shared.threads)
    lock = DeviceLock(job.shared.lock)
    job.folder.mkdir(parents=True, exist_ok=True)
    with locked(job.folder / "lock"):
        try:
            record = _live(job, lock, tell)
        except Rejected as rejected:
            record = _blank(job, "INFEASIBLE").model_copy(
                update={
                    "reason": rejected.reason,
                    "violations": rejected.violations,
                    "cost": rejected.cost,
                    "latency": {job.shared.device.name: rejected.latency} if rejected.latency else {},
                }
            )
        except (NotFinite, InputError) as error:
            record = _blank(job, "FAILED").model_copy(update={"reason": str(error)})
        finally:
            lock.close()
        write_json(done, record.model_dump(mode="json"))
    return record


def _blank(job: Job, status: Any) -> TrialRecord:
    return TrialRecord(
        trial_id=job.trial_id, variant_id=job.trial_id, number=job.number, status=status, params=job.params
    )


def _live(job: Job, lock: DeviceLock, tell: Tell) -> TrialRecord:
    config = parse(DistillConfig, job.document, f"trial {job.number}")
    tell("measure", 0.0)
    facts = before_training(job, config, lock)
    shared = job.shared
    hashes = Hashes(**shared.hashes)  # type: ignore[arg-type]
    prepared = Prepared(shared.pool, shared.valid, shared.teacher, shared.outputs, hashes, shared.activations)

    def progress(now: Progress) -> None:
        tell("train", now.step / now.steps)

    run = Run(torch_device=shared.torch_device, on_progress=progress, step_guard=lock.step)
    student = distill(config, prepared=prepared, cache=shared.cache, folder=job.folder, run=run)
    write_json(job.folder / "environment.json", {"hashes": shared.hashes, "environment": student.environment})
    tell("evaluate", 0.0)
    started = time.monotonic()
    scores = evaluate_student(student.model, job, lock, tell)
    evaluated = time.monotonic() - started
    tell("verify", 0.0)
    latency, measuring = _verify(student.model, job, facts, lock)
    quality = scores[job.quality]
    beaten = None
    if shared.teacher_quality is not None and quality.mean is not None:
        beaten = quality.mean > shared.teacher_quality
    return _blank(job, "COMPLETE").model_copy(
        update={
            "cost": facts.cost,
            "latency": {shared.device.name: latency},
            "scores": scores,
            "seconds": Seconds(train=student.train_seconds, evaluate=evaluated, measure=facts.seconds + measuring),
            "teacher_beaten": beaten,
            "flags": list(latency.get("flags", ())),
        }
    )


def before_training(job: Job, config: DistillConfig, lock: DeviceLock) -> Facts:
    """Cost, then an untrained export, then its latency on the device; each can reject.

    Raises:
        Rejected: a limit of the budget or of the device is not kept, or the device gave no latency.
    """
    with lock.step():  # no work of ours beside another trial's measurement, not even this
        torch.manual_seed(config.seed)
        model = build(config.student).eval()
        cost = cost_of(model)
    device = job.shared.device
    early = _blank(job, "INFEASIBLE").model_copy(update={"cost": cost})
    known = {key: value for key, value in job.limits.items() if key in COST_LIMITS}
    _reject(fits(early, known, device.name), "over budget", cost, None)
    with lock.step():
        export = export_onnx(model, job.folder / "untrained.onnx")
        cost = with_graph(cost, graph_facts(export.path))
    broken = check_fits(
        device,
        cost,
        operators=export.operators,
        weight_bytes=export.weight_bytes,
        activation_bytes=cost.activation_bytes or 0,
    )
    if broken:
        violations = [Violation(key=b.key, value=b.value, limit=b.limit) for b in broken]
        raise Rejected("; ".join(b.reason for b in broken), violations, cost, None)
    started = time.monotonic()
    latency: dict[str, Any] = {"kind": "unmeasured", "source": None}
    if job.shared.latency_wanted:
        latency = _latency_of(job, export, cost, lock)
    seconds = time.monotonic() - started
    seen = early.model_copy(update={"cost": cost, "latency": {device.name: latency}})
    _reject(fits(seen, job.limits, device.name, kind=device.kind), "over budget", cost, latency)
    return Facts(cost, export, latency, seconds)


def _reject(violations: list[Violation], what: str, cost: Cost, latency: dict[str, Any] | None) -> None:
    if violations:
        told = ", ".join(
            f"{v.key} {'unknown' if v.value is None else f'{v.value:.4g}'} > {v.limit:.4g}" for v in violations
        )
        raise Rejected(f"{what}: {told}", violations, cost, latency)


def _latency_of(job: Job, export: Export, cost: Cost, lock: DeviceLock) -> dict[str, Any]:
    shared = job.shared
    try:
        return network_latency(export.path, shared.device, shared.measured, level=_screening(shared), lock=lock)
    except MeasurementFailed as error:
        raise Rejected(f"not {shared.device.kind}: {error}", [], cost, None) from error


def _screening(shared: Shared) -> Level:
    return SCREENING._replace(paced_frames=shared.frames)


def validation_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, noisy file and clean file of each frozen validation pair."""
    return [(clean.stem, folder / "noisy" / clean.name, clean) for clean in sorted((folder / "clean").iterdir())]


@torch.no_grad()
def evaluate_student(model: Enhancer, job: Job, lock: DeviceLock, tell: Tell) -> dict[str, Score]:
    """Mean scores on the validation pairs; per-file scores go beside the trial's other files."""
    pairs = validation_pairs(job.shared.valid)
    known = json.loads(job.shared.unprocessed.read_text())

    def triples():
        for name, noisy, clean in pairs:
            with lock.step():
                estimate = model(torch.from_numpy(read_audio(noisy))[None])[0].numpy()
                triple: Triple = (name, None, estimate, read_audio(clean))
            yield triple

    scored = score_pairs(
        triples(),
        job.metrics,
        guard=lock.step,
        unprocessed=known,
        progress=lambda done: tell("evaluate", done / len(pairs)),
    )
    write_json(job.folder / "scores.json", [pair.model_dump(mode="json") for pair in scored.pairs])
    return {name: Score(**score.model_dump()) for name, score in summarise(scored).items()}


def _verify(model: Enhancer, job: Job, facts: Facts, lock: DeviceLock) -> tuple[dict[str, Any], float]:
    """The trained export equals torch, and is as fast as the network was untrained.

    Raises:
        InputError: the export differs from torch.
    """
    with lock.step():
        export = export_onnx(model, job.folder / "model.onnx")
        error = export_error(model, export.path)
    if error > TOLERANCE:
        raise InputError(f"{export.path}: differs from torch by {error:.2g} of its RMS, allowed {TOLERANCE:g}")
    (job.folder / "untrained.onnx").unlink(missing_ok=True)
    # A prediction knows the graph alone, and training does not change that.
    if not job.shared.latency_wanted or job.shared.device.kind == "predicted":
        return facts.latency, 0.0
    started = time.monotonic()
    try:
        again = measure(export.path, job.shared.device, level=_screening(job.shared), lock=lock)
    except MeasurementFailed as failure:
        raise InputError(f"the trained student could not be measured: {failure}") from failure
    # Equal networks must not be told apart by noise: the network's own measurement stands, this one checks it.
    before, after = facts.latency["p50_ms"], again.p50_ms
    assert after is not None
    drifted = {"drift"} if abs(after / before - 1) > DRIFT else set()
    flags = sorted({*facts.latency["flags"], *drifted})
    return facts.latency | {"flags": flags, "trained_p50_ms": after}, time.monotonic() - started
