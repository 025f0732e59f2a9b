"""DISPatch: distil only the patches where the teacher is furthest ahead of the student (arXiv 2509.15922)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sekd.losses.signals import stft


def dispatch_l2(estimate: Tensor, target: Tensor, teacher: Tensor, *, patch: int = 20, keep: float = 0.8) -> Tensor:
    """Output L2 distillation on the ``keep`` share of patches with the largest knowledge gap.

    As the published code computes it: a patch is ``patch`` bins of one frame, selection is by utterance and
    whatever the sign of the gap, and the sum is divided by the nominal number of patches.

    Args:
        estimate, target, teacher: waveforms ``(batch, sample)`` at 16 kHz; gradients flow to ``estimate`` alone.
        patch: frequency bins of a patch, 1 to 257.
        keep: share of the patches kept, above 0 and at most 1.

    Raises:
        ValueError: ``patch`` or ``keep`` is out of range.
    """
    clean, taught = stft(target.detach()).abs(), stft(teacher.detach()).abs()
    return dispatch_l2_spectral(stft(estimate).abs(), clean, taught, patch=patch, keep=keep)


def dispatch_l2_spectral(
    enhanced: Tensor, clean: Tensor, taught: Tensor, *, patch: int = 20, keep: float = 0.8
) -> Tensor:
    """``dispatch_l2`` on magnitudes ``(batch, freq, frame)``."""
    if not 1 <= patch <= enhanced.shape[1] or not 0 < keep <= 1:
        raise ValueError(f"patch = {patch} must be 1 to {enhanced.shape[1]} and keep = {keep} in (0, 1]")
    distance = patch_means((enhanced - taught).square(), patch)
    if keep == 1:
        return distance.mean()
    with torch.no_grad():
        gap = patch_means((enhanced - clean).square() - (taught - clean).square(), patch)
        selected = top_share(gap, keep)
    return (distance * selected).sum() / (distance.numel() * keep)


def patch_means(values: Tensor, patch: int) -> Tensor:
    """``(batch, freq, frame)`` to means over patches of bins, ``(batch, patch, frame)``.

    The last patch is filled with zeros and divided by its full size, as published.
    """
    batch, freqs, frames = values.shape
    padded = torch.nn.functional.pad(values, (0, 0, 0, -freqs % patch))
    return padded.reshape(batch, -1, patch, frames).mean(2)


def top_share(gap: Tensor, keep: float) -> Tensor:
    """1 where the gap is among the largest ``keep`` of its own utterance, ties kept, else 0; like ``gap``."""
    flat = gap.flatten(1)
    count = max(math.floor(keep * flat.shape[1]), 1)
    threshold = flat.kthvalue(flat.shape[1] - count + 1, dim=1).values
    return (gap >= threshold[:, None, None]).to(gap.dtype)
