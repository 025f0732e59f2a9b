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

from sekd.checkpoint import hash_of_weights, load_model, save_model
from sekd.data import Mixer
from sekd.distill_config import DistillConfig, load_config, named
from sekd.errors import InputError
from sekd.gate_spread import spread
from sekd.models import Enhancer, build
from sekd.models.blocks import incomparable
from sekd.path_learning import leader, walk_of
from sekd.pool import Features, LiveBatches, PoolBatches, cached_features, calibration_audio, live_features
from sekd.preparation import (
    Prepared,
    Reporter,
    Turn,
    check_expected,
    prepare,
    with_corpus,
)
from sekd.teacher import OwnTeacher, open_teacher
from sekd.train import Batch, Run, Trainer


class Student(NamedTuple):
    """A trained student and what making it took."""

    model: Enhancer
    config: DistillConfig
    prepared: Prepared
    train_seconds: float
    environment: dict[str, Any]


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
        raise InputError(f"distill.term: {named(config.distill.taught)} cannot look inside {prepared.teacher.model}")
    problem = incomparable(config.student, teacher.model.config)
    if problem:
        raise InputError(f"distill.term: {named(config.distill.taught)} {problem}")
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
