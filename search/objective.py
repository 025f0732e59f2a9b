"""The life of a trial: cost, measure, gate, distil, evaluate, verify. Runs in a worker, writes ``result.json``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from search.cost import cost_of
from search.deployed import Facts, Trained, as_exported, blank, config_at, deployed, latency_on
from search.device import check_fits
from search.device_lock import DeviceLock, keep_off
from search.latency import DeviceAway
from search.measure import MeasurementFailed
from search.record import AWAY, Cost, Seconds, TrialRecord, Violation
from search.scoring import Tell
from search.selection import fits, foreseeable
from search.space import THRESHOLD
from search.trial import Job
from search.variants import cheapest
from sekd.cache import locked, write_json
from sekd.distillation import DistillConfig, distill, training_audio
from sekd.errors import InputError
from sekd.export import Export
from sekd.models import Enhancer, build
from sekd.models.base import SAMPLE_RATE
from sekd.preparation import Hashes, Prepared
from sekd.quantize import write_deployed
from sekd.train import NotFinite, Progress, Run

COST_LIMITS = ("macs_per_s", "weight_kib", "state_kib", "expected_macs_per_s")  # known before anything is run


class Gated(NamedTuple):
    """The first setting of the free knobs at which a student fits, and what is known of it there."""

    setting: dict[str, Any]
    facts: Facts


class Rejected(Exception):
    """The student does not fit its device at one setting."""

    def __init__(
        self, reason: str, violations: list[Violation], cost: Cost, latency: dict[str, Any] | None, *flags: str
    ) -> None:
        super().__init__(reason)
        self.reason, self.violations, self.cost, self.latency, self.flags = reason, violations, cost, latency, flags


class Infeasible(Exception):
    """The student fits its device at no setting; nothing is trained."""

    def __init__(self, record: TrialRecord) -> None:
        super().__init__(record.reason)
        self.record = record


def run_trial(job: Job, tell: Tell) -> TrialRecord:
    """The record of ``job``, made now or read from an earlier life of the same trial."""
    done = job.folder / "result.json"
    if done.exists():
        return TrialRecord.model_validate_json(done.read_text())
    torch.set_num_threads(job.shared.threads)
    keep_off(job.shared.device)
    lock = DeviceLock(job.shared.lock)
    job.folder.mkdir(parents=True, exist_ok=True)
    with locked(job.folder / "lock"):
        try:
            record = _live(job, lock, tell)
        except Infeasible as nowhere:
            record = nowhere.record
        except (NotFinite, InputError) as error:
            record = blank(job, "FAILED").model_copy(update={"reason": str(error)})
        finally:
            lock.close()
        write_json(done, record.model_dump(mode="json"))
    return record


def _live(job: Job, lock: DeviceLock, tell: Tell) -> TrialRecord:
    tell("measure", 0.0)
    gated = gate(job, lock)
    student = _trained(job, lock, tell)
    (job.folder / "untrained.onnx").unlink(missing_ok=True)
    if not job.sweep:
        return deployed(student, job, {}, gated.facts, lock, tell)
    return _of_variants(job, [_variant(student, job, setting, gated, lock, tell) for setting in job.sweep])


def _trained(job: Job, lock: DeviceLock, tell: Tell) -> Trained:
    shared, config = job.shared, config_at(job, {})
    hashes = Hashes(**shared.hashes)  # type: ignore[arg-type]
    paths = (shared.pool, shared.valid, shared.teacher, shared.outputs, hashes, shared.activations, shared.ovrl)
    prepared = Prepared(*paths)

    def progress(now: Progress) -> None:
        tell("train", now.step / now.steps)

    run = Run(
        torch_device=shared.torch_device,
        checkpoint_every_s=shared.checkpoint_s,
        on_progress=progress,
        step_guard=lock.step,
    )
    student = distill(config, prepared=prepared, cache=shared.cache, folder=job.folder, run=run)
    write_json(job.folder / "environment.json", {"hashes": shared.hashes, "environment": student.environment})
    return Trained(student.model, lambda at: training_audio(at, prepared, shared.cache), student.train_seconds)


def _variant(
    student: Trained, job: Job, setting: dict[str, Any], gated: Gated, lock: DeviceLock, tell: Tell
) -> TrialRecord:
    """The student at ``setting``; one that fails there is on record with its reason and costs the others nothing."""
    facts = None
    if _without_threshold(setting) == _without_threshold(gated.setting):
        facts = gated.facts if setting == gated.setting else gated.facts._replace(seconds=0.0)
    try:
        return deployed(student, job, setting, facts, lock, tell)
    except OSError:  # a full disk, a lost file: the machine's fault, not the setting's
        raise
    except Exception as error:  # quantisers have errors of their own
        return blank(job, "FAILED", setting).model_copy(update={"reason": _in_a_line(error)})


def _in_a_line(error: Exception) -> str:
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0]


def _of_variants(job: Job, variants: list[TrialRecord]) -> TrialRecord:
    """The trial's record: what its variants took together, and their figures in them alone."""
    trained = [variant for variant in variants if variant.trained]
    reasons = "; ".join(dict.fromkeys(variant.reason for variant in variants if variant.reason))
    seconds = Seconds(
        train=max((variant.seconds.train or 0.0 for variant in trained), default=None),
        evaluate=sum(variant.seconds.evaluate or 0.0 for variant in trained),
        measure=sum(variant.seconds.measure or 0.0 for variant in trained),
    )
    return blank(job, "COMPLETE" if trained else "FAILED").model_copy(
        update={"variants": variants, "seconds": seconds, "reason": None if trained else reasons}
    )


def gate(job: Job, lock: DeviceLock) -> Gated:
    """The first setting at which the student fits, in float before anything that must be quantised.

    Raises:
        Infeasible: there is none; its record holds what each setting exceeds, and stands at the cheapest.
    """
    tried = []
    known: dict[str, Rejected] = {}  # a threshold changes nothing of the worst frame
    for setting in sorted(job.sweep or [{}], key=lambda one: config_at(job, one).deploy.dtype != "fp32"):
        worst = repr(_without_threshold(setting))
        if worst not in known:
            try:
                return Gated(setting, before_training(job, config_at(job, setting), lock))
            except Rejected as rejected:
                known[worst] = rejected
        tried.append(_infeasible(job, setting, known[worst]))
    raise Infeasible(cheapest(tried).model_copy(update={"variants": tried if job.sweep else []}))


def _without_threshold(setting: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in setting.items() if key != THRESHOLD}


def _infeasible(job: Job, setting: Mapping[str, Any], rejected: Rejected) -> TrialRecord:
    return blank(job, "INFEASIBLE", setting).model_copy(
        update={
            "reason": rejected.reason,
            "violations": rejected.violations,
            "cost": rejected.cost,
            "flags": list(rejected.flags),
            "latency": {job.shared.device.name: rejected.latency} if rejected.latency else {},
        }
    )


def before_training(job: Job, config: DistillConfig, lock: DeviceLock) -> Facts:
    """Cost, then an untrained export, then its latency on the device; each can reject.

    Raises:
        Rejected: a limit of the budget or of the device is not kept, or the device gave no latency.
    """
    with lock.step():  # no work of ours beside another trial's measurement, not even this
        torch.manual_seed(config.seed)
        model = _as_if_trained(build(config.student)).eval()
        cost = cost_of(model)
    device = job.shared.device
    early = blank(job, "INFEASIBLE").model_copy(update={"cost": cost})
    # What quantised weights take is known of the file alone.
    certain = COST_LIMITS if config.deploy.dtype == "fp32" else tuple(k for k in COST_LIMITS if k != "weight_kib")
    limits = foreseeable(job.limits, cost)
    known = {key: value for key, value in limits.items() if key in certain}
    _reject(fits(early, known, device.name), "over budget", cost, None)
    with lock.step():
        export = _untrained(model, config, job.folder / "untrained.onnx", cost)
    cost = as_exported(cost, export, config.deploy)
    early = early.model_copy(update={"cost": cost})
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
        late = {key: value for key, value in limits.items() if key in COST_LIMITS}
        _reject(fits(early, late, device.name), "over budget", cost, None)  # quantised weights, known by now
        latency = _latency_of(job, export, cost, lock)
    seconds = time.monotonic() - started
    seen = early.model_copy(update={"latency": {device.name: latency}})
    _reject(fits(seen, limits, device.name, kind=device.kind), "over budget", cost, latency)
    return Facts(cost, export, latency, seconds)


@torch.no_grad()
def _as_if_trained(model: Enhancer) -> Enhancer:
    """All weights different: the exporter stores equal ones once, and training would change the graph."""
    for weight in model.state_dict().values():
        if weight.is_floating_point():
            weight.add_(1e-3 * torch.rand_like(weight))
    return model


def _untrained(model: Enhancer, config: DistillConfig, path: Path, cost: Cost) -> Export:
    """The file that is timed; its ranges come from noise, which no kernel can tell from speech.

    Raises:
        Rejected: the network cannot be quantised so.
    """
    try:
        return write_deployed(model, config.deploy, path, _noise())
    except OSError:
        raise
    except Exception as error:
        if config.deploy.dtype == "fp32":
            raise
        raise Rejected(f"{config.deploy.dtype}: {_in_a_line(error)}", [], cost, None) from error


def _noise() -> Iterable[np.ndarray]:
    yield np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)


def _reject(violations: list[Violation], what: str, cost: Cost, latency: dict[str, Any] | None) -> None:
    if violations:
        told = ", ".join(
            f"{v.key} {'unknown' if v.value is None else f'{v.value:.4g}'} > {v.limit:.4g}" for v in violations
        )
        raise Rejected(f"{what}: {told}", violations, cost, latency)


def _latency_of(job: Job, export: Export, cost: Cost, lock: DeviceLock) -> dict[str, Any]:
    try:
        return latency_on(job.shared.device, export.path, job.shared, lock)
    except MeasurementFailed as error:
        away = [AWAY] if isinstance(error, DeviceAway) else []
        raise Rejected(f"not {job.shared.device.kind}: {error}", [], cost, None, *away) from error
