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
