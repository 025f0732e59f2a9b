"""DCCRN-CL (Hu et al. 2020, section 2): complex convolutions around a complex LSTM, in the sizes of asteroid 0.7."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from sekd.models.base import Block, NetworkConfig, SpectralEnhancer, State
from sekd.models.complex_layers import ComplexBlock, ComplexConv, ComplexOutput, ComplexTransposed
from sekd.models.complex_lstm import ComplexLstm
from sekd.models.complex_mask import bounded, masked
from sekd.models.context import last_frame
from sekd.models.settled import ComputedWeights

MULTIPLIERS = (1, 2, 4, 8, 8, 8)


class DccrnConfig(NetworkConfig):
    """``width`` 8 with ``rnn_width`` 32 is the 231 k student of CLSKD (Cheng et al. 2022); 32 with 128 is the 3.67 M
    teacher, asteroid's DCCRN-CL. Channels count real and imaginary parts, as published: two make a complex one."""

    family: Literal["dccrn"] = "dccrn"
    width: int = 8  # channels of the first block; the next have 2, 4, 8, 8 and 8 times as many
    depth: int = 6
    channels: tuple[int, ...] | None = None  # says all widths, instead of width and depth
    rnn_width: int = 32  # complex
    n_fft: int = 512
    window_length: int = 400
    hop: int = 100

    @property
    def widths(self) -> tuple[int, ...]:
        return self.channels or tuple(self.width * m for m in MULTIPLIERS[: self.depth])

    @property
    def freqs(self) -> tuple[int, ...]:
        """Frequencies at the input (the Nyquist bin is left out) and after each encoder block."""
        return tuple(self.n_fft // 2 ** (level + 1) for level in range(len(self.widths) + 1))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every encoder block, the LSTM, every decoder block; the last is the mask."""
        return tuple(Block(self.hop, freqs) for freqs in (*self.freqs[1:], self.freqs[-1], *self.freqs[-2::-1]))

    @model_validator(mode="after")
    def _consistent(self) -> DccrnConfig:
        if not 1 <= self.depth <= len(MULTIPLIERS):
            raise ValueError(f"depth = {self.depth} must be 1 to {len(MULTIPLIERS)}")
        if min(self.widths) < 2 or any(width % 2 for width in self.widths):
            raise ValueError("widths must be even, real and imaginary parts, and at least 2")
        if self.rnn_width < 1:
            raise ValueError(f"rnn_width = {self.rnn_width} must be at least 1")
        if self.n_fft < 1 or self.n_fft % 2 ** (len(self.widths) + 1):
            raise ValueError(f"n_fft = {self.n_fft} does not halve {len(self.widths) + 1} times")
        if not 1 <= self.window_length <= self.n_fft or self.window_length % 2:
            raise ValueError(f"window_length = {self.window_length} must be even and at most n_fft = {self.n_fft}")
        if self.hop < 1 or self.window_length % self.hop or self.window_length == self.hop:
            raise ValueError(f"window_length = {self.window_length} must be a multiple of hop = {self.hop}, not equal")
        return self


class Dccrn(SpectralEnhancer):
    """A complex mask, applied to the noisy spectrum; tensors inside are ``(batch, channel, frame, freq)``, the real
    parts of all channels first.

    Looks ahead no frame: every convolution takes the present frame and the one before. The published network takes
    the next frame in each of its six decoder blocks instead, 37.5 ms in all; sizes and products are the same.
    """

    config: DccrnConfig

    def __init__(self, config: DccrnConfig) -> None:
        super().__init__(config.n_fft, config.hop, config.window_length)
        self.config = config
        widths = [2, *config.widths]  # of the signal, then of each level
        levels = [(outer // 2, inner // 2) for outer, inner in pairwise(widths)]
        self.encoder = nn.ModuleList(ComplexBlock(ComplexConv(outer, inner), inner) for outer, inner in levels)
        self.lstm = ComplexLstm(levels[-1][1] * config.freqs[-1], config.rnn_width)
        self.decoder = nn.ModuleList(
            ComplexBlock(ComplexTransposed(inner, outer), outer) for outer, inner in reversed(levels[1:])
        )
        self.mask = ComplexOutput(levels[0][1], levels[0][0])
        self._context = self._context_shapes()

    def _context_shapes(self) -> list[tuple[int, int]]:
        """Channels and frequencies of the past frame that is kept of the input, of each encoder block and of what
        enters each decoder block beside it."""
        grids = list(zip((2, *self.config.widths), self.config.freqs, strict=True))
        return grids + grids[:0:-1]

    def state_sizes(self) -> tuple[int, int, int]:
        return sum(c * f for c, f in self._context), 1, self.lstm.state_size

    def weight_bytes(self) -> int:
        """As exported: both parts of a convolution or linear layer twice, the norm inside."""
        computed = [
            weight for layer in self.modules() if isinstance(layer, ComputedWeights) for weight in layer.weights()
        ]
        recurrent = [*self.lstm.real.parameters(), *self.lstm.imag.parameters()]
        return 4 * sum(weight.numel() for weight in [*computed, *recurrent])

    def frames(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        past = self._unpack_context(state.conv_cache)
        noisy = spectrum.permute(0, 3, 2, 1)[..., :-1]
        levels = [noisy]
        for k, block in enumerate(self.encoder):
            levels.append(self.tap(block((past[k],), (levels[-1],))))
        x, memory = self.lstm(levels[-1], state.inter_cache)
        self.tap(x)
        kept = [last_frame(level) for level in levels]
        depth = len(self.encoder)
        for k, block in enumerate([*self.decoder, self.mask]):
            kept.append(last_frame(x))
            x = block((past[depth + 1 + k], past[depth - k]), (x, levels[depth - k]))
            if k < depth - 1:
                self.tap(x)
        enhanced = masked(noisy, self.tap(bounded(x)))
        unused = state.tra_cache + 0  # a file without it would have two states, and sherpa-onnx carries three
        following = State(torch.cat([frame.flatten(1) for frame in kept], dim=1), unused, memory)
        nyquist = enhanced.new_zeros(enhanced.shape[:3] + (1,))
        return torch.cat([enhanced, nyquist], dim=3).permute(0, 3, 2, 1), following

    def _unpack_context(self, cache: Tensor) -> list[Tensor]:
        parts = cache.split([c * f for c, f in self._context], dim=1)
        return [part.reshape(-1, c, 1, f) for part, (c, f) in zip(parts, self._context, strict=True)]
