"""A consistency function: from any point of a path to the clean spectrum at once (Xu et al. 2025, ROSE-CD)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from sekd.generative.preconditioning import Boundary, consistency_scales
from sekd.generative.samplers import Renoise, few_steps, time_grid
from sekd.models.base import NetworkConfig
from sekd.models.path_network import PathConfig, PathNetwork
from sekd.models.segments import SegmentConfig, SegmentEnhancer
from sekd.models.settled import ComputedWeights


class SegmentedPathConfig(SegmentConfig, PathConfig):
    """A network on a path that enhances segments."""

    @model_validator(mode="after")
    def _whole_segments(self) -> Self:
        stride = self._strides()[1]
        if self.segment_frames % stride:
            raise ValueError(f"segment_frames = {self.segment_frames} must be a multiple of {stride}")
        if 2 * self.overlap_hops > self.segment_frames - 1:
            raise ValueError(f"overlap_hops = {self.overlap_hops} must be less than half of segment_frames")
        if (self.segment_frames - 1) * self.spectra.hop <= self.spectra.n_fft // 2:
            raise ValueError(f"segment_frames = {self.segment_frames} is shorter than half a window")
        return self


class ConsistencyNetConfig(SegmentedPathConfig):
    """What is below ``boundary``, and how long segments are, acts after training: knobs of a trained student."""

    family: Literal["consistency"] = "consistency"
    boundary: Boundary = "published"
    steps: int = Field(1, ge=1, le=16)  # evaluations of the network; one is what is published
    last_time: float = Field(0.03, gt=0, lt=1)  # of several: evenly spaced from 1 down to it
    renoise: Renoise = "published"
    noise_scale: float = Field(1.0, ge=0, le=1)  # of all noise; 0 starts at the noisy spectrum itself
    noise_seed: int = Field(0, ge=0, lt=2**32)

    knobs: ClassVar[tuple[str, ...]] = (
        "steps", "last_time", "renoise", "noise_scale", "noise_seed", "segment_frames", "overlap_hops",
    )  # fmt: skip

    @property
    def times(self) -> list[float]:
        return time_grid(self.steps, self.last_time)


class SegmentedPathNetwork(PathNetwork, SegmentEnhancer, ComputedWeights):
    """Segments to spectra and back, each divided by its largest sample; what the time decides is computed once."""

    config: SegmentedPathConfig

    def __init__(self, config: SegmentedPathConfig) -> None:
        super().__init__()
        self.config = config
        self.make_network(config)
        self._cut()

    def _cut(self) -> None:
        """Segments as the configuration says."""
        config, hop = self.config, self.config.spectra.hop
        self.set_segments((config.segment_frames - 1) * hop, config.overlap_hops * hop)

    def segments(self, noisy: Tensor) -> Tensor:
        peak = noisy.abs().amax(1, keepdim=True)
        spectrum = self.spectra.analyse(noisy / peak.clamp(min=1e-8))
        return self.spectra.synthesise(self.enhanced(spectrum)) * peak

    def enhanced(self, noisy: Tensor) -> Tensor:
        """Spectra ``(segment, 2, freq, frame)`` to clean ones."""
        raise NotImplementedError

    def times(self) -> list[float]:
        """At which the network is asked, in order."""
        raise NotImplementedError

    def computed(self) -> tuple[Tensor, ...]:
        """The biases of all blocks at all times."""
        like = next(self.parameters())
        return tuple(bias for t in self.times() for bias in self.biases_at(t, like))

    def biases_of(self, place: int) -> list[Tensor]:
        """Of the time at that place."""
        kept = self.weights()
        each = len(kept) // len(self.times())
        return list(kept[place * each : (place + 1) * each])


class ConsistencyNet(SegmentedPathNetwork):
    """The noise is drawn once from the seed and is part of the network: equal segments come out equal."""

    config: ConsistencyNetConfig
    noise: Tensor

    def __init__(self, config: ConsistencyNetConfig) -> None:
        super().__init__(config)
        self.register_buffer("noise", self._drawn(), persistent=False)

    def _drawn(self) -> Tensor:
        """``(step, 2, freq, frame)``."""
        config = self.config
        shape = (2, config.spectra.freqs, config.segment_frames)
        steps = range(config.steps if config.noise_scale else 0)
        drawn = [seeded_noise(config.noise_seed, step, shape) for step in steps]
        return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, *shape)

    @torch.no_grad()
    def take_knobs(self, config: NetworkConfig) -> None:
        super().take_knobs(config)
        self._cut()
        self.noise = self._drawn().to(self.noise.device)

    def times(self) -> list[float]:
        return self.config.times

    def evaluate(self, x: Tensor, noisy: Tensor, t: Any, biases: list[Tensor] | None = None) -> Tensor:
        """The consistency function at ``(x_t, noisy, t)``."""
        path, config = self.path, self.config
        scales = consistency_scales(path.std(t), path.std(path.t_eps), self.sigma_data, boundary=config.boundary)
        return self.scaled(scales, x, noisy, self.biases_at(t, x) if biases is None else biases)

    def enhanced(self, noisy: Tensor) -> Tensor:
        config, places = self.config, iter(range(self.config.steps))

        def consistent(x: Tensor, noisy: Tensor, t: float) -> Tensor:
            return self.evaluate(x, noisy, t, self.biases_of(next(places)))

        noises = list(self.noise[:, None].unbind(0)) if config.noise_scale else [noisy] * config.steps
        return few_steps(
            consistent, self.path, noisy, noises, config.times, renoise=config.renoise, scale=config.noise_scale
        ).spectrum  # fmt: skip


def seeded_noise(seed: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Complex noise of variance 1 for one step, whatever the number of steps.

    numpy promises never to change what its legacy generator draws (NEP 19): a runner on a device, which has no torch
    and some other numpy, draws the same.
    """
    drawn = np.random.RandomState([seed, step]).standard_normal(shape)
    return (math.sqrt(0.5) * drawn).astype(np.float32)
