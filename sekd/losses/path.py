"""Losses between what a network says on a path and what it should say; spectra ``(batch, 2, freq, frame)``."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Weighting = Literal["per_example", "published_code"]


def denoising(output: Tensor, target: Tensor, weight: Tensor, *, weighting: Weighting = "per_example") -> Tensor:
    """Half the weighted squared error, summed over the bins of each spectrum, mean over the batch.

    The weight is each example's own, as Richter et al. 2024 (M3) mean it; ``published_code`` is what their code
    computes by a quirk of broadcasting: the batch's mean weight times the batch's sum.
    """
    errors = (output - target).square().sum((1, 2, 3))
    if weighting == "published_code":
        return 0.5 * weight.mean() * errors.sum()
    return 0.5 * (weight.flatten() * errors).mean()


def consistency(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error of complex bins, mean over all of them (Xu et al. 2025, ROSE-CD)."""
    return (weight * (output - target).square()).sum(1).mean()
