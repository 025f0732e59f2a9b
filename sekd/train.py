"""The one training loop: phases of weighted loss terms, resumable to the bit."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sekd.config import Frozen
from sekd.errors import InputError
from sekd.gate_course import Course, decided
from sekd.generative.learning import Walk
from sekd.losses import TERMS, LossConfig, reads_features, reads_output, reads_path
from sekd.losses.gating import Ovrl
from sekd.losses.signals import Signals
from sekd.memory import keep_freed_memory
from sekd.models import Enhancer
from sekd.models.base import keep_denormals


class TrainConfig(Frozen):
    """How one network is trained; one step is one batch."""

    steps: int = Field(2000, ge=1)
    batch: int = Field(8, ge=1)
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False)
    optimizer: Literal["adamw", "adam"] = "adamw"
    weight_decay: float = Field(1e-4, ge=0, allow_inf_nan=False)
    clip_norm: float = Field(5.0, gt=0)
    warmup: float = Field(0.05, ge=0, le=1)  # share of the steps
    ema: float | None = Field(None, ge=0, lt=1)  # decay of a running mean of the weights, which is then what is kept

    @property
    def what_matters(self) -> dict[str, Any]:
        """As JSON, for identities: the same settings give the same training."""
        document = self.model_dump(mode="json")
        # The mean begins at the first weights; before it did, trainings with one came out otherwise.
        return document if self.ema is None else document | {"ema_from": "first weights"}


class Phase(NamedTuple):
    """A number of steps and the weights of the loss terms in them; ``gates``: how a slimmable network draws its own."""

    steps: int
    weights: dict[str, float]
    gates: Course | None = None


class Batch(NamedTuple):
    """Waveforms ``(batch, sample)``; ``teacher`` is its cached output, where a term follows it.

    ``features`` fetches the teacher's activations onto a torch device, only when a term reads them.
    """

    noisy: Tensor
    clean: Tensor
    teacher: Tensor | None
    features: Callable[[str], list[Tensor]] | None = None
    ovrl: Ovrl | None = None  # how hard the noisy signals are, where a gated student asks


class Progress(NamedTuple):
    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    gate: float | None = None  # share of the gates that were open, as the term counts them


class NotFinite(RuntimeError):
    """The loss left the finite numbers; training stopped before it could spoil the weights."""


class Run(NamedTuple):
    """What does not change the result: where checkpoints go, the torch device, who is told, who may pause us."""

    checkpoint: Path | None = None
    torch_device: str = "cpu"
    checkpoint_every_s: float = 10.0
    on_progress: Callable[[Progress], None] | None = None
    step_guard: Callable[[], AbstractContextManager[Any]] = nullcontext


class Trainer:
    """Weights, optimiser, position and random state of one training; ``run`` takes it to the end.

    ``walk``: how a network on a path is placed there, in phases whose terms ask for it.
    """

    def __init__(
        self,
        model: Enhancer,
        phases: list[Phase],
        config: TrainConfig,
        loss: LossConfig,
        walk: Walk | None = None,
    ) -> None:
        self.model, self.phases, self.config, self.loss, self.walk = model, phases, config, loss, walk
        self.steps = sum(phase.steps for phase in phases)
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.step = 0
        self.averaged: dict[str, Tensor] | None = None
        if config.ema is not None:
            self.averaged = {name: value.clone() for name, value in model.state_dict().items()}

    def run(self, batches: Callable[[int], Batch], run: Run = Run(), until: int | None = None) -> None:  # noqa: B008
        """Trains from where the checkpoint stands to step ``until`` (the end unless told).

        Raises:
            NotFinite: a loss is NaN or infinite; the message names the step and the terms.
        """
        keep_denormals()
        keep_freed_memory()
        self.model.train()
        if run.checkpoint is not None and run.checkpoint.exists():
            self.load(run.checkpoint)
        last = self.steps if until is None else min(until, self.steps)
        try:
            self._take_steps(batches, run, last)
        finally:
            self.model.gating = None  # whoever runs it next wants its own decisions, without noise
        if run.checkpoint is not None:
            self.save(run.checkpoint)
        if self.averaged is not None and self.step == self.steps:
            self.model.load_state_dict(self.averaged, strict=False)

    def _take_steps(self, batches: Callable[[int], Batch], run: Run, last: int) -> None:
        saved = time.monotonic()
        while self.step < last:
            with run.step_guard():
                progress = self._one_step(batches(self.step), run.torch_device)
            self._tell(progress, run)
            if run.checkpoint is not None and time.monotonic() - saved > run.checkpoint_every_s:
                self.save(run.checkpoint)
                saved = time.monotonic()

    def _tell(self, progress: Progress, run: Run) -> None:
        """Between two steps, where all is consistent: who is told may end the training, and nothing of it is lost."""
        if run.on_progress is None:
            return
        try:
            run.on_progress(progress)
        except BaseException:
            if run.checkpoint is not None:
                self.save(run.checkpoint)
            raise

    def _one_step(self, batch: Batch, device: str) -> Progress:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * rate(self.step, self.steps, self.config.warmup)
        weights = self.weights_at(self.step)
        if reads_path(weights):
            signals = self._walk(batch, reads_output(weights), device)
        else:
            signals = self._forward(batch, reads_features(weights), device)
        terms = {name: TERMS[name].compute(signals, self.loss) for name in weights}
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        values = {name: float(value.detach()) for name, value in terms.items()}
        if not math.isfinite(sum(values.values())):
            shown = ", ".join(f"{name} = {value:g}" for name, value in values.items())
            raise NotFinite(f"loss is not finite at step {self.step}: {shown}")
        self.optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if not torch.isfinite(norm):
            raise NotFinite(f"gradient is not finite at step {self.step}, where the loss is {float(total.detach()):g}")
        self.optimizer.step()
        self._average()
        self.step += 1
        opened = float(signals.gates.detach().mean()) if signals.gated else None
        return Progress(self.step, self.steps, float(total.detach()), values, opened)

    def _forward(self, batch: Batch, reads: bool, device: str) -> Signals:
        """The student's output and what the terms of this step compare it with; ``reads`` what happens inside, too."""
        noisy, clean = batch.noisy.to(device), batch.clean.to(device)
        teacher = None if batch.teacher is None else batch.teacher.to(device)
        course = self.phase_at(self.step).gates
        self.model.gating = None if course is None else course.at(self.step)
        recording: AbstractContextManager[list[Tensor]] = self.model.recorded() if reads else nullcontext([])
        with self.model.watched() as gates, self.model.weighed() as logits, recording as own:
            estimate = self.model(noisy)
        if self.model.gating is not None and self.model.gating.mode == "gumbel" and self.loss.gate.counted == "decided":
            gates = decided(logits, self.model.gating.temperature)
        theirs: list[Tensor] = []
        if reads:
            assert batch.features is not None
            theirs = batch.features(device)
        ovrl = None if batch.ovrl is None else batch.ovrl._replace(values=batch.ovrl.values.to(device))
        return Signals(
            estimate, clean, noisy, teacher, level=self.loss.level, features=(own, theirs),
            progress=self.step / self.steps, gates=gates, ovrl=ovrl,
        )  # fmt: skip

    def _walk(self, batch: Batch, heard: bool, device: str) -> Signals:
        """What a network on a path says at a point of it; ``heard``: a term listens to its output."""
        assert self.walk is not None
        noisy, clean = batch.noisy.to(device), batch.clean.to(device)
        walked = self.walk(self.model, noisy, clean, heard=heard)
        return Signals(walked.wave, clean, noisy, level=self.loss.level, walked=walked)

    def weights_at(self, step: int) -> dict[str, float]:
        """Weights of the terms in force at ``step``."""
        return self.phase_at(step).weights

    def phase_at(self, step: int) -> Phase:
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def _average(self) -> None:
        if self.averaged is None or self.config.ema is None:
            return
        # A young mean follows quickly: the first weights are random and must not linger in it (torch_ema's warm-up).
        updates = self.step + 1
        decay = min(self.config.ema, (1 + updates) / (10 + updates))
        for name, value in self.model.state_dict().items():
            self.averaged[name].lerp_(value, 1 - decay)
        if self.walk is not None:
            self.walk.follow(self.averaged)

    def save(self, path: Path) -> None:
        """All that continuing needs, written beside ``path`` and renamed over it."""
        content = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
        }
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Continues from ``path``.

        Raises:
            InputError: the file is truncated, or belongs to another network.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.step, self.averaged = content["step"], content["averaged"]
            if self.averaged is not None:
                here = self.model.state_dict()
                self.averaged = {name: value.to(here[name].device) for name, value in self.averaged.items()}
                if self.walk is not None:
                    self.walk.follow(self.averaged)
            torch.set_rng_state(content["torch_rng"])
            if content.get("cuda_rng") is not None and self._device.type == "cuda":
                torch.cuda.set_rng_state(content["cuda_rng"], self._device)
        except Exception as error:  # torch raises half a dozen types for a broken file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path}: not a checkpoint of this training: {reason}") from error


def rate(step: int, steps: int, warmup: float) -> float:
    """Learning rate as a share of its peak: a linear warm-up, then half a cosine down to zero."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
