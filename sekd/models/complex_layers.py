"""Layers of complex numbers, computed as layers of real ones with both parts as channels, real parts first.

Each keeps two real layers, as published (Hu et al. 2020, section 2.2): ``(r + ji)(x + jy) = rx - iy + j(ry + ix)``.
One real layer whose matrix is ``[[r, -i], [i, r]]`` makes the same four products in one call.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sekd.models.settled import ComputedWeights

KERNEL = (2, 5)  # frames, frequencies; the stride is 1 in time and 2 in frequency
EPSILON = 1e-5
MOMENTUM = 0.1  # share of the newest batch in the running statistics

Tensors = tuple[Tensor, ...]


def combined(real: Tensor, imag: Tensor, *, out: int, inward: int) -> Tensor:
    """The matrix of both parts from those of each; ``out`` and ``inward`` are the dimensions of its channels."""
    return torch.cat([torch.cat([real, -imag], inward), torch.cat([imag, real], inward)], out)


def combined_bias(layers: ComplexTransposed | ComplexLinear) -> Tensor:
    """Of both parts: each of the two real layers adds its own to each of the two products it makes."""
    real, imag = layers.real.bias, layers.imag.bias
    assert real is not None and imag is not None
    return torch.cat([real - imag, real + imag])


class ComplexConv(nn.Module):
    """Halves the frequencies; over two frames, the present and the one before."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.real = nn.Conv2d(inputs, outputs, KERNEL, bias=False)
        self.imag = nn.Conv2d(inputs, outputs, KERNEL, bias=False)

    def kernel(self, gain: Tensor | None = None) -> Tensor:
        """``(output, input, *KERNEL)`` over real channels, those that come out times ``gain``."""
        weight = combined(self.real.weight, self.imag.weight, out=0, inward=1)
        return weight if gain is None else weight * gain[:, None, None, None]

    def forward(self, past: Tensors, x: Tensors, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """``past`` holds the frame before ``x``, input by input."""
        both = torch.cat([*past, *x], 2)
        return functional.conv2d(both, kernel, bias, stride=(1, 2), padding=(0, 2))


class ComplexTransposed(nn.Module):
    """Doubles the frequencies of two inputs of ``inputs`` complex channels each; causal like ``ComplexConv``."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.inputs = inputs
        self.real = nn.ConvTranspose2d(2 * inputs, outputs, KERNEL, bias=bias)
        self.imag = nn.ConvTranspose2d(2 * inputs, outputs, KERNEL, bias=bias)

    def kernel(self, gain: Tensor | None = None) -> Tensor:
        """``(input, output, *KERNEL)`` over real channels, those that come out times ``gain``."""
        parts = zip(self.real.weight.split(self.inputs), self.imag.weight.split(self.inputs), strict=True)
        weight = torch.cat([combined(*part, out=1, inward=0) for part in parts])
        return weight if gain is None else weight * gain[:, None, None]

    def forward(self, past: Tensors, x: Tensors, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """``past`` holds the frame before ``x``, input by input."""
        if x[0].shape[2] == 1:
            # Over time it would also compute the frames before and after, only to drop them: half of all products.
            both = torch.cat([*past, *x], 1)
            kernel = torch.cat([kernel[:, :, 1:], kernel[:, :, :1]])
            return _upsampled(both, kernel, bias)
        both = torch.cat([torch.cat(past, 1), torch.cat(x, 1)], 2)
        return _upsampled(both, kernel, bias)[:, :, 1:-1]


def _upsampled(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Twice the frequencies."""
    return functional.conv_transpose2d(x, kernel, bias, stride=(1, 2), padding=(0, 2), output_padding=(0, 1))


class NormedPrelu(nn.Module):
    """Batch norm of each real channel, then a PReLU with one slope for real and one for imaginary parts.

    In use, the norm is a fixed gain and offset (``affine``), which the convolution before it takes in.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2 * channels))
        self.bias = nn.Parameter(torch.zeros(2 * channels))
        self.slope = nn.Parameter(torch.full((2,), 0.25))
        self.register_buffer("mean", torch.zeros(2 * channels))
        self.register_buffer("variance", torch.ones(2 * channels))

    def affine(self) -> tuple[Tensor, Tensor]:
        gain = self.weight / (self.variance + EPSILON).sqrt()
        return gain, self.bias - self.mean * gain

    def norm(self, x: Tensor) -> Tensor:
        """By the statistics of this batch, which the running ones follow."""
        return functional.batch_norm(
            x, self.mean, self.variance, self.weight, self.bias, training=True, momentum=MOMENTUM, eps=EPSILON
        )

    def slopes(self) -> Tensor:
        """Of each real channel."""
        return self.slope[:, None].expand(2, len(self.bias) // 2).reshape(-1)


class ComplexBlock(ComputedWeights):
    """A convolution, its norm and its activation."""

    def __init__(self, conv: ComplexConv | ComplexTransposed, channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.after = NormedPrelu(channels)

    def computed(self) -> Tensors:
        gain, offset = self.after.affine()
        return self.conv.kernel(gain), offset, self.after.slopes()

    def forward(self, past: Tensors, x: Tensors) -> Tensor:
        if self.training:
            normed = self.after.norm(self.conv(past, x, self.conv.kernel(), None))
            return functional.prelu(normed, self.after.slopes())
        kernel, offset, slopes = self.weights()
        return functional.prelu(self.conv(past, x, kernel, offset), slopes)


class ComplexOutput(ComputedWeights):
    """The last transposed convolution: no norm, no activation, but a bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ComplexTransposed(inputs, outputs, bias=True)

    def computed(self) -> Tensors:
        return self.conv.kernel(), combined_bias(self.conv)

    def forward(self, past: Tensors, x: Tensors) -> Tensor:
        return self.conv(past, x, *self.weights())


class ComplexLinear(ComputedWeights):
    """Over the last dimension, real parts first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.real = nn.Linear(inputs, outputs)
        self.imag = nn.Linear(inputs, outputs)

    def computed(self) -> Tensors:
        return combined(self.real.weight, self.imag.weight, out=0, inward=1), combined_bias(self)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, *self.weights())


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
