"""PESQ as a loss: the differentiable model of the package torch-pesq (Schmidt 2023), mean over a batch."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor, nn

SAMPLE_RATE = 16000
SILENT = 1e-6  # of the peak of the louder signal; squared twice it still is a number


def pesq_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """``0.1`` of the symmetric and ``0.0309`` of the asymmetric disturbance of ``(batch, sample)`` at 16 kHz.

    0 is best, 4.5 minus it would be the raw score of P.862. Signals are not aligned in time. The model divides by the
    power of each: a pair of which one is silent beside the other counts nothing. Now and then its
    gradient is not finite (first seen after 2,740 clips of recordings): such a clip counts, and pulls at nothing.
    """
    batch, peaks = len(estimate), torch.stack([estimate.detach().abs().amax(1), target.abs().amax(1)])
    heard = peaks.amin(0) > SILENT * peaks.amax(0)
    if not heard.any():
        return 0 * estimate.sum()
    if not heard.all():
        estimate, target = estimate[heard], target[heard]
    if estimate.requires_grad:
        estimate = estimate.clone()
        estimate.register_hook(_rows_with_a_gradient)
    model = _model(str(estimate.device))
    return (model(target.float(), estimate.float()).sum() / batch).to(estimate.dtype)


def _rows_with_a_gradient(gradient: Tensor) -> Tensor:
    """Zeros in place of the rows ``(batch, sample)`` that hold anything but numbers."""
    return torch.where(gradient.isfinite().all(1, keepdim=True), gradient, torch.zeros_like(gradient))


@cache
def _model(device: str) -> nn.Module:
    """Built once for each torch device; it has no weights to train."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that check its shapes, on import
        from torch_pesq import PesqLoss

        return PesqLoss(1.0, sample_rate=SAMPLE_RATE).to(torch.device(device))
