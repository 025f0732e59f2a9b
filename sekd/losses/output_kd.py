"""Distillation of the output: the student follows what the teacher gives, everywhere.

All take waveforms ``(batch, sample)`` at 16 kHz and return a scalar; gradients flow to ``estimate`` alone.
"""

from __future__ import annotations

from torch import Tensor

from sekd.losses.bands import Crossover, Planes, band_masks, cosine_distance, crossover_bins
from sekd.losses.signals import stft
from sekd.losses.supervised import negative_si_snr


def output_l1(estimate: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of linear magnitudes, STFT 512/128."""
    return output_l1_spectral(stft(estimate).abs(), stft(teacher.detach()).abs())


def output_l2(estimate: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of linear magnitudes, STFT 512/128."""
    return output_l2_spectral(stft(estimate).abs(), stft(teacher.detach()).abs())


def output_si_snr(estimate: Tensor, teacher: Tensor) -> Tensor:
    """Minus the scale-invariant signal-to-noise ratio in dB with the teacher's output as the signal."""
    return negative_si_snr(estimate, teacher.detach())


def dfkd(estimate: Tensor, teacher: Tensor, *, beta: float = 0.5) -> Tensor:
    """Dynamic frequency-adaptive distillation (Yuan et al. 2025), without patches: low plus high band.

    In each frame one complex cosine distance over the whole low band, and over the high band one mixed with the
    squared difference of magnitudes by ``beta``; the squares are averaged over all 257 bins. The authors' own
    equations were not at hand: this is what their successors' code (arXiv 2509.15922) leaves without selection.
    """
    return dfkd_spectral(stft(estimate), stft(teacher.detach()), beta=beta)


def output_l1_spectral(enhanced: Tensor, taught: Tensor) -> Tensor:
    """``output_l1`` on magnitudes ``(batch, freq, frame)``."""
    return (enhanced - taught).abs().mean()


def output_l2_spectral(enhanced: Tensor, taught: Tensor) -> Tensor:
    """``output_l2`` on magnitudes ``(batch, freq, frame)``."""
    return (enhanced - taught).square().mean()


def dfkd_spectral(
    enhanced: Tensor,
    taught: Tensor,
    *,
    beta: float = 0.5,
    crossover: Crossover = "teacher",
    crossover_bin: int = 3,
    level: float = 1.0,
) -> Tensor:
    """``dfkd`` on complex spectra ``(batch, freq, frame)``; ``level`` as in ``dispatch_dfkd_spectral``."""
    student, teacher = Planes.of(enhanced), Planes.of(taught)
    split = crossover_bins(teacher.size, crossover, crossover_bin)
    low, high = band_masks(split, enhanced.shape[1], teacher.size.dtype)
    quantities = (teacher.inner(student), student.energy, teacher.energy)

    def cosine(mask: Tensor) -> Tensor:
        # A sum over the band of each frame: as products of vectors, which are faster than multiplying and adding.
        return cosine_distance(*((values[..., None, :] @ mask[..., None]).flatten(1) for values in quantities)).mean()

    difference = teacher.size - student.size
    squares = level**2 * (difference * difference * high).mean()
    return cosine(low) + beta * cosine(high) + (1 - beta) * squares
