"""From a front to one student in the hand: chosen, trained on if wished, packaged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from search.certificate import Certificate, certify
from search.device import DeviceProfile, load_device
from search.device_lock import DeviceLock, lock_folder
from search.measure import MeasurementFailed
from search.network_latency import measuring
from search.objective import run_trial
from search.package import examples, require_room, write_package
from search.record import COSTS, EXPECTED, LATENCIES, TrialRecord
from search.report import AudioExample
from search.results import Results, open_results
from search.rethreshold import rethresholded, tried_at
from search.selection import best, fits, nearest_misses
from search.space import merged, nested
from search.trial import Job, Shared
from search.variants import model_file
from sekd.cache import write_json
from sekd.config import content_hash
from sekd.errors import InputError


class Selection(NamedTuple):
    """The student chosen and its package; where none fits, the ones that came nearest."""

    selected: TrialRecord | None
    nearest: list[TrialRecord]
    package: Path | None
    certificate: Certificate | None = None


def select(
    study: str,
    *,
    device: str | None = None,
    maximize: str | None = None,
    train_steps: int | None = None,
    out: str | Path | None = None,
    force: bool = False,
    certificate: bool = True,
    storage: str | None = None,
    gate_threshold: float | None = None,
    **limits: float,
) -> Selection:
    """The best student of a study within its budget and ``limits`` (``latency_ms=2.0, min_pesq_wb=2.5``), packaged.

    Its file is measured for a ``certificate`` first (a minute); one that does not keep the limits then is passed over.
    With ``gate_threshold`` it is one with gates, at that threshold: as it was tried at, or edited and not scored.

    Raises:
        InputError: there is no such run, device, metric or limit, or the package cannot be written.
    """
    results = open_results(study, storage=storage, device=device)
    place = None if out is None else Path(out).resolve()
    return choose(
        results, limits, maximize, out=place, force=force, train_steps=train_steps, certificate=certificate,
        gate_threshold=gate_threshold,
    )  # fmt: skip


class Candidate(NamedTuple):
    """A student that fits by what is on record, its files, and the name of its package."""

    record: TrialRecord
    source: Path
    model: Path
    name: str
    scored: TrialRecord | None = None  # as it was scored, where the file's threshold is another by now


def choose(
    results: Results,
    over: Mapping[str, float],
    maximize: str | None = None,
    *,
    out: Path | None = None,
    force: bool = False,
    train_steps: int | None = None,
    certificate: bool = True,
    gate_threshold: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Selection:
    """`select` for results that are open already; where nothing fits, nothing is written.

    Raises:
        InputError: the trial's files are gone, the certificate could not be measured, or ``out`` cannot be written.
    """
    if out is not None:
        require_room(out, force)  # before a minute is spent
    limits = results.limits | dict(over)
    metric = maximize or results.study.objectives.quality
    profile = _certifier(results) if certificate else None
    left, refused = results.records, []
    edited, on_record = None, limits
    if gate_threshold is not None:
        left, tried = tried_at(left, gate_threshold, limits)
        if not tried:  # what is expected of it is on record at another threshold
            edited, on_record = gate_threshold, {k: v for k, v in limits.items() if k not in EXPECTED}
    while (record := best(left, on_record, metric, results.device, kind=results.kind)) is not None:
        found = _candidate(results, record, on_record, train_steps)
        if edited is not None:
            found = _edited(results, found, edited)
            if broken := fits(found.record, limits, results.device, kind=results.kind):
                say(f"student {found.record.number} at gate threshold {edited:g}: over {broken[0].key}")
                refused.append(found.record)
                left = [other for other in left if other.number != record.number]
                continue
        promise = None if profile is None else _certificate(found, profile, limits, say)
        if promise is None or not promise.broken:
            package = _package(results, found, limits, promise, out, force)
            return Selection(found.record, [], package, promise)
        reason = f"student {found.record.number}: {'; '.join(promise.broken)}"
        if train_steps is not None:
            raise InputError(reason)
        say(f"{reason}; the next best is tried")
        refused.append(record)
        left = [other for other in left if not _as_slow(other, record, results.device, promise)]
        if edited is not None:  # at one threshold the settings of one training are one student
            left = [other for other in left if other.number != record.number]
    misses = nearest_misses(results.records, limits, results.device, kind=results.kind)
    return Selection(None, [*refused, *misses][: max(len(misses), 3)], None)


def _candidate(
    results: Results, record: TrialRecord, limits: Mapping[str, float], train_steps: int | None
) -> Candidate:
    source, model = results.folder / "trials" / str(record.number), model_file(results.folder, record)
    if not model.exists():
        raise InputError(f"{model.parent}: the trained student's files are gone")
    name = _name(results, record)
    if train_steps is None:
        return Candidate(record, source, model, name)
    source, record = train_on(results, record, source, train_steps, limits)
    broken = fits(record, limits, results.device, kind=results.kind)
    if broken:
        raise InputError(f"trained for {train_steps} steps it no longer fits: {broken[0].key}")
    return Candidate(record, source, source / "model.onnx", f"{name}-{train_steps}-steps")


def _edited(results: Results, found: Candidate, threshold: float) -> Candidate:
    record, model = rethresholded(results, found.record, found.source, found.model, threshold)
    name = found.name.replace(_name(results, found.record), _name(results, record))
    return Candidate(record, found.source, model, name, found.record)


def _name(results: Results, record: TrialRecord) -> str:
    return "-".join([str(record.number), *_words(record.variant), results.device])


def _certifier(results: Results) -> DeviceProfile | None:
    """The device, where latencies are measured there; what was predicted or never measured promises nothing."""
    if results.kind != "measured":
        return None
    own = results.device == results.study.device_name
    return load_device(results.study.device) if own else results.profile


def _certificate(
    found: Candidate, device: DeviceProfile, limits: Mapping[str, float], say: Callable[[str], None]
) -> Certificate:
    say(f"measuring student {found.record.number} for its certificate, about a minute")
    try:
        with closing(DeviceLock(lock_folder())) as local, measuring(device, local) as lock:
            return certify(found.model, found.record, device, limits, lock=lock)
    except MeasurementFailed as error:
        raise InputError(
            f"no certificate: {error}; select --no-certificate hands the student over without one"
        ) from error


def _package(
    results: Results,
    found: Candidate,
    limits: Mapping[str, float],
    promise: Certificate | None,
    out: Path | None,
    force: bool,
) -> Path:
    if out is None:
        # Our own folder of our own making: selecting again replaces it.
        out, force = results.folder / "packages" / found.name, True
    return write_package(
        results, found.record, found.source, found.model, out, limits=limits, certificate=promise, force=force,
        scored=found.scored,
    )  # fmt: skip


def _as_slow(one: TrialRecord, other: TrialRecord, device: str, promise: Certificate) -> bool:
    """Whether what was found of ``other`` holds for ``one``: its network is the same, and gates make no difference."""
    by_load_alone = all(each.kept or each.key in EXPECTED for each in promise.promises) and bool(promise.promises)
    if by_load_alone:
        return one is other
    network = other.latency.get(device, {}).get("network")
    return one is other or (network is not None and one.latency.get(device, {}).get("network") == network)


def _words(setting: Mapping[str, object]) -> list[str]:
    """A setting as parts of a folder's name."""
    return [re.sub(r"[^\w.]+", "_", str(value)).strip("_") or "none" for value in setting.values()]


def train_on(
    results: Results, record: TrialRecord, source: Path, steps: int, limits: Mapping[str, float]
) -> tuple[Path, TrialRecord]:
    """The same student trained for ``steps`` steps, scored, verified and measured like any trial, at its setting."""
    document = merged(json.loads((source / "config.json").read_text()), nested(record.variant))
    document["train"] = {**document.get("train", {}), "steps": steps}
    shared = Shared.model_validate_json((results.folder / "shared.json").read_text())
    if results.profile is not None and results.profile.name not in {device.name for device in shared.others}:
        shared = shared.model_copy(update={"others": (*shared.others, results.profile)})  # it is chosen for this one
    trial_id = content_hash([record.variant_id, steps], 16)
    folder = results.folder / "retrained" / trial_id
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", document)
    job = Job(
        number=record.number,
        trial_id=trial_id,
        params={**record.params, "train.steps": steps},
        document=document,
        folder=folder,
        shared=shared,
        limits=_gating(results, limits),
        metrics=tuple(record.scores),
        quality=results.study.objectives.quality,
    )
    trained = run_trial(job, lambda stage, share: None)
    if trained.status != "COMPLETE":
        raise InputError(f"training for {steps} steps: {trained.status.lower()}: {trained.reason}")
    return folder, trained.model_copy(update={"variant": record.variant})


def _gating(results: Results, limits: Mapping[str, float]) -> dict[str, float]:
    """Of the limits that a student was chosen within, those that the study's own device can tell before training."""
    own = results.device == results.study.device_name
    return {k: v for k, v in limits.items() if k in COSTS or (own and k in LATENCIES)}


def audio_examples(results: Results, record: TrialRecord) -> list[AudioExample]:
    """Before and after through the student's own ONNX file."""
    import io

    import soundfile

    from sekd.audio import SAMPLE_RATE, read_audio
    from sekd.streaming import OnnxEnhancer

    model = model_file(results.folder, record)
    if not model.exists():
        return []
    enhancer = OnnxEnhancer(model)

    def flac(samples: object) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC")
        return buffer.getvalue()

    return [
        AudioExample(name, flac(read_audio(noisy)), flac(enhancer.enhance(read_audio(noisy))), flac(read_audio(clean)))
        for name, noisy, clean in examples(results)
    ]
