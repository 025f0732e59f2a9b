"""A diffusion model that enhances (SGMSE+, Richter et al. 2023; objective M3 of Richter et al. 2024): a teacher."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sekd.generative.learning import Denoising, Weighting
from sekd.generative.ouve import noise_like
from sekd.generative.preconditioning import edm_scales
from sekd.generative.samplers import Sampled, Solver, predictor_corrector, probability_flow
from sekd.models.base import Contract, Enhancer, State, cannot_stream
from sekd.models.path_network import PathConfig, PathNetwork


class DiffusionConfig(PathConfig):
    """``sampler`` ``pc`` takes two evaluations a step, ``heun`` two, ``euler`` one."""

    family: Literal["diffusion"] = "diffusion"
    weighting: Weighting = "per_example"  # of the loss; the authors' code weighs a whole batch alike
    sampler: Literal["pc", "euler", "heun"] = "pc"
    steps: int = Field(30, ge=1)
    snr: float = Field(0.5, gt=0)  # of the corrector
    noise_seed: int = 0

    knobs: ClassVar[tuple[str, ...]] = ("sampler", "steps", "snr", "noise_seed")

    @property
    def streams(self) -> bool:
        """It hears whole signals, and takes dozens of evaluations: it can only teach."""
        return False

    @property
    def objective(self) -> dict[str, float]:
        return {"denoising": 1.0}


class Diffusion(PathNetwork, Enhancer):
    """A denoiser on a path; ``forward`` samples, with the same noise for the same seed whatever the batch."""

    contract: ClassVar[Contract] = "wave"
    config: DiffusionConfig

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config, self.hop = config, config.spectra.hop
        self.make_network(config)

    def walk(self) -> Denoising:
        """How it learns."""
        return Denoising(self.config.weighting)

    def evaluate(self, x: Tensor, noisy: Tensor, t: Any) -> Tensor:
        """The mean of the path that the network sees behind ``x_t``."""
        return self.scaled(edm_scales(self.path.std(t), self.sigma_data), x, noisy, self.biases_at(t, x))

    def sample(self, noisy: Tensor, generator: torch.Generator) -> Sampled:
        """Spectra ``(batch, 2, freq, frame)`` enhanced; each of a batch meets the same noise."""

        def noise() -> Tensor:
            return noise_like(noisy[:1].cpu(), generator).to(noisy.device)

        config = self.config
        if config.sampler == "pc":
            return predictor_corrector(
                self.evaluate, self.path, noisy, noise, steps=config.steps, snr=config.snr
            )  # fmt: skip
        solver: Solver = "euler" if config.sampler == "euler" else "heun"
        return probability_flow(self.evaluate, self.path, noisy, noise, steps=config.steps, solver=solver)

    def forward(self, noisy: Tensor) -> Tensor:
        samples, hop = noisy.shape[1], self.config.spectra.hop
        shortest = self.config.spectra.n_fft // 2 + 1  # reflection needs as much
        padded = nn.functional.pad(noisy, (0, max(0, shortest - samples)))
        padded = nn.functional.pad(padded, (0, -padded.shape[1] % hop))
        peak = padded.abs().amax(1, keepdim=True)
        spectrum = self.spectra.analyse(padded / peak.clamp(min=1e-8))
        generator = torch.Generator().manual_seed(self.config.noise_seed)
        return (self.spectra.synthesise(self.sample(spectrum, generator).spectrum) * peak)[:, :samples]

    @property
    def delay(self) -> int:
        raise cannot_stream(self.config)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        raise cannot_stream(self.config)

    def example(self, batch: int = 1) -> Tensor:
        raise cannot_stream(self.config)

    def state_sizes(self) -> tuple[int, int, int]:
        raise cannot_stream(self.config)
