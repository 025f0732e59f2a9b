"""Losses between what a network says on a path and what it should say; spectra ``(batch, 2, freq, frame)``."""

from __future__ import annotations

from torch import Tensor


def denoising(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Half the weighted squared error, summed over the bins of each spectrum, mean over the batch (Richter et al. 2024,
    M3)."""
    errors = (output - target).square().sum((1, 2, 3))
    return 0.5 * (weight.flatten() * errors).mean()


def consistency(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error of complex bins, mean over all of them (Xu et al. 2025, ROSE-CD)."""
    return (weight * (output - target).square()).sum(1).mean()
