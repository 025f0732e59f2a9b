"""The path from clean to noisy speech that SGMSE+ and ROSE-CD walk: an Ornstein-Uhlenbeck process whose variance
explodes (OUVE; Richter et al. 2023, section III).

Times are in 0 .. 1, numbers or tensors that broadcast against spectra. All is linear in each bin, so real and imaginary
parts are treated alike; complex noise of variance 1 has 1/2 in each of them (``noise_like``).
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sekd.config import Frozen

Time = TypeVar("Time", float, Tensor)


class OuvePath(Frozen):
    """``dx = theta (y - x) dt + g(t) dw``, clean at 0, at 1 around the noisy ``y``; the published constants."""

    theta: float = Field(1.5, gt=0)  # stiffness
    sigma_min: float = Field(0.05, gt=0)
    sigma_max: float = Field(0.5, gt=0)
    t_eps: float = Field(0.03, gt=0, lt=1)  # the earliest time at which networks are asked

    @model_validator(mode="after")
    def _explodes(self) -> OuvePath:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min} must be below sigma_max = {self.sigma_max}")
        return self

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def mean(self, clean: Tensor, noisy: Tensor, t: Time) -> Tensor:
        """Mean of the process at ``t``: the clean spectrum at 0, still 22 % of it at 1."""
        kept = _exp(-self.theta * t)
        return kept * clean + (1 - kept) * noisy

    def std(self, t: Time) -> Time:
        """Standard deviation of the process at ``t``."""
        rate = self._log_ratio
        grown = _exp(2 * (self.theta + rate) * t) - 1
        return (self.sigma_min**2 * rate * _exp(-2 * self.theta * t) * grown / (self.theta + rate)) ** 0.5

    def drift(self, x: Tensor, noisy: Tensor) -> Tensor:
        return self.theta * (noisy - x)

    def diffusion(self, t: Time) -> Time:
        """``g(t)``."""
        return self.sigma_min * _exp(self._log_ratio * t) * math.sqrt(2 * self._log_ratio)

    def prior(self, noisy: Tensor, noise: Tensor) -> Tensor:
        """Where sampling begins: around the noisy spectrum itself, not around ``mean`` at 1."""
        return noisy + self.std(1.0) * noise

    def perturbed(self, clean: Tensor, noisy: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """A point of the process at ``t``."""
        return self.mean(clean, noisy, t) + self.std(t) * noise

    def flow(self, x: Tensor, noisy: Tensor, t: Time, score: Tensor) -> Tensor:
        """Drift of the probability-flow ODE, whose solutions have the marginals of the process (Song et al. 2021)."""
        return self.drift(x, noisy) - 0.5 * self.diffusion(t) ** 2 * score


def noise_like(spectrum: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Complex noise of variance 1 in the shape of ``spectrum``."""
    drawn = torch.randn(spectrum.shape, generator=generator, device=spectrum.device, dtype=spectrum.dtype)
    return drawn * math.sqrt(0.5)


def _exp(value: Time) -> Time:
    return torch.exp(value) if isinstance(value, Tensor) else math.exp(value)
