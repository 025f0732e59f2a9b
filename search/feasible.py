"""What fits a device before anything is trained: a sample of the space, costed and measured."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from search.deployed import blank
from search.device import had_kind, load_device
from search.device_lock import DeviceLock, lock_folder
from search.gate_figures import gated
from search.labels import heading, shown
from search.objective import Infeasible, gate
from search.preflight import check_also_on, check_device, check_recordings, wants_latency
from search.record import EXPECTED, Kind, TrialRecord
from search.selection import nearest_misses
from search.study import StudyDefinition, read_study
from search.trial import Job, Shared
from sekd.config import content_hash, parse
from sekd.distillation import DistillConfig
from sekd.models import Diffusion, build
from sekd.path_learning import leader, walk_of
from sekd.pool import activations_bytes, rows_of
from sekd.train import Trainer

AXES = ("latency_ms", "paced_p95_ms", "rtf", "macs_per_s", "weight_kib", "state_kib", "parameters")
TIMED_STEPS = 3
FIXED_S = 8.0  # of a trial besides training and scoring: starting, exporting, measuring twice
OVRL_S = 0.4  # of one clip of the pool, where DNSMOS guides gates
VARIANT_S = 5.0  # of each further setting of the free keys: quantising, exporting, measuring
SCORE_S = 0.25  # of one validation pair, three metrics, one core


def check_study(path: Path, samples: int) -> dict[str, Any]:
    """Costs and measures distinct students drawn from the space of the study at ``path``.

    Raises:
        InputError: the definition, its recordings or its device cannot be used.
    """
    study = read_study(path)
    device = load_device(study.device)
    check_device(study, device)
    check_also_on(study)
    config = parse(DistillConfig, study.document({}), str(path))
    check_recordings(config)
    rng = random.Random(study.seed)
    drawn = [study.sample(rng) for _ in range(samples)]
    with tempfile.TemporaryDirectory() as scratch:
        records = _records(study, drawn, Path(scratch))
    kind, limits = had_kind(study.device), study.budget.limits()
    if gated(records):  # nobody knows yet how often gates are open
        limits = {key: limit for key, limit in limits.items() if key not in EXPECTED}
    step_s = _step_seconds(study, drawn[len(drawn) // 2])
    return {
        "study": study.name,
        "device": study.device,
        "latency_kind": device.kind,
        "samples": len(records),
        "share_fitting": sum(record.status == "COMPLETE" for record in records) / len(records),
        "axes": {axis: _span(records, axis, device.name, kind) for axis in AXES},
        "nearest": [r.document() for r in nearest_misses(records, limits, device.name, kind=kind)],
        "seconds_estimated": _seconds(study, config, step_s),
        "disk_mib_estimated": _disk_mib(study, config, records),
        "notices": _notices(study),
    }


def _notices(study: StudyDefinition) -> list[str]:
    """What is allowed and probably not meant, and what the figures do not say."""
    notices = []
    if "student.hop" in study.space and "latency_ms" in (*study.objectives.cost, *study.budget.limits()):
        notices.append("the space holds several hops, and milliseconds a frame do not compare across hops: use rtf")
    if had_kind(study.device) == "unmeasured":
        notices.append(f"{study.device} was never measured: its limits come from the sources in its profile")
    if (study.base.get("student") or {}).get("gate") is not None:
        notices.append("of students with gates the worst frame is told, all open; what to expect is known once trained")
    return notices


def _records(study: StudyDefinition, drawn: list[dict[str, Any]], scratch: Path) -> list[TrialRecord]:
    """A record for each drawn setting; equal networks are built and measured once."""
    device = load_device(study.device)
    shared = Shared(
        device=device, latency_wanted=wants_latency(study), pool=None, valid=scratch, teacher=None, outputs=None,
        hashes={}, cache=scratch, measured=scratch / "measured", lock=lock_folder(),
        unprocessed=scratch, teacher_quality=None, threads=1, torch_device="cpu", frames=study.run.measure_frames,
    )  # fmt: skip
    lock = DeviceLock(shared.lock)
    known: dict[str, TrialRecord] = {}
    records = []
    for number, params in enumerate(drawn):
        document = study.document(params)
        config = parse(DistillConfig, document, f"sample {number}")
        network = content_hash(config.student.model_dump(mode="json"))
        if network not in known:
            folder = scratch / str(number)
            folder.mkdir()
            job = Job(
                number=number, trial_id=network, params=params, document=document, folder=folder, shared=shared,
                limits=study.budget.limits(), metrics=(), quality=study.objectives.quality,
                sweep=tuple(study.sweep),
            )  # fmt: skip
            known[network] = _record(job, lock)
        records.append(known[network].model_copy(update={"number": number, "params": params}))
    lock.close()
    return records


def _record(job: Job, lock: DeviceLock) -> TrialRecord:
    """The student at the first setting of the free keys that fits, or at the cheapest."""
    try:
        setting, facts = gate(job, lock)
    except Infeasible as nowhere:
        return nowhere.record
    known = {"cost": facts.cost, "latency": {job.shared.device.name: facts.latency}}
    return blank(job, "COMPLETE", setting).model_copy(update=known)


def _span(records: list[TrialRecord], axis: str, device: str, kind: Kind) -> dict[str, float] | None:
    values = [value for record in records if (value := record.value(axis, device, kind=kind)) is not None]
    if not values:
        return None
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _step_seconds(study: StudyDefinition, params: Mapping[str, Any]) -> float:
    """Time of one training step of a student from the middle of the sample, on noise that is thrown away."""
    import torch

    from sekd.losses.gating import Ovrl
    from sekd.train import Batch

    config = parse(DistillConfig, study.document(params), study.name)
    torch.set_num_threads(study.run.threads)
    noise = torch.randn(3, config.train.batch, config.data.train.samples) * 0.1
    model = build(config.student)
    with torch.no_grad(), model.recorded() as recorded:  # stands for the teacher's activations
        model(noise[0])
    noisy, clean, teacher = noise
    ovrl = Ovrl(torch.linspace(1, 4, config.train.batch), 1.0, 4.0)
    batch = Batch(noisy, clean, teacher, lambda device: recorded, ovrl)
    walk = walk_of(model, config.distill, _leader(config))
    trainer = Trainer(model, config.phases(TIMED_STEPS + 1), config.training, config.distill.loss, walk)
    trainer.run(lambda step: batch, until=1)
    started = time.perf_counter()
    trainer.run(lambda step: batch)
    return (time.perf_counter() - started) / TIMED_STEPS


def _leader(config: DistillConfig) -> Diffusion | None:
    """What leads a consistency student, trained or not: steps take as long."""
    network = None if config.teacher is None else config.teacher.network
    if config.distill.schedule.kind == "consistency" and network is not None:
        model = build(network)
        assert isinstance(model, Diffusion)
        return model
    return leader(config.teacher.source if config.teacher else None, config.student, config.distill)


def _seconds(study: StudyDefinition, config: DistillConfig, step_s: float) -> float:
    students = max(1, len(study.sweep))
    trial = FIXED_S + step_s * config.train.steps + VARIANT_S * (students - 1)
    trial += SCORE_S * config.data.valid.count * students
    teacher = 0.0
    if config.teacher is not None and config.teacher.network is not None:
        teacher = 2 * step_s * config.teacher.train.steps
    judged = OVRL_S * rows_of(config.data.train) if study.reads_ovrl else 0.0
    return round(study.trials * trial / study.run.workers + teacher + judged)


def _disk_mib(study: StudyDefinition, config: DistillConfig, records: list[TrialRecord]) -> float:
    """Pool with teacher outputs and perhaps activations, the weights of each trained student and its ONNX files."""
    signals = 3 if config.distill.reads_outputs else 2
    pool = signals * config.data.train.pool_minutes * 60 * 16000 * 2
    teacher, train = config.teacher, config.data.train
    if study.reads_features and teacher is not None and teacher.network is not None and teacher.features == "cached":
        pool += activations_bytes(build(teacher.network), rows_of(train), train.samples)
    weights = [record.cost.weight_bytes for record in records if record.cost is not None]
    files = 1 + max(1, len(study.sweep))
    return round((pool + study.trials * files * statistics.mean(weights)) / 2**20)


def print_check(document: Mapping[str, Any], console: Console) -> None:
    """The document for people."""
    table = Table(title=f"{document['samples']} students of {document['study']} on {document['device']}")
    for name in ("axis", "least", "median", "most"):
        table.add_column(name, justify="right" if name != "axis" else "left")
    for axis, span in document["axes"].items():
        if span is not None:
            table.add_row(
                heading(axis, document["latency_kind"]), *(shown(axis, span[key]) for key in ("min", "median", "max"))
            )
    console.print(table)
    print(f"{document['share_fitting']:.0%} fit the budget")
    for notice in document["notices"]:
        print(f"notice: {notice}")
    print(
        f"estimated: {document['seconds_estimated'] / 60:.0f} minutes for the search, "
        f"{document['disk_mib_estimated']:.0f} MiB of disk"
    )
