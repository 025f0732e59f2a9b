"""Networks that know a time: what diffusion and consistency models are built around (Song et al. 2021, NCSN++).

All take spectra as channels and give back one, real and imaginary part: ``(batch, channels, freq, frame)`` to
``(batch, 2, freq, frame)``. The time reaches each block as a bias for each of its channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

FOURIER_FEATURES = 16


class TimedNetwork(nn.Module, ABC):
    """A network whose blocks are shifted by biases that depend on the time alone."""

    frame_stride: int  # the number of frames must be a multiple of it
    freq_stride: int

    @abstractmethod
    def biases(self, t: Tensor) -> list[Tensor]:
        """One ``(batch, channel, 1, 1)`` for each block, from times ``(batch,)``."""

    @abstractmethod
    def forward(self, x: Tensor, biases: list[Tensor]) -> Tensor:
        """``(batch, channel, freq, frame)`` to ``(batch, 2, freq, frame)``."""


class TimeEmbedding(nn.Module):
    """Gaussian Fourier features of the logarithm of a time, and two layers."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(FOURIER_FEATURES))
        self.layers = nn.Sequential(nn.Linear(2 * FOURIER_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """``(batch,)`` to ``(batch, width)``."""
        angles = 2 * math.pi * t.log()[:, None] * self.get_buffer("frequencies")
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))
