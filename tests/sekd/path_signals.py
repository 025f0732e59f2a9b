"""Networks on a path and signals small enough for the tests beside this file."""

from __future__ import annotations

import numpy as np
import torch
from tiny_models import noise, speech_like
from torch import Tensor

from sekd.generative.compressed_stft import SpectraConfig
from sekd.generative.ouve import OuvePath
from sekd.models import ConsistencyNetConfig, DiffusionConfig
from sekd.models.ncsnpp import NcsnppConfig
from sekd.train import Batch

PATH = OuvePath()
SPECTRA = SpectraConfig(n_fft=126, hop=32)
SMALL = {"spectra": SPECTRA, "backbone": NcsnppConfig(width=4, multipliers=(1, 2))}
STUDENT = ConsistencyNetConfig(**SMALL, segment_frames=16, overlap_hops=2)
TEACHER = DiffusionConfig(**SMALL)


def column(*times: float) -> Tensor:
    """Times of a batch so that they broadcast against spectra."""
    return torch.tensor(times)[:, None, None, None]


def points(shape: tuple[int, ...] = (2, 2, 64, 64)) -> tuple[Tensor, ...]:
    """Clean and noisy spectra, and some point."""
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).mul(0.2).unbind(0)


def make_batch(step: int, samples: int = 2048) -> Batch:
    """Two noisy signals, a function of ``step``."""
    clean = np.stack([speech_like(0.5, seed=2 * step + row)[-samples:] for row in range(2)])
    hiss = np.stack([noise(samples, 0.02, seed=2 * step + row) for row in range(2)])
    return Batch(torch.from_numpy(clean + hiss), torch.from_numpy(clean), None)
