"""Cumulative layer norm (Luo and Mesgarani 2019, Conv-TasNet, section II-D), streamable and bounded in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-5


class CumulativeNorm(nn.Module):
    """Normalises ``(batch, channel, frame, freq)`` by mean and variance of all frames so far.

    After ``horizon`` frames the running statistics forget exponentially with that time constant: a network that
    never saw a longer past in training does not meet one in use. ``None`` is the published, unlimited form.
    The statistics of one signal are ``(mean, variance)`` and the number of frames behind them.
    """

    def __init__(self, channels: int, horizon: int | None) -> None:
        super().__init__()
        self.horizon = horizon
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, stats: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """``stats (batch, 2)`` and ``count (batch, 1)`` before ``x``; the normalised ``x`` and stats after it."""
        if x.shape[2] == 1:
            mean, variance = self._update(x, stats, count)
        else:
            mean, variance = self._scan(x, stats, count)
        scaled = (x - mean[:, None, :, None]) / (variance[:, None, :, None] + EPSILON).sqrt()
        after = torch.cat([mean[:, -1:], variance[:, -1:]], dim=1)
        return scaled * self.weight + self.bias, after

    def _update(self, x: Tensor, stats: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """One frame: West's (1979) update, which never subtracts large sums from each other."""
        mean, variance = stats[:, :1], stats[:, 1:]
        share = 1 / advance(count, 1, self.horizon)
        frame_mean = x.mean((1, 3))
        frame_variance = (x - frame_mean[:, None, :, None]).square().mean((1, 3))
        step = frame_mean - mean
        spread = frame_variance + (1 - share) * step.square()
        return mean + share * step, variance + share * (spread - variance)

    def _scan(self, x: Tensor, stats: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """All frames at once: the same recursion written as weighted sums about a centre near the mean."""
        frame_mean = x.mean((1, 3))  # (batch, frame)
        centre = torch.where(count > 0, stats[:, :1], frame_mean[:, :1])
        about = (x - centre[:, None, :, None]).square().mean((1, 3))
        share, total = self._weights(count, x.shape[2])
        weight = share * total
        first = (stats[:, :1] - centre) * count
        second = (stats[:, 1:] + (stats[:, :1] - centre).square()) * count
        shift = (first + (weight * (frame_mean - centre)).cumsum(1)) / total
        square = (second + (weight * about).cumsum(1)) / total
        return centre + shift, (square - shift.square()).clamp(min=0)

    def _weights(self, count: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Share of each new frame in the statistics, and the sum of weights up to it, ``(batch, frame)``."""
        number = count + torch.arange(1, frames + 1, device=count.device, dtype=count.dtype)
        if self.horizon is None:
            return 1 / number, number
        beyond = (number - self.horizon).clamp(min=0)
        held = number.clamp(max=self.horizon)
        return 1 / held, held * (self.horizon / (self.horizon - 1)) ** beyond


def advance(count: Tensor, frames: int, horizon: int | None) -> Tensor:
    """Number of frames behind the statistics after ``frames`` more."""
    return count + frames if horizon is None else (count + frames).clamp(max=horizon)
