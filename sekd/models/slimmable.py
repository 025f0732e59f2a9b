"""Convolutions and fully connected layers of which a static slice can run alone (see ``sekd.models.gates``).

With a gate that is shut neither the dynamic outputs are computed nor the dynamic inputs read, those of the frame before
included. Tensors are ``(batch, channel, frame, freq)``, static channels first. Under a gate of zeros and ones all
outputs come out as if it were open, for a norm may follow, and gates learn from what would have been: the caller masks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, linear

from sekd.models.context import delayed
from sekd.models.gates import Gate, masked, narrowed


class SlimConv(nn.Conv2d):
    """A causal convolution over (time, frequency) whose kernel spans one frame or two.

    Args:
        static: how many inputs and outputs always run; None: all of them.
        thin: whether inputs have the gate of the outputs, so that both are skipped together (gate_scope = "frame").
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        static: tuple[int, int] | None = None,
        thin: bool = True,
        stride: int = 1,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=(1, stride), padding=(0, kernel[1] // 2))
        self.static_in, self.static_out = static or (inputs, outputs)
        self.thin = thin

    def forward(self, x: Tensor, past: Tensor | None = None, gate: Gate = True) -> Tensor:
        """``x`` and the frame before its first, of which the channels that ``x`` has are read."""
        if gate is False:
            weight = self.weight[: self.static_out, : x.shape[1]]
            bias = None if self.bias is None else self.bias[: self.static_out]
            return conv2d(_with_past(x, past), weight, bias, self.stride, self.padding)
        if past is None or gate is True or not self.thin:
            return conv2d(_with_past(x, past), self.weight, self.bias, self.stride, self.padding)
        # The frame before counts by the gate of this one, hence both stand side by side as channels.
        before = masked(delayed(past, x), gate, self.static_in)
        weight = torch.cat([self.weight[:, :, :1], self.weight[:, :, 1:]], dim=1)
        return conv2d(torch.cat([before, x], dim=1), weight, self.bias, self.stride, self.padding)


def _with_past(x: Tensor, past: Tensor | None) -> Tensor:
    return x if past is None else torch.cat([narrowed(past, x.shape[1]), x], dim=2)


class SlimConvTranspose(nn.ConvTranspose2d):
    """A causal transposed convolution over two frames and three frequencies that doubles the frequencies.

    Args:
        static, thin: as for ``SlimConv``.
        even: whether twice as many frequencies come out, or twice as many less one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        static: tuple[int, int] | None = None,
        thin: bool = True,
        even: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, (2, 3), stride=(1, 2), padding=(0, 1), output_padding=(0, int(even)))
        self.static_in, self.static_out = static or (inputs, outputs)
        self.thin = thin

    def forward(self, x: Tensor, past: Tensor, gate: Gate = True) -> Tensor:  # type: ignore[override]
        """``x`` and the frame before its first, of which the channels that ``x`` has are read.

        One convolution over frequency with both frames as channels: run over time it would also compute the frames
        before the first and after the last, only to drop them.
        """
        kernel, bias = self.weight, self.bias
        if gate is False:
            kernel, bias = kernel[: x.shape[1], : self.static_out], None if bias is None else bias[: self.static_out]
        before = delayed(narrowed(past, x.shape[1]), x)
        if self.thin:
            before = masked(before, gate, self.static_in)
        weight = torch.cat([kernel[:, :, 1:], kernel[:, :, :1]])
        both = torch.cat([before, x], dim=1)
        padding = self.output_padding
        return conv_transpose2d(both, weight, bias, self.stride, self.padding, padding)  # type: ignore[arg-type]


class SlimLinear(nn.Linear):
    """A fully connected layer over the last dimension, ``(..., width)``."""

    def __init__(self, inputs: int, outputs: int, *, static: tuple[int, int] | None = None) -> None:
        super().__init__(inputs, outputs)
        self.static_in, self.static_out = static or (inputs, outputs)

    def forward(self, x: Tensor, gate: Gate = True) -> Tensor:
        if gate is False:
            return linear(x, self.weight[: self.static_out, : x.shape[-1]], self.bias[: self.static_out])
        return linear(x, self.weight, self.bias)
