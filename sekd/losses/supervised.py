"""Losses against the clean signal; all take waveforms ``(batch, sample)`` at 16 kHz and return a scalar."""

from __future__ import annotations

import torch
from torch import Tensor

from sekd.losses.signals import stft

FRONT_END = (512, 256)  # window and hop of the CRUSE papers, with a square root of a Hann window


def psa(estimate: Tensor, target: Tensor, *, noisy: Tensor, truncate: bool = True) -> Tensor:
    """Phase-sensitive spectrum approximation (Erdogan et al. 2015, section 3).

    Mean squared difference between the magnitude of the estimate and the part of the target in phase with the
    mixture. ``truncate`` clips that part to what a mask in (0, 1) can reach; ``False`` is the literal form.
    """
    mixture = stft(noisy, *FRONT_END, window="hann_sqrt")
    clean = stft(target, *FRONT_END, window="hann_sqrt")
    enhanced = stft(estimate, *FRONT_END, window="hann_sqrt").abs()
    return psa_spectral(enhanced, clean, mixture, truncate=truncate)


def psa_spectral(enhanced: Tensor, clean: Tensor, mixture: Tensor, *, truncate: bool = True) -> Tensor:
    """``psa`` on a magnitude and two complex spectra ``(batch, freq, frame)``."""
    size = mixture.abs()
    # |S| cos(angle S - angle Y) without an angle, whose gradient and value are undefined at zero.
    in_phase = (clean * mixture.conj()).real / (size + 1e-8)
    if truncate:
        in_phase = torch.minimum(in_phase.clamp(min=0), size)
    return (enhanced - in_phase).square().mean()


def negative_si_snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Minus the scale-invariant signal-to-noise ratio in dB, mean over the batch (Le Roux et al. 2019, eq. 5)."""
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    energy = target.square().sum(-1, keepdim=True)
    projection = (estimate * target).sum(-1, keepdim=True) / (energy + 1e-8) * target
    residual = estimate - projection
    ratio = (projection.square().sum(-1) + 1e-8) / (residual.square().sum(-1) + 1e-8)
    return -10 * torch.log10(ratio).mean()


def compressed(estimate: Tensor, target: Tensor, *, power: float = 0.3, complex_share: float = 0.3) -> Tensor:
    """Compressed spectral loss, magnitudes and complex values mixed (Braun and Tashev 2021, section 2.2)."""
    enhanced, clean = (stft(wave, *FRONT_END, window="hann_sqrt") for wave in (estimate, target))
    return compressed_spectral(enhanced, clean, power=power, complex_share=complex_share)


def compressed_spectral(enhanced: Tensor, clean: Tensor, *, power: float = 0.3, complex_share: float = 0.3) -> Tensor:
    """``compressed`` on complex spectra ``(batch, freq, frame)``."""
    size_e, root_e = _size_and_root(enhanced, power)
    size_c, root_c = _size_and_root(clean, power)
    magnitude = (size_e * root_e - size_c * root_c).square().mean()
    turned = torch.view_as_real(enhanced * root_e - clean * root_c).square().sum(-1).mean()
    return (1 - complex_share) * magnitude + complex_share * turned


def _size_and_root(spectrum: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Magnitude, floored where its root has no gradient, and the factor that compresses it."""
    energy = torch.view_as_real(spectrum).square().sum(-1) + 1e-6
    return energy.sqrt(), energy ** ((power - 1) / 2)
