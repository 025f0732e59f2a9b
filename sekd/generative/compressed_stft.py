"""The spectra that generative networks see: an STFT whose magnitudes are compressed (Richter et al. 2023, SGMSE+).

A spectrum is real, ``(batch, 2, freq, frame)`` with real and imaginary part as channels, so that it can be exported.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sekd.config import Frozen

TINY = 1e-12  # energy below which magnitudes are not told apart: roots have no gradient at zero


class SpectraConfig(Frozen):
    """510 samples give 256 bins, which halve; published are hops of 128 (SGMSE+) and 64 samples (MeCo)."""

    n_fft: int = Field(510, ge=4)
    hop: int = Field(256, ge=1)
    alpha: float = Field(0.5, gt=0, le=1)  # exponent of the magnitude
    beta: float = Field(0.15, gt=0)  # factor after it

    @model_validator(mode="after")
    def _fits(self) -> SpectraConfig:
        if self.n_fft % 2:
            raise ValueError(f"n_fft = {self.n_fft} must be even")
        if self.hop > self.n_fft // 2 + 1:
            raise ValueError(f"hop = {self.hop} must be at most half of n_fft = {self.n_fft}, plus one")
        return self

    @property
    def freqs(self) -> int:
        return self.n_fft // 2 + 1


class CompressedStft(nn.Module):
    """Waves to compressed spectra and back; frames are centred on multiples of the hop, the edges reflected.

    The transforms are products with a cosine and a sine matrix, each used in both directions: they export as plain
    products, which every runtime has, and 510 points are no power of two.
    """

    cosine: Tensor
    sine: Tensor
    window: Tensor
    halves: Tensor

    def __init__(self, config: SpectraConfig) -> None:
        super().__init__()
        self.config = config
        points = torch.arange(config.freqs, dtype=torch.float64)
        angles = 2 * math.pi / config.n_fft * torch.outer(points, points)
        halves = torch.ones(config.freqs, dtype=torch.float64)
        halves[0] = halves[-1] = 0.5  # of what is folded onto itself
        window = torch.hann_window(config.n_fft, dtype=torch.float64)
        tables = {"cosine": angles.cos(), "sine": angles.sin(), "halves": halves, "window": window}
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def analyse(self, wave: Tensor) -> Tensor:
        """``(batch, sample)``, whole hops and more than half a frame, to ``(batch, 2, freq, frame)``."""
        return self.compress(self.transform(wave))

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """``(batch, 2, freq, frame)`` to ``(batch, (frame - 1) * hop)`` samples."""
        return self.invert(self.expand(spectrum))

    def compress(self, spectrum: Tensor) -> Tensor:
        """``beta |S|^alpha`` for each magnitude, the phase as it is."""
        energy = spectrum.square().sum(1, keepdim=True) + TINY
        return self.config.beta * energy ** ((self.config.alpha - 1) / 2) * spectrum

    def expand(self, spectrum: Tensor) -> Tensor:
        """The inverse of ``compress``, written so that nothing is divided by a magnitude."""
        alpha, beta = self.config.alpha, self.config.beta
        energy = spectrum.square().sum(1, keepdim=True) + TINY
        return beta ** (-1 / alpha) * energy ** ((1 / alpha - 1) / 2) * spectrum

    def transform(self, wave: Tensor) -> Tensor:
        """The STFT of ``(batch, sample)``, ``(batch, 2, freq, frame)``."""
        half, hop = self.config.n_fft // 2, self.config.hop
        pieces = -(-self.config.n_fft // hop)
        frames = int(wave.shape[1]) // hop + 1  # int: a constant in exports
        reflected = [wave[:, 1 : half + 1].flip(1), wave, wave[:, -half - 1 : -1].flip(1)]
        length = (frames - 1 + pieces) * hop
        padded = _lengthened(torch.cat(reflected, dim=1), length, dim=1)[:, :length]
        rows = padded.reshape(wave.shape[0], -1, hop)
        framed = torch.cat([rows[:, k : k + frames] for k in range(pieces)], dim=2)[:, :, : self.config.n_fft]
        framed = framed * self.window
        first, mirrored = framed[:, :, : half + 1], _mirrored(framed)
        real = ((first + mirrored) * self.halves) @ self.cosine
        imaginary = (mirrored - first) @ self.sine
        return torch.stack([real, imaginary], dim=1).transpose(2, 3)

    def invert(self, spectrum: Tensor) -> Tensor:
        """The wave ``(batch, sample)`` whose STFT comes nearest to ``spectrum`` (Griffin and Lim 1984, eq. 6)."""
        n_fft, hop = self.config.n_fft, self.config.hop
        real, imaginary = spectrum.transpose(2, 3).unbind(1)
        even = (real * self.halves) @ self.cosine
        odd = imaginary @ self.sine
        forward, backward = even - odd, even + odd
        framed = torch.cat([forward, backward[:, :, 1:-1].flip(2)], dim=2) * (2 / n_fft)
        frames = int(framed.shape[1])
        weights = torch.from_numpy(_window_sums(n_fft, hop, frames)).to(framed)
        summed = self._overlapped(framed * self.window) / weights
        return summed[:, n_fft // 2 : n_fft // 2 + (frames - 1) * hop]

    def _overlapped(self, framed: Tensor) -> Tensor:
        """Frames ``(batch, frame, n_fft)`` added where they overlap, ``(batch, sample)``."""
        hop, pieces = self.config.hop, -(-self.config.n_fft // self.config.hop)
        rows = int(framed.shape[1]) + pieces - 1
        padded = _lengthened(framed, pieces * hop, dim=2)
        parts = [padded[:, :, k * hop : (k + 1) * hop] for k in range(pieces)]
        total = _lengthened(parts[0], rows, dim=1)
        for k, part in enumerate(parts[1:], start=1):
            total = total + _lengthened(part, rows, dim=1, before=k)
        return total.flatten(1)


def _lengthened(x: Tensor, length: int, *, dim: int, before: int = 0) -> Tensor:
    """Zeros around ``x``, ``before`` of them and then as many as it takes; a pad would not be constant in exports."""
    missing = (before, max(0, length - before - int(x.shape[dim])))
    zeros = [x.new_zeros([count if d == dim else int(size) for d, size in enumerate(x.shape)]) for count in missing]
    parts = [part for part, count in zip((zeros[0], x, zeros[1]), (before, 1, missing[1]), strict=True) if count]
    return torch.cat(parts, dim=dim)


def _mirrored(framed: Tensor) -> Tensor:
    """Sample ``-n`` of each frame, counted round, for ``n`` from 0 to the middle."""
    first, middle = framed[:, :, :1], framed.shape[2] // 2
    return torch.cat([first, framed[:, :, middle:].flip(2)], dim=2)


@lru_cache(maxsize=64)
def _window_sums(n_fft: int, hop: int, frames: int) -> np.ndarray:
    """Sum of the squared windows over each sample, ``(1, sample)``; of the shape alone, hence a constant in exports."""
    squares = np.square(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft))
    sums = np.zeros((1, (frames - 1 + -(-n_fft // hop)) * hop), np.float32)
    for frame in range(frames):
        sums[0, frame * hop : frame * hop + n_fft] += squares
    return np.maximum(sums, 1e-6)
