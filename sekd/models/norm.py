"""Cumulative layer norm (Luo and Mesgarani 2019, Conv-TasNet, section II-D), streamable and bounded in time, and the
norms of slimmable networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from sekd.models.gates import Gate, narrowed, where_open

EPSILON = 1e-5
MIN_HORIZON = 32  # frames; the weights of a long signal grow as (h / (h - 1)) ** frames, and must stay finite


class Stats(NamedTuple):
    """Mean and variance of all past frames of a signal, each ``(batch, 1, 1, 1)``."""

    mean: Tensor
    variance: Tensor


class CumulativeNorm(nn.Module):
    """Normalises ``(batch, channel, frame, freq)`` by mean and variance of all frames so far.

    After ``horizon`` frames the running statistics forget exponentially with that time constant: a network that
    never saw a longer past in training does not meet one in use. ``None`` is the published, unlimited form.
    """

    def __init__(self, channels: int, horizon: int | None, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.horizon, self.epsilon = horizon, epsilon
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, stats: Stats, count: Tensor) -> tuple[Tensor, Stats]:
        """``x`` and what came before it in; ``x`` normalised and the statistics after it out."""
        mean, variance = self._statistics(x, stats, count)
        return self._scaled(x, mean, variance), _last(mean, variance)

    def few(self, x: Tensor, stats: Stats, shares: Tensor) -> tuple[Tensor, Stats]:
        """``forward`` for steps of several frames: few nodes in the ONNX, given the ``frame_shares`` of the step that
        all norms have in common. The statistics come out for every frame, ``(batch, 1, frame, 1)``.

        Only differences from what came before are weighted, so that rounding never adds up; in the first step, before
        which there is nothing, float32 costs the variance 1e-7 of the mean's square.
        """
        about = x - stats.mean
        shift = shares @ about.mean((1, 3), keepdim=True)
        spread = about.square().mean((1, 3), keepdim=True) - stats.variance
        variance = (stats.variance + shares @ spread - shift.square()).clamp(min=0)
        mean = stats.mean + shift
        return self._scaled(x, mean, variance), Stats(mean, variance)

    def _scaled(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return (x - mean) / (variance + self.epsilon).sqrt() * self.weight + self.bias

    def _statistics(self, x: Tensor, stats: Stats, count: Tensor, gate: Gate = True) -> tuple[Tensor, Tensor]:
        """Mean and variance at every frame; frames behind a shut gate leave them as they are."""
        if x.shape[2] > 1:
            return self._scan(x, stats, count, gate)
        mean, variance = self._update(x, stats, count)
        return where_open(gate, mean, stats.mean), where_open(gate, variance, stats.variance)

    def _update(self, x: Tensor, stats: Stats, count: Tensor) -> tuple[Tensor, Tensor]:
        """One frame: West's (1979) update, which never subtracts large sums from each other."""
        frame_mean = x.mean((1, 3), keepdim=True)
        return self._west(frame_mean, (x - frame_mean).square().mean((1, 3), keepdim=True), stats, count)

    def _west(self, frame_mean: Tensor, spread: Tensor, stats: Stats, count: Tensor) -> Stats:
        share = 1 / advance(count, 1, self.horizon)
        step = frame_mean - stats.mean
        spread = spread + (1 - share) * step.square()
        return Stats(stats.mean + share * step, stats.variance + share * (spread - stats.variance))

    def _scan(self, x: Tensor, stats: Stats, count: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
        """All frames at once: the same recursion written as weighted sums about a centre near the mean.

        Sums over a thousand frames lose three digits in float32; they are few numbers, so float64 costs nothing.
        """
        frame_mean = x.mean((1, 3), keepdim=True)  # (batch, 1, frame, 1)
        centre = torch.where(count > 0, stats.mean, frame_mean[:, :, :1])
        about = (x - centre).square().mean((1, 3), keepdim=True)
        if isinstance(gate, bool):
            share, total = frame_weights(count.double(), x.shape[2], self.horizon)
            heard = None
        else:
            heard = count.double() + gate.detach().double().cumsum(2)
            share, total = weights_of(heard.clamp(min=1), self.horizon)
            share = share * gate.detach()
        weight = share * total
        first = (stats.mean - centre) * count
        second = (stats.variance + (stats.mean - centre).square()) * count
        shift = (first + (weight * (frame_mean - centre)).cumsum(2)) / total
        square = (second + (weight * about).cumsum(2)) / total
        variance = (square - shift.square()).clamp(min=0)
        mean = centre + shift
        if heard is not None:  # before the first open frame there is nothing
            mean, variance = (torch.where(heard > 0, new, new.new_zeros(())) for new in (mean, variance))
        return mean.to(x.dtype), variance.to(x.dtype)


class SlimNorm(CumulativeNorm):
    """A ``CumulativeNorm`` with statistics of its own for each slice of the channels: shared ones would change the
    static path whenever a gate opens (slimmable networks, Yu et al. 2019, section 3). Those of the dynamic slice
    count open frames alone.

    Args:
        static: how many channels always run; None: all, and one slice.
    """

    def __init__(self, channels: int, horizon: int | None, static: int | None = None) -> None:
        super().__init__(channels, horizon)
        self.static = static
        self.memory = 2 if static is None else 5  # values to remember of a signal

    def run(self, x: Tensor, memory: Sequence[Tensor], count: Tensor, gate: Gate) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``(batch, channel, frame, freq)`` and what is remembered in, both out again; the memory and ``count``, the
        frames that came before, are numbers, ``(batch, 1, 1, 1)`` each."""
        if self.static is None:
            return self(x, Stats(*memory), count)
        if gate is True and x.shape[2] == 1:
            return self._one_open(x, memory, count)
        first, after = self._slice(narrowed(x, self.static), Stats(*memory[:2]), count, True, slice(self.static))
        if gate is False:
            return first, (*after, *memory[2:])
        *before, counted = memory[2:]
        rest = slice(self.static, None)
        second, then = self._slice(x[:, self.static :], Stats(*before), counted, gate, rest)
        seen = x.shape[2] if gate is True else gate.detach().sum(2, keepdim=True)
        return torch.cat([first, second], dim=1), (*after, *then, advance(counted, seen, self.horizon))

    def _one_open(self, x: Tensor, memory: Sequence[Tensor], count: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A single open frame: both slices in one update of two numbers, for in the ONNX every node counts."""
        assert self.static is not None
        first, second, rare = memory[:2], memory[2:4], memory[4]
        before = Stats(*(torch.cat(pair, dim=1) for pair in zip(first, second, strict=True)))
        counts = torch.cat([count, rare], dim=1)
        parts = x.split([self.static, x.shape[1] - self.static], dim=1)
        means = [part.mean((1, 3), keepdim=True) for part in parts]
        spreads = [(part - mean).square().mean((1, 3), keepdim=True) for part, mean in zip(parts, means, strict=True)]
        after = self._west(torch.cat(means, dim=1), torch.cat(spreads, dim=1), before, counts)
        shifts, scales = after.mean.split(1, dim=1), (after.variance + self.epsilon).sqrt().split(1, dim=1)
        each = zip(parts, shifts, scales, strict=True)
        out = torch.cat([(part - shift) / scale for part, shift, scale in each], dim=1) * self.weight + self.bias
        (mean, rare_mean), (variance, rare_variance) = shifts, after.variance.split(1, dim=1)
        return out, (mean, variance, rare_mean, rare_variance, advance(rare, 1, self.horizon))

    def _slice(self, x: Tensor, stats: Stats, count: Tensor, gate: Gate, channels: slice) -> tuple[Tensor, Stats]:
        mean, variance = self._statistics(x, stats, count, gate)
        out = (x - mean) / (variance + self.epsilon).sqrt() * self.weight[channels] + self.bias[channels]
        return (out if isinstance(gate, bool) else out * gate), _last(mean, variance)


class SlimLayerNorm(nn.LayerNorm):
    """Normalises the channels of ``(batch, channel, frame, freq)`` at each frame and frequency, each slice by its own
    statistics (see ``SlimNorm``).

    Args:
        static: how many channels always run; None: all, and one slice.
    """

    def __init__(self, channels: int, static: int | None = None) -> None:
        super().__init__(channels)
        self.slices = [channels] if static is None else [static, channels - static]

    def forward(self, x: Tensor, gate: Gate = True) -> Tensor:
        """Where the gate is shut, the static channels alone; under one of zeros and ones, all as if it were open."""
        slices = self.slices[:1] if gate is False else self.slices
        x = narrowed(x, sum(slices)).permute(0, 2, 3, 1)
        if len(self.slices) == 1:
            return layer_norm(x, (slices[0],), self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
        scales, shifts = self.weight.split(self.slices), self.bias.split(self.slices)
        each = zip(x.split(slices, dim=-1), slices, scales, shifts, strict=False)
        normed = [layer_norm(part, (width,), scale, shift, self.eps) for part, width, scale, shift in each]
        return torch.cat(normed, dim=-1).permute(0, 3, 1, 2)


def _last(mean: Tensor, variance: Tensor) -> Stats:
    if mean.shape[2] == 1:
        return Stats(mean, variance)
    return Stats(mean[:, :, -1:], variance[:, :, -1:])


def advance(count: Tensor, frames: int | Tensor, horizon: int | None) -> Tensor:
    """Number of frames behind the statistics after ``frames`` more."""
    return count + frames if horizon is None else (count + frames).clamp(max=horizon)


def frame_weights(count: Tensor, frames: int, horizon: int | None) -> tuple[Tensor, Tensor]:
    """Share of each new frame in the statistics, and the sum of weights up to it, ``(batch, 1, frame, 1)``."""
    return weights_of(count + torch.arange(1, frames + 1, device=count.device, dtype=count.dtype)[:, None], horizon)


def weights_of(number: Tensor, horizon: int | None) -> tuple[Tensor, Tensor]:
    """Share in the statistics of the frame that is the ``number``-th, and the sum of weights up to it."""
    if horizon is None:
        return 1 / number, number
    beyond = (number - horizon).clamp(min=0)
    held = number.clamp(max=horizon)
    return 1 / held, held * (horizon / (horizon - 1)) ** beyond


def frame_shares(count: Tensor, frames: int, horizon: int | None) -> Tensor:
    """Share of each new frame in the statistics after itself and after each later one, ``(batch, 1, after, frame)``."""
    share, total = frame_weights(count, frames, horizon)
    return ((share * total).transpose(2, 3) / total).tril()
