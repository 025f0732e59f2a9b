"""Fixed matrices between STFT bins and mel bands (HTK scale, unit-peak triangles)."""

from __future__ import annotations

import torch
from torch import Tensor

from sekd.models.base import SAMPLE_RATE

LOWEST_HZ = 50.0


def mel_matrix(bands: int, n_fft: int) -> Tensor:
    """Triangles from 50 Hz to 8 kHz, ``(band, freq)``, evaluated at the centres of the bins."""
    top = SAMPLE_RATE / 2
    edges = _to_hz(torch.linspace(_to_mel(LOWEST_HZ), _to_mel(top), bands + 2, dtype=torch.float64))
    bins = torch.linspace(0, top, n_fft // 2 + 1, dtype=torch.float64)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = torch.minimum((bins - low) / (peak - low), (high - bins) / (high - peak))
    return triangles.clamp(min=0).float()


def band_gains(mel: Tensor) -> Tensor:
    """From a mask on bands to a gain on bins, ``(band, freq)``: each column sums to one.

    Bins under the first triangle take the first band, bins above the last (the Nyquist bin) take the last:
    no band covers them, and dividing by their sum would be 0/0.
    """
    total = mel.sum(0)
    gains = mel / total.clamp(min=1e-12)
    covered = torch.nonzero(total > 1e-9).flatten()
    gains[:, : covered[0]] = torch.nn.functional.one_hot(torch.tensor(0), len(mel))[:, None]
    gains[:, covered[-1] + 1 :] = torch.nn.functional.one_hot(torch.tensor(len(mel) - 1), len(mel))[:, None]
    return gains


def _to_mel(hz: float) -> float:
    return 2595.0 * float(torch.log10(torch.tensor(1 + hz / 700.0, dtype=torch.float64)))


def _to_hz(mel: Tensor) -> Tensor:
    return 700.0 * (10 ** (mel / 2595.0) - 1)
