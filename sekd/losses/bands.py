"""Two bands, split anew in every frame where the teacher's spectrum rises most (Yuan et al. 2025, arXiv 2502.04711)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

TINY = 1e-30  # below, a magnitude has no gradient
EPSILON = 1e-8  # of the published code: in the slope, inside each root and in their product

Crossover = Literal["teacher", "floored", "fixed"]


class BandLoss(NamedTuple):
    """A loss and its two parts, scalars: ``total = low + high``."""

    total: Tensor
    low: Tensor
    high: Tensor


class Planes(NamedTuple):
    """A complex spectrum as real tensors ``(batch, frame, freq)``, the order in which an STFT lies in memory."""

    real: Tensor
    imag: Tensor
    energy: Tensor
    size: Tensor

    @classmethod
    def of(cls, spectrum: Tensor) -> Planes:
        """From complex ``(batch, freq, frame)``."""
        real, imag = torch.view_as_real(spectrum.transpose(1, 2)).unbind(-1)
        energy = real * real + imag * imag
        return cls(real, imag, energy, energy.clamp(min=TINY).sqrt())  # a third of the time of a complex abs

    def inner(self, other: Planes) -> Tensor:
        """Real part of the product with the conjugate of ``other``, bin by bin."""
        return self.real * other.real + self.imag * other.imag


def crossover_bins(taught: Tensor, kind: Crossover = "teacher", split: int = 3) -> Tensor:
    """The bin that ends the low band and begins the high one, ``(batch, frame)``, of magnitudes
    ``(batch, frame, freq)``.

    ``teacher`` is the published adapter: the first steepest relative rise of the cumulative maximum over
    frequency. On speech it nearly always gives bin 0 to 2. ``floored`` looks no lower than bin ``split``;
    ``fixed`` splits every frame there.
    """
    if kind == "fixed":
        return torch.full_like(taught[..., 0], split, dtype=torch.long)
    peaks = taught.cummax(-1).values
    slope = peaks.diff(dim=-1) / (peaks[..., :-1] + EPSILON)
    if kind == "teacher":
        return slope.argmax(-1)
    return slope[..., split:].argmax(-1) + split


def band_masks(split: Tensor, freqs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """1 inside the low and the high band, ``(batch, frame, freq)``; the bin between them is in both."""
    bins = torch.arange(freqs, device=split.device)
    return (bins <= split[..., None]).to(dtype), (bins >= split[..., None]).to(dtype)


def cosine_distance(product: Tensor, energy_a: Tensor, energy_b: Tensor) -> Tensor:
    """One minus the cosine between complex vectors, 0 to 2, from the sums of ``inner`` and ``energy`` over them."""
    lengths = (energy_a + EPSILON).sqrt() * (energy_b + EPSILON).sqrt()
    return 1 - product / (lengths + EPSILON)
