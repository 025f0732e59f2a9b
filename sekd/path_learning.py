"""Teaching networks on a path: who may learn from whom, and what a student begins as."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sekd.errors import InputError
from sekd.generative.learning import Consistency, Walk
from sekd.models import ConsistencyNet, ConsistencyNetConfig, Diffusion, DiffusionConfig, Enhancer, NetworkConfig
from sekd.teacher import OwnTeacher, open_teacher
from sekd.teacher_source import TeacherSource

if TYPE_CHECKING:
    from sekd.preparation import TeacherConfig
    from sekd.schedule import DistillSection

SHARED = ("spectra", "path", "sigma_data")  # what student and teacher must agree on
SLOWEST_MEAN = 0.999  # published, for 39,000 updates; ours are fewer


def mean_decay(steps: int) -> float:
    """Of the running mean that a student is compared with: it may trail by a fifth of a training, not by more."""
    return max(0.0, min(SLOWEST_MEAN, 1 - 5 / steps))


def check_path(student: NetworkConfig, distill: DistillSection, teacher: TeacherConfig | None) -> None:
    """Refuses a student whose schedule is not for it, and a teacher on another path.

    Raises:
        ValueError: says what would fit.
    """
    kind = distill.schedule.kind
    consistent = isinstance(student, ConsistencyNetConfig)
    if consistent != distill.on_path:
        raise ValueError(
            f"distill.schedule.kind = {kind!r} and student.family = {getattr(student, 'family', '?')!r}: consistency "
            "functions learn by 'consistency' or 'consistency_training', and nothing else does "
            "(the deterministic twin of one is the family 'predictive')"
        )
    if student.objective is not None and kind != "supervised":
        raise ValueError(f"distill.schedule.kind = {kind!r}: a diffusion model learns in its own way; say 'supervised'")
    if kind != "consistency" or teacher is None:
        return
    if teacher.network is None and (teacher.module or not str(teacher.model).endswith(".safetensors")):
        raise ValueError("distill.schedule.kind = 'consistency' needs a diffusion model of ours as teacher")
    if teacher.network is not None:
        _same_path(student, teacher.network)


def _same_path(student: NetworkConfig, teacher: NetworkConfig) -> None:
    if not isinstance(teacher, DiffusionConfig):
        raise ValueError(
            "distill.schedule.kind = 'consistency': the teacher must be of the family 'diffusion', not "
            f"{getattr(teacher, 'family', '?')!r}"
        )
    for part in SHARED:
        ours, theirs = getattr(student, part), getattr(teacher, part)
        if ours != theirs:
            raise ValueError(f"student.{part} ({ours}) must equal that of the teacher ({theirs})")


def walk_of(model: Enhancer, distill: DistillSection, teacher: Diffusion | None) -> Walk | None:
    """How ``model`` is placed on its path when it learns; None where it has none.

    A student of the teacher's own backbone begins with the teacher's weights, any other at random.
    """
    if isinstance(model, Diffusion):
        return model.walk()
    if not isinstance(model, ConsistencyNet):
        return None
    if teacher is not None and teacher.config.backbone == model.config.backbone:
        model.network.load_state_dict(teacher.network.state_dict())
    return Consistency(model, teacher, distill.consistency)


def leader(source: TeacherSource | None, student: NetworkConfig, distill: DistillSection) -> Diffusion | None:
    """The diffusion model that leads ``student`` along its path, from its file; None where nobody does.

    Raises:
        InputError: the file is no diffusion model on the student's path.
    """
    if distill.schedule.kind != "consistency" or source is None:
        return None
    teacher = open_teacher(source)
    network = teacher.model if isinstance(teacher, OwnTeacher) else None
    try:
        _same_path(student, student if network is None else network.config)
    except ValueError as error:
        raise InputError(f"{source.model}: {error}") from error
    assert isinstance(network, Diffusion)
    return network
