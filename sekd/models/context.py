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


def unpacked(cache: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Single frames of that many channels and frequencies, which lie one after the other in ``(batch, value)``."""
    parts = cache.split([channels * freqs for channels, freqs in shapes], dim=1)
    return [part.reshape(-1, channels, 1, freqs) for part, (channels, freqs) in zip(parts, shapes, strict=True)]
