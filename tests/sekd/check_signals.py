"""The signals behind the published check values of the distillation losses."""

from __future__ import annotations

import numpy as np
import torch


def generator(seed: int, count: int) -> np.ndarray:
    """The linear congruential generator of the check values."""
    values, x = np.empty(count), seed
    for n in range(count):
        x = (1103515245 * x + 12345) % 2**31
        values[n] = x / 2**31 - 0.5
    return values


def make_signals() -> tuple[torch.Tensor, ...]:
    u = np.arange(16000) / 16000
    envelope = 0.5 * (1 - np.cos(2 * np.pi * 3 * u))
    made = []
    for b in range(2):
        tones = (
            0.30 * np.sin(2 * np.pi * (200 + 40 * b) * u)
            + 0.15 * np.sin(2 * np.pi * (1500 + 100 * b) * u + 0.5)
            + 0.08 * np.sin(2 * np.pi * (4000 - 300 * b) * u + 1.0)
        )
        clean = envelope * tones
        w, v = generator(1 + b, 16000), generator(101 + b, 16000)
        teacher = 0.95 * clean + 0.02 * w + 0.03 * np.sin(2 * np.pi * 2500 * u)
        made.append((0.85 * clean + 0.06 * w + 0.02 * v, clean, teacher))
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
