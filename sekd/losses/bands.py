"""Two bands, split anew in every frame where the teacher's spectrum rises most (Yuan et al. 2025, arXiv 2502.04711)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-8  # of the published code: in the slope, inside each root and in their product

Crossover = Literal["teacher", "floored", "fixed"]


class BandLoss(NamedTuple):
    """A loss and its two parts, scalars: ``total = low + high``."""

    total: Tensor
    low: Tensor
    high: Tensor


def crossover_bins(taught: Tensor, kind: Crossover = "teacher", split: int = 3) -> Tensor:
    """The bin that ends the low band and begins the high one, ``(batch, frame)``, of magnitudes
    ``(batch, freq, frame)``.

    ``teacher`` is the published adapter: the first steepest relative rise of the cumulative maximum over
    frequency. On speech it nearly always gives bin 0 to 2. ``floored`` looks no lower than bin ``split``;
    ``fixed`` splits every frame there.
    """
    if kind == "fixed":
        return torch.full_like(taught[:, 0], split, dtype=torch.long)
    peaks = taught.cummax(1).values
    slope = peaks.diff(dim=1) / (peaks[:, :-1] + EPSILON)
    if kind == "teacher":
        return slope.argmax(1)
    return slope[:, split:].argmax(1) + split


def band_masks(split: Tensor, freqs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """1 inside the low and the high band, ``(batch, freq, frame)``; the bin between them is in both."""
    bins = torch.arange(freqs, device=split.device)[:, None]
    return (bins <= split[:, None]).to(dtype), (bins >= split[:, None]).to(dtype)


def energy(spectrum: Tensor) -> Tensor:
    """Squared magnitude of a complex tensor, with a gradient of zero at zero."""
    return torch.view_as_real(spectrum).square().sum(-1)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Real part of ``a`` times the conjugate of ``b``, both complex."""
    return (torch.view_as_real(a) * torch.view_as_real(b)).sum(-1)


def cosine_distance(product: Tensor, energy_a: Tensor, energy_b: Tensor) -> Tensor:
    """One minus the cosine between two complex vectors, 0 to 2, from the sums of ``inner`` and ``energy`` over them."""
    lengths = (energy_a + EPSILON).sqrt() * (energy_b + EPSILON).sqrt()
    return 1 - product / (lengths + EPSILON)
