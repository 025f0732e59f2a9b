"""All that can change a trained student: what one distillation is told."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from sekd.config import Frozen, content_hash, parse, read_toml
from sekd.data import DataConfig
from sekd.deployment import DeployConfig
from sekd.models import CruseConfig, StudentConfig
from sekd.models.blocks import incomparable
from sekd.path_learning import check_path, mean_decay
from sekd.preparation import CORE_VERSION, Hashes, TeacherConfig, resolve
from sekd.schedule import WITHOUT_TEACHER, DistillSection, with_gates
from sekd.train import Phase, TrainConfig

LEAST_BATCH = 16  # signals that a similarity term needs to compare


class DistillConfig(Frozen):
    """All that can change a trained student, and nothing else."""

    seed: int = 0
    student: StudentConfig = CruseConfig()
    distill: DistillSection = DistillSection()
    train: TrainConfig = TrainConfig()
    data: DataConfig
    teacher: TeacherConfig | None = None
    expect: Hashes | None = None  # what a package was made of: other data or another teacher is refused
    threads: int | None = None  # torch threads that gave the recorded bits
    deploy: DeployConfig = DeployConfig()  # acts after training: no part of the identity

    @model_validator(mode="after")
    def _teacher_where_needed(self) -> DistillConfig:
        if self.teacher is None and self.distill.schedule.kind not in WITHOUT_TEACHER:
            raise ValueError(f"distill.schedule.kind = {self.distill.schedule.kind!r} needs a [teacher]")
        return self

    @model_validator(mode="after")
    def _features_can_be_compared(self) -> DistillConfig:
        if not self.distill.reads_features:
            return self
        if self.train.batch < LEAST_BATCH:
            raise ValueError(
                f"train.batch = {self.train.batch}: terms {named(self.distill.taught)} compare the signals of a batch "
                f"with each other and need at least {LEAST_BATCH}"
            )
        if self.teacher is not None and (self.teacher.module or str(self.teacher.model).endswith(".onnx")):
            raise ValueError(
                f"distill.term: {named(self.distill.taught)} looks inside the teacher, which only networks of ours "
                "allow (teacher.network, or a .safetensors)"
            )
        if self.teacher is not None and self.teacher.network is not None:
            problem = incomparable(self.student, self.teacher.network)
            if problem:
                raise ValueError(f"distill.term: {named(self.distill.taught)} {problem}")
        return self

    @model_validator(mode="after")
    def _on_a_path_where_it_belongs(self) -> DistillConfig:
        check_path(self.student, self.distill, self.teacher)
        return self

    @model_validator(mode="after")
    def _gates_to_train(self) -> DistillConfig:
        if self.student.gate is None and self.distill.gate is not None:
            raise ValueError("distill.gate says how gates are trained, and the student has none: add [student.gate]")
        if self.reads_ovrl and self.train.batch < 2:
            raise ValueError(
                "distill.gate.guidance = 'dnsmos' compares the clips of a batch: train.batch = 1 is too few"
            )
        return self

    @property
    def teacherless(self) -> bool:
        """Whether the schedule hears no teacher."""
        return self.distill.schedule.kind in WITHOUT_TEACHER

    @property
    def gated(self) -> bool:
        """Whether the student is slimmable; it then trains from a pool, so that what guides it can be known of it."""
        return self.student.gate is not None

    @property
    def reads_ovrl(self) -> bool:
        """Whether the DNSMOS OVRL of the noisy training clips guides the gates."""
        return self.gated and self.distill.gating.guidance == "dnsmos"

    def phases(self, steps: int) -> list[Phase]:
        """The schedule over ``steps``, with the gates' own phases where the student has gates."""
        if self.student.objective is not None:
            return [Phase(steps, self.student.objective)]
        phases = self.distill.phases(steps)
        return with_gates(phases, self.distill.gating) if self.gated else phases

    @property
    def training(self) -> TrainConfig:
        """``train``, with the running mean that a consistency function is compared with."""
        if not self.distill.on_path or self.train.ema is not None:
            return self.train
        return self.train.model_copy(update={"ema": mean_decay(self.train.steps)})

    def identity(self, hashes: Hashes) -> str:
        """Equal for equal results: settings, seed and core version, recordings and teacher by content."""
        settings = self.model_dump(mode="json", include={"seed", "distill"})
        settings["train"] = self.training.what_matters
        settings["student"] = self.student.trained_part
        del settings["distill"]["gate"]
        if self.gated:
            settings["gating"] = self.distill.gating.what_matters
        consistency = settings["distill"].pop("consistency")
        if self.teacherless:
            # No teacher is heard, so nothing that concerns one can matter.
            settings["distill"] = {k: settings["distill"][k] for k in ("supervised", "loss_level")}
            hashes = hashes.model_copy(update={"teacher": None})
        if self.distill.on_path:
            read = consistency.keys() - ({"solver", "randomised"} if self.teacherless else set())
            settings["distill"] = {"kind": self.distill.schedule.kind, "loss_level": self.distill.loss_level}
            settings["distill"] |= {key: consistency[key] for key in sorted(read)}
        elif self.distill.schedule.kind == "two_step":
            del settings["distill"]["schedule"]["kd_weight"]  # nothing is mixed
        if self.distill.reads_features and self.teacher is not None:
            settings["features"] = self.teacher.features  # cached ones are rounded
        return content_hash([settings, hashes.model_dump(mode="json"), CORE_VERSION], 16)


def named(weights: dict[str, float]) -> str:
    return " and ".join(repr(name) for name in weights)


def load_config(path: str | Path) -> DistillConfig:
    """The configuration of one distillation, from TOML; its paths are relative to the file."""
    document = read_toml(path)
    config = parse(DistillConfig, document, str(path))
    data, teacher = resolve(config.data, config.teacher, Path(path).resolve().parent)
    return config.model_copy(update={"data": data, "teacher": teacher})
