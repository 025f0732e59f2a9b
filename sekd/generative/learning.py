"""How networks on a path learn: one step of denoising (the teacher) and one of consistency (the student).

Each is a walk: it places a batch somewhere on the path and returns what the network said there beside what it should
have said. Terms of the training loop compare the two.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from sekd.config import Frozen
from sekd.generative.compressed_stft import CompressedStft
from sekd.generative.ouve import OuvePath, noise_like
from sekd.generative.preconditioning import edm_weight, weight_as_published
from sekd.generative.samplers import Solver, flow_step, time_grid

Weighting = Literal["per_example", "published_code"]


class Walked(NamedTuple):
    """What a network said somewhere on the path, and what it should have said, ``(batch, 2, freq, frame)``.

    ``weight`` ``(batch, 1, 1, 1)``; ``wave`` is the output as a signal ``(batch, sample)`` where a term listens.
    """

    output: Tensor
    target: Tensor
    weight: Tensor
    wave: Tensor | None = None


class OnPath(Protocol):
    """A network with spectra and a path."""

    spectra: CompressedStft
    path: OuvePath
    sigma_data: float

    def evaluate(self, x: Tensor, noisy: Tensor, t: Any) -> Tensor:
        """The denoiser, or the consistency function, at ``(x_t, noisy, t)``."""


class Walk(Protocol):
    def __call__(self, model: Any, noisy: Tensor, clean: Tensor, *, heard: bool) -> Walked:
        """Places a batch of waves ``(batch, sample)`` on the path; ``heard``: a term listens to the output."""

    def follow(self, averaged: Mapping[str, Tensor]) -> None:
        """Takes the running mean of the network's weights after a step."""


class ConsistencyConfig(Frozen):
    """How a consistency function is distilled; the defaults are ROSE-CD's (Xu et al. 2025)."""

    solver: Solver = "heun"
    randomised: bool = True  # fresh noise after the teacher's step: a tube around its trajectory, not the line itself
    points: int = Field(30, ge=2)  # N: times of the grid from 1 to the earliest
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)  # of consistency itself
    pesq: float = Field(5e-4, ge=0, allow_inf_nan=False)  # of the auxiliary PESQ loss; 0 leaves it out
    si_snr: float = Field(5e-5, ge=0, allow_inf_nan=False)  # of the auxiliary SI-SDR loss
    auxiliary_from: float = Field(0.0, ge=0, lt=1)  # share of the steps after which both begin

    def phases(self, steps: int) -> list[tuple[int, dict[str, float]]]:
        """Steps and weights of the terms."""
        alone = {"consistency": self.weight}
        both = alone | {name: value for name in ("pesq", "si_snr") if (value := getattr(self, name)) > 0}
        first = round(steps * self.auxiliary_from)
        return [(count, terms) for count, terms in ((first, alone), (steps - first, both)) if count > 0]


def spectra_of(model: OnPath, *waves: Tensor) -> list[Tensor]:
    """Of signals ``(batch, sample)`` of any length, with zeros up to whole hops."""
    missing = -waves[0].shape[1] % model.spectra.config.hop
    return [model.spectra.analyse(nn.functional.pad(wave, (0, missing))) for wave in waves]


def normalised(noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both divided by the largest magnitude of each noisy signal, and that, ``(batch, 1)``."""
    peak = noisy.abs().amax(-1, keepdim=True).clamp(min=1e-8)
    return noisy / peak, clean / peak, peak


class Denoising:
    """Learning to see the mean of the path behind a noised spectrum (Richter et al. 2024, M3).

    The mean is not the clean spectrum: at time 1 it is still 78 % noisy. ``weighting`` of the examples of a batch: each
    by its own time, or as the authors' code does.
    """

    def __init__(self, weighting: Weighting = "per_example") -> None:
        self.weighting = weighting

    def __call__(self, model: OnPath, noisy: Tensor, clean: Tensor, *, heard: bool) -> Walked:
        noisy, clean, _ = normalised(noisy, clean)
        y, x0 = spectra_of(model, noisy, clean)
        path = model.path
        t = _column(path.t_eps + (1 - path.t_eps) * torch.rand(len(y), device=y.device))
        x_t = path.perturbed(x0, y, t, noise_like(y))
        weight = edm_weight(path.std(t), model.sigma_data)
        if self.weighting == "published_code":
            weight = weight_as_published(weight)
        return Walked(model.evaluate(x_t, y, t), path.mean(x0, y, t), weight)

    def follow(self, averaged: Mapping[str, Tensor]) -> None:
        """Nobody here looks at the mean."""


class Consistency:
    """Learning to say at every point of a trajectory what a running mean of oneself says one step further down it.

    The step is taken by the frozen ``teacher``; without one (consistency training) both points are drawn from the
    path with noise of their own. The target network never has a gradient.
    """

    def __init__(self, model: nn.Module, teacher: OnPath | None, config: ConsistencyConfig) -> None:
        self.teacher, self.config = teacher, config
        self.target: Any = copy.deepcopy(model).eval().requires_grad_(False)

    def __call__(self, model: OnPath, noisy: Tensor, clean: Tensor, *, heard: bool) -> Walked:
        noisy, clean, peak = normalised(noisy, clean)
        y, x0 = spectra_of(model, noisy, clean)
        grid = torch.tensor(time_grid(self.config.points, model.path.t_eps), dtype=y.dtype, device=y.device)
        place = torch.randint(self.config.points - 1, (len(y),), device=y.device)
        t, earlier = _column(grid[place]), _column(grid[place + 1])
        x_t = model.path.perturbed(x0, y, t, noise_like(y))
        output = model.evaluate(x_t, y, t)
        with torch.no_grad():
            target = self.target.evaluate(self.further(model.path, x0, x_t, y, t, earlier), y, earlier)
        wave = model.spectra.synthesise(output)[:, : noisy.shape[1]] * peak if heard else None
        return Walked(output, target, torch.ones_like(t), wave)

    def further(self, path: OuvePath, x0: Tensor, x_t: Tensor, y: Tensor, t: Tensor, earlier: Tensor) -> Tensor:
        """The point to compare with, one step down from ``x_t``."""
        if self.teacher is None:
            return path.perturbed(x0, y, earlier, noise_like(y))
        step = 1 / self.config.points  # published so; the grid itself is spaced by 0.3 % more
        x = flow_step(self.teacher.evaluate, path, x_t, y, t, step, solver=self.config.solver)
        if self.config.randomised:
            x = x + path.diffusion(t) * math.sqrt(step) * noise_like(y)
        return x

    @torch.no_grad()
    def follow(self, averaged: Mapping[str, Tensor]) -> None:
        self.target.load_state_dict(averaged, strict=False)


def _column(t: Tensor) -> Tensor:
    """Times ``(batch,)`` so that they broadcast against spectra."""
    return t[:, None, None, None]
