"""The frame before, which a convolution over two frames keeps; tensors are ``(batch, channel, frame, freq)``."""

from __future__ import annotations

import torch
from torch import Tensor


def delayed(past: Tensor, x: Tensor) -> Tensor:
    """``x`` one frame later, ``past`` first; of a single frame no slice remains in the ONNX."""
    return past if x.shape[2] == 1 else torch.cat([past, x[:, :, :-1]], dim=2)


def last_frame(x: Tensor) -> Tensor:
    """The newest frame of ``(batch, channel, frame, freq)``; of a single frame no slice remains in the ONNX."""
    return x if x.shape[2] == 1 else x[:, :, -1:]
