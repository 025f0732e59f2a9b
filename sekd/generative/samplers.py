"""From noise to clean speech: predictor-corrector, probability flow, and the few steps of a consistency function.

Each gives back the spectrum and how many evaluations of the network it took. ``denoise`` and ``consistent`` are
functions of ``(x_t, noisy, t)``, spectra ``(batch, 2, freq, frame)`` and a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sekd.generative.ouve import OuvePath, Time
from sekd.generative.preconditioning import score_of

Network = Callable[[Tensor, Tensor, float], Tensor]
Noise = Callable[[], Tensor]  # complex noise of variance 1, new at every call
Solver = Literal["euler", "heun"]
Renoise = Literal["published", "marginal"]

SNR = 0.5  # of the corrector's Langevin step, and of published renoising


class Sampled(NamedTuple):
    spectrum: Tensor
    evaluations: int


def time_grid(steps: int, last: float) -> list[float]:
    """``steps`` times from 1 down to ``last``, evenly spaced; one step is at 1."""
    return torch.linspace(1.0, last, steps, dtype=torch.float64).tolist()


def predictor_corrector(
    denoise: Network, path: OuvePath, noisy: Tensor, noise: Noise, *, steps: int = 30, snr: float = SNR
) -> Sampled:
    """Annealed Langevin correction, then a step of the reverse SDE, ``steps`` times (Song et al. 2021; SGMSE+).

    Two evaluations a step. The last prediction is given back without its noise.
    """
    x = mean = path.prior(noisy, noise())
    times = time_grid(steps, path.t_eps)
    for t, earlier in zip(times, [*times[1:], 0.0], strict=True):
        x, _ = corrected(denoise, path, x, noisy, t, noise(), snr=snr)
        x, mean = predicted(denoise, path, x, noisy, t, t - earlier, noise())
    return Sampled(mean, 2 * steps)


def corrected(
    denoise: Network, path: OuvePath, x: Tensor, noisy: Tensor, t: float, noise: Tensor, *, snr: float = SNR
) -> tuple[Tensor, Tensor]:
    """One step of Langevin dynamics at ``t``, and the same before its noise."""
    size = 2 * (snr * path.std(t)) ** 2
    mean = x + size * score_of(denoise(x, noisy, t), x, path.std(t))
    return mean + math.sqrt(2 * size) * noise, mean


def predicted(
    denoise: Network, path: OuvePath, x: Tensor, noisy: Tensor, t: float, step: float, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the reverse SDE from ``t`` to ``t - step``, and the same before its noise."""
    score = score_of(denoise(x, noisy, t), x, path.std(t))
    mean = x - step * (path.drift(x, noisy) - path.diffusion(t) ** 2 * score)
    return mean + path.diffusion(t) * math.sqrt(step) * noise, mean


def flow_step(
    denoise: Callable[..., Tensor],
    path: OuvePath,
    x: Tensor,
    noisy: Tensor,
    t: Time,
    step: float,
    *,
    solver: Solver = "heun",
) -> Tensor:
    """One step of the probability flow from ``t`` to ``t - step``: one evaluation with Euler, two with Heun."""
    slope = path.flow(x, noisy, t, score_of(denoise(x, noisy, t), x, path.std(t)))
    guess = x - step * slope
    if solver == "euler":
        return guess
    earlier = t - step
    second = path.flow(guess, noisy, earlier, score_of(denoise(guess, noisy, earlier), guess, path.std(earlier)))
    return x - step * (slope + second) / 2


def probability_flow(
    denoise: Network, path: OuvePath, noisy: Tensor, noise: Noise, *, steps: int = 30, solver: Solver = "heun"
) -> Sampled:
    """From the prior to the earliest time along the flow; what the denoiser sees there is not added."""
    x = path.prior(noisy, noise())
    times = time_grid(steps + 1, path.t_eps)
    for t, earlier in zip(times, times[1:], strict=False):
        x = flow_step(denoise, path, x, noisy, t, t - earlier, solver=solver)
    return Sampled(x, steps * (1 if solver == "euler" else 2))


def few_steps(
    consistent: Network,
    path: OuvePath,
    noisy: Tensor,
    noises: Sequence[Tensor],
    times: Sequence[float],
    *,
    renoise: Renoise = "published",
    scale: float = 1.0,
) -> Sampled:
    """A consistency function at the first time, then renoised and asked again at each of the others.

    Args:
        noises: complex noise of variance 1 for each time.
        renoise: ``published`` adds noise to the output itself (Xu et al. 2025, their code); ``marginal`` moves it
            to the path's mean first, where the network was trained.
        scale: of all noise; 0 makes the sampler deterministic.
    """
    x = noisy
    for place, (t, noise) in enumerate(zip(times, noises, strict=True)):
        if place and renoise == "marginal":
            x = path.mean(x, noisy, t)
        if scale:  # published renoising has 2 * snr * std(t), which at its snr of 0.5 is std(t)
            x = x + scale * path.std(t) * noise
        x = consistent(x, noisy, t)
    return Sampled(x, len(times))
