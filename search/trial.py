"""One trial as it travels to a worker: what to train, where to keep it, and what it must stay within."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import field_serializer

from search.device import DeviceProfile
from search.run_config import Resources
from search.study import StudyDefinition
from sekd.config import Frozen
from sekd.teacher_source import TeacherSource


class Job(Frozen):
    """Everything a worker needs, as JSON; workers never touch the study's storage."""

    number: int
    trial_id: str
    params: dict[str, Any]
    document: dict[str, Any]  # the distillation's configuration
    folder: Path
    shared: Shared
    limits: dict[str, float]
    metrics: tuple[str, ...]
    quality: str
    objectives: tuple[str, ...] = ()  # of the front that it may enter
    sweep: tuple[dict[str, Any], ...] = ()  # settings of the free keys, each a variant; none without free keys
    resources: Resources = Resources()


class Shared(Frozen):
    """What all jobs of a run have in common."""

    device: DeviceProfile
    others: tuple[DeviceProfile, ...] = ()  # measured besides, once a student is trained
    latency_wanted: bool  # an objective or a limit needs it
    pool: Path | None
    valid: Path
    teacher: TeacherSource | None
    outputs: Path | None
    activations: Path | None = None
    ovrl: Path | None = None
    hashes: dict[str, str | None]
    cache: Path
    front: Path | None = None  # figures of the front so far; none where nothing is to enter it
    measured: Path  # latencies by network, so that equal networks are measured once
    lock: Path
    unprocessed: Path  # scores of the noisy validation signals
    teacher_quality: float | None
    threads: int
    torch_device: str
    frames: int
    checkpoint_s: float = 10.0

    @field_serializer("device", "others")
    def _as_written(self, profiles: DeviceProfile | tuple[DeviceProfile, ...]) -> Any:
        """Without defaults: a number that nobody gave has no source, and could not be read again."""
        if isinstance(profiles, DeviceProfile):
            return profiles.model_dump(mode="json", exclude_unset=True)
        return [profile.model_dump(mode="json", exclude_unset=True) for profile in profiles]


Job.model_rebuild()


def metrics_of(study: StudyDefinition) -> tuple[str, ...]:
    """The study's own metric and the three that every record carries."""
    return tuple(dict.fromkeys([study.objectives.quality, "pesq_wb", "estoi", "si_sdr_db"]))


def make_job(
    study: StudyDefinition, number: int, trial_id: str, params: Mapping[str, Any], run: Path, shared: Shared
) -> Job:
    return Job(
        number=number,
        trial_id=trial_id,
        params=dict(params),
        document=study.document(params),
        folder=run / "trials" / str(number),
        shared=shared,
        limits=study.budget.limits(),
        metrics=metrics_of(study),
        quality=study.objectives.quality,
        objectives=study.objectives.names,
        sweep=tuple(study.sweep),
        resources=study.trial_resources,
    )
