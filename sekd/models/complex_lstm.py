"""The complex LSTM of DCCRN-CL (Hu et al. 2020, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sekd.models.complex_layers import ComplexLinear, Tensors


class ComplexLstm(nn.Module):
    """Two real LSTMs, each run over both parts, and a complex linear layer back to the width (Hu et al., eq. 5)."""

    LAYERS = 2
    PARTS = 4 * LAYERS  # output and cell of each layer of each LSTM

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        inputs = [width] + [hidden] * (self.LAYERS - 1)
        self.real = nn.ModuleList(nn.LSTM(size, hidden) for size in inputs)
        self.imag = nn.ModuleList(nn.LSTM(size, hidden) for size in inputs)
        self.out = ComplexLinear(hidden, width)

    @property
    def state_size(self) -> int:
        return self.PARTS * 2 * self.hidden

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """``(batch, channel, frame, freq)`` and ``(batch, state_size)`` in, both out again."""
        batch, channels, frames, freqs = x.shape
        flat = self._parts_as_signals(x)
        memory = self._unpack(cache).split(1)
        real, after_real = _layers(self.real, flat, memory[: 2 * self.LAYERS])
        imag, after_imag = _layers(self.imag, flat, memory[2 * self.LAYERS :])
        # Of the real and of the imaginary part, through the LSTM of real and through that of imaginary weights.
        rr, ri = real.reshape(frames, batch, -1).split(self.hidden, dim=2)
        ir, ii = imag.reshape(frames, batch, -1).split(self.hidden, dim=2)
        out = self.out(torch.cat([rr - ii, ri + ir], dim=2))
        return self._as_grid(out, channels, freqs), self._pack(torch.cat([*after_real, *after_imag]))

    def _parts_as_signals(self, x: Tensor) -> Tensor:
        """``(frame, 2 batch, value)``, real and imaginary part as two signals; one frame needs no transposition."""
        batch, channels, frames, freqs = x.shape
        if frames == 1:
            return x.reshape(1, 2 * batch, -1)
        return x.reshape(2 * batch, channels // 2, frames, freqs).permute(2, 0, 1, 3).reshape(frames, 2 * batch, -1)

    def _as_grid(self, flat: Tensor, channels: int, freqs: int) -> Tensor:
        frames, batch, _ = flat.shape
        if frames == 1:
            return flat.reshape(batch, channels, 1, freqs)
        return flat.reshape(frames, batch, channels, freqs).permute(1, 2, 0, 3)

    def _unpack(self, cache: Tensor) -> Tensor:
        """``(part, 2 batch, hidden)``; of one signal no transposition remains in the ONNX."""
        if cache.shape[0] == 1:
            return cache.reshape(self.PARTS, 2, self.hidden)
        return cache.reshape(-1, self.PARTS, 2 * self.hidden).transpose(0, 1).reshape(self.PARTS, -1, self.hidden)

    def _pack(self, parts: Tensor) -> Tensor:
        if parts.shape[1] == 2:
            return parts.reshape(1, -1)
        return parts.reshape(self.PARTS, -1, 2 * self.hidden).transpose(0, 1).flatten(1)


def _layers(lstms: nn.ModuleList, x: Tensor, memory: Tensors) -> tuple[Tensor, list[Tensor]]:
    """One LSTM after the other; ``memory`` holds output and cell of each, before and then after ``x``."""
    after: list[Tensor] = []
    for lstm, output, cell in zip(lstms, memory[::2], memory[1::2], strict=True):
        x, last = lstm(x, (output, cell))
        after += last
    return x, after
