"""Complex masks, whose real and imaginary parts are two channels of ``(batch, channel, frame, freq)``."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-10  # added to the mask's power: its phase is finite, and so is the gradient, where the mask is 0


def bounded(mask: Tensor) -> Tensor:
    """The magnitude through tanh, the phase as it is (Hu et al., DCCRN-E)."""
    magnitude = (mask.square().sum(1, keepdim=True) + SMALLEST).sqrt()
    return mask * (torch.tanh(magnitude) / magnitude)


def masked(spectrum: Tensor, mask: Tensor) -> Tensor:
    """The product of complex numbers whose parts are two channels."""
    (xr, xi), (mr, mi) = spectrum.split(1, dim=1), mask.split(1, dim=1)
    return torch.cat([xr * mr - xi * mi, xr * mi + xi * mr], dim=1)
