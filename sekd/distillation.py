"""`distill`: the one entry that every trial calls. A configuration in, a trained student out."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import model_validator

from sekd.checkpoint import hash_of_weights, load_model, save_model
from sekd.config import Frozen, content_hash, parse, read_toml
from sekd.data import DataConfig, Mixer
from sekd.deployment import DeployConfig
from sekd.errors import InputError
from sekd.gate_spread import spread
from sekd.models import CruseConfig, Enhancer, StudentConfig, build
from sekd.models.blocks import incomparable
from sekd.path_learning import check_path, leader, mean_decay, walk_of
from sekd.pool import Features, LiveBatches, PoolBatches, cached_features, calibration_audio, live_features
from sekd.preparation import (
    CORE_VERSION,
    Hashes,
    Prepared,
    Reporter,
    TeacherConfig,
    Turn,
    check_expected,
    prepare,
    resolve,
    with_corpus,
)
from sekd.schedule import WITHOUT_TEACHER, DistillSection, with_gates
from sekd.teacher import OwnTeacher, open_teacher
from sekd.train import Batch, Phase, Run, TrainConfig, Trainer

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
                f"train.batch = {self.train.batch}: terms {_named(self.distill.taught)} compare the signals of a batch "
                f"with each other and need at least {LEAST_BATCH}"
            )
        if self.teacher is not None and (self.teacher.module or str(self.teacher.model).endswith(".onnx")):
            raise ValueError(
                f"distill.term: {_named(self.distill.taught)} looks inside the teacher, which only networks of ours "
                "allow (teacher.network, or a .safetensors)"
            )
        if self.teacher is not None and self.teacher.network is not None:
            problem = incomparable(self.student, self.teacher.network)
            if problem:
                raise ValueError(f"distill.term: {_named(self.distill.taught)} {problem}")
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


def _named(weights: dict[str, float]) -> str:
    return " and ".join(repr(name) for name in weights)


class Student(NamedTuple):
    """A trained student and what making it took."""

    model: Enhancer
    config: DistillConfig
    prepared: Prepared
    train_seconds: float
    environment: dict[str, Any]


def load_config(path: str | Path) -> DistillConfig:
    """The configuration of one distillation, from TOML; its paths are relative to the file."""
    document = read_toml(path)
    config = parse(DistillConfig, document, str(path))
    data, teacher = resolve(config.data, config.teacher, Path(path).resolve().parent)
    return config.model_copy(update={"data": data, "teacher": teacher})


def distill(
    config: DistillConfig,
    *,
    prepared: Prepared | None = None,
    cache: Path | None = None,
    folder: Path | None = None,
    run: Run = Run(),  # noqa: B008
    turn: Turn | None = None,
    say: Callable[[str], None] | None = None,
    trust_code: bool = False,
) -> Student:
    """Trains the student that ``config`` describes; the same configuration gives the same student.

    Args:
        prepared: what the trials of a study share; made, or found in ``cache``, unless given.
        trust_code: whether the function that ``teacher.module`` names may be called.
        turn: lets others have the processor during preparation; ``run.step_guard`` does between training steps.
        folder: keeps the checkpoint, from which a killed run continues, and ``model.safetensors``.

    Raises:
        InputError: recordings, teacher or checkpoint cannot be used, or are not the expected ones.
        NotFinite: the loss left the finite numbers.
    """
    cache = cache or Path("studies/cache")
    if prepared is None:
        prepared = prepare(
            config.data,
            config.teacher,
            seed=config.seed,
            cache=cache,
            expect=config.expect,
            features=config.distill.reads_features,
            outputs=config.distill.reads_outputs,
            pool=config.gated,
            ovrl=config.reads_ovrl,
            say=say,
            turn=turn,
            trust_code=trust_code,
        )
    check_expected(config.expect, **prepared.hashes.model_dump())
    if folder is not None:
        _claim(folder, config.identity(prepared.hashes))
    weights = None if folder is None else folder / "model.safetensors"
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    started = time.monotonic()
    if weights is not None and weights.exists():
        model = load_model(weights)
        model.take_knobs(config.student)  # it may have been trained for another setting of them
    else:
        model = _train(config, prepared, batches(config, prepared, cache), folder, run)
        if weights is not None:
            save_model(model, weights)
    return Student(model.eval(), config, prepared, time.monotonic() - started, environment())


def batches(config: DistillConfig, prepared: Prepared, cache: Path) -> Callable[[int], Batch]:
    """Batches as a function of (seed, step): from the pool, or mixed on the fly where nothing needs one."""
    if prepared.pool is not None:
        features = _features(config, prepared) if config.distill.reads_features else None
        ovrl = prepared.ovrl if config.reads_ovrl else None
        if config.reads_ovrl and ovrl is None:
            raise InputError("distill.gate.guidance = 'dnsmos': the OVRL of the training audio was not prepared")
        return PoolBatches(
            prepared.pool, prepared.outputs, batch=config.train.batch, seed=config.seed, features=features, ovrl=ovrl
        )
    return LiveBatches(_mixer(config, cache), batch=config.train.batch)


def training_audio(config: DistillConfig, prepared: Prepared, cache: Path) -> Iterator[np.ndarray]:
    """Noisy signals (sample,) that the student was trained on, the same for the same configuration.

    Those of a pool as far as int8_static needs them; without a pool, endlessly, mixed when they are asked for.
    """
    if prepared.pool is not None:
        yield from calibration_audio(prepared.pool, config.deploy.calibration_s)
        return
    mixer = _mixer(config, cache)
    for index in count():
        yield mixer.segment(index).noisy


def _mixer(config: DistillConfig, cache: Path) -> Mixer:
    recipe = with_corpus(config.data.train, cache, config.seed, Reporter(None))
    return Mixer(recipe, seed=config.seed)


def _features(config: DistillConfig, prepared: Prepared) -> Features:
    """The teacher's activations for rows of the pool: read from the cache, or computed where there is none.

    Raises:
        InputError: the activations of student and teacher cannot be compared.
    """
    assert prepared.pool is not None and prepared.teacher is not None
    teacher = open_teacher(prepared.teacher)
    if not isinstance(teacher, OwnTeacher):
        raise InputError(f"distill.term: {_named(config.distill.taught)} cannot look inside {prepared.teacher.model}")
    problem = incomparable(config.student, teacher.model.config)
    if problem:
        raise InputError(f"distill.term: {_named(config.distill.taught)} {problem}")
    if prepared.activations is not None:
        return cached_features(prepared.activations)
    return live_features(prepared.pool, teacher.model)


def _train(
    config: DistillConfig, prepared: Prepared, source: Callable[[int], Batch], folder: Path | None, run: Run
) -> Enhancer:
    torch.manual_seed(config.seed)
    model = build(config.student).to(run.torch_device)
    teacher = leader(prepared.teacher, config.student, config.distill)
    walk = walk_of(model, config.distill, None if teacher is None else teacher.to(run.torch_device))
    trainer = Trainer(model, config.phases(config.train.steps), config.training, config.distill.loss, walk)
    if folder is not None:
        run = run._replace(checkpoint=folder / "checkpoint.pt")
    trainer.run(source, run)
    spread(model, source, run.torch_device)
    if run.checkpoint is not None:
        # The finished weights are about to be written; the optimiser's state is no longer worth its disk.
        save_model(model, run.checkpoint.with_name("model.safetensors"))
        run.checkpoint.unlink(missing_ok=True)
    return model.to("cpu")


def _claim(folder: Path, identity: str) -> None:
    """Makes ``folder`` this training's own: what another configuration left there is not taken for its result.

    Raises:
        InputError: the folder belongs to another training, or cannot be written.
    """
    owner = folder / "identity"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if owner.exists() and owner.read_text() != identity:
            raise InputError(f"{folder}: holds the training of another configuration; choose another folder")
        owner.write_text(identity)
    except OSError as error:
        raise InputError(f"{folder}: cannot write here: {error.strerror}") from error


def environment() -> dict[str, Any]:
    """What the bits of a result depend on besides its configuration."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


__all__ = ["DistillConfig", "Student", "distill", "environment", "hash_of_weights", "load_config", "training_audio"]
