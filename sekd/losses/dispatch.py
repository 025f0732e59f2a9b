"""DISPatch: distil only the patches where the teacher is furthest ahead of the student (arXiv 2509.15922).

MSSP, multi-scale selective patches: other patch sizes below and above the crossover of DFKD's two bands.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sekd.losses.bands import BandLoss, Crossover, band_masks, cosine_distance, crossover_bins, energy, inner
from sekd.losses.signals import stft

Gate = Literal["none", "positive"]  # the published code keeps patches whatever the sign of their gap; the abstract not


def dispatch_l2(
    estimate: Tensor,
    target: Tensor,
    teacher: Tensor,
    *,
    patch: int = 20,
    keep: float = 0.8,
    gate: Gate = "none",
) -> Tensor:
    """Output L2 distillation on the ``keep`` share of patches with the largest knowledge gap.

    As the published code computes it: a patch is ``patch`` bins of one frame, selection is by utterance and
    whatever the sign of the gap, and the sum is divided by the nominal number of patches.

    Args:
        estimate, target, teacher: waveforms ``(batch, sample)`` at 16 kHz; gradients flow to ``estimate`` alone.
        patch: frequency bins of a patch, 1 to 257.
        keep: share of the patches kept, above 0 and at most 1.
        gate: ``positive`` drops selected patches where the teacher is no better than the student.

    Raises:
        ValueError: ``patch`` or ``keep`` is out of range.
    """
    clean, taught = stft(target.detach()).abs(), stft(teacher.detach()).abs()
    return dispatch_l2_spectral(stft(estimate).abs(), clean, taught, patch=patch, keep=keep, gate=gate)


def dispatch_l2_spectral(
    enhanced: Tensor, clean: Tensor, taught: Tensor, *, patch: int = 20, keep: float = 0.8, gate: Gate = "none"
) -> Tensor:
    """``dispatch_l2`` on magnitudes ``(batch, freq, frame)``."""
    _check(enhanced.shape[1], keep, patch=patch)
    distance = patch_sums((enhanced - taught).square(), patch) / patch
    if keep == 1 and gate == "none":
        return distance.mean()
    with torch.no_grad():
        gap = patch_sums((enhanced - clean).square() - (taught - clean).square(), patch)
        selected = select(gap, keep, gate)
    return (distance * selected).sum() / (distance.numel() * keep)


def dispatch_dfkd(
    estimate: Tensor,
    target: Tensor,
    teacher: Tensor,
    *,
    low_patch: int = 10,
    high_patch: int = 40,
    keep: float = 0.8,
    beta: float = 0.5,
    gate: Gate = "none",
    crossover: Crossover = "teacher",
    crossover_bin: int = 3,
) -> BandLoss:
    """DISPatch and MSSP inside DFKD: complex cosine distance in the low band, cosine and L2 mixed in the high band.

    As the published code computes it: the crossover from the teacher alone, selection among the patches that
    touch the band, by utterance, and the sum divided by the number selected in the whole batch. A patch of
    digital silence has cosine distance 1, with no gradient.

    Args:
        estimate, target, teacher: waveforms ``(batch, sample)`` at 16 kHz; gradients flow to ``estimate`` alone.
        low_patch, high_patch: frequency bins of a patch in either band, 1 to 257; 20 and 20 is DFKD with DISPatch
            but without MSSP.
        keep: share of the patches kept, above 0 and at most 1; 1 is DFKD on patches.
        beta: share of the cosine distance in the high band, 0 to 1.
        gate: ``positive`` drops selected patches where the teacher is no better than the student.
        crossover, crossover_bin: see ``sekd.losses.bands.crossover_bins``.

    Raises:
        ValueError: a patch size, ``keep`` or ``crossover_bin`` is out of range.
    """
    return dispatch_dfkd_spectral(
        *(stft(wave) for wave in (estimate, target.detach(), teacher.detach())),
        low_patch=low_patch,
        high_patch=high_patch,
        keep=keep,
        beta=beta,
        gate=gate,
        crossover=crossover,
        crossover_bin=crossover_bin,
    )


def dispatch_dfkd_spectral(
    enhanced: Tensor,
    clean: Tensor,
    taught: Tensor,
    *,
    low_patch: int = 10,
    high_patch: int = 40,
    keep: float = 0.8,
    beta: float = 0.5,
    gate: Gate = "none",
    crossover: Crossover = "teacher",
    crossover_bin: int = 3,
) -> BandLoss:
    """``dispatch_dfkd`` on complex spectra ``(batch, freq, frame)``."""
    freqs = enhanced.shape[1]
    _check(freqs, keep, low_patch=low_patch, high_patch=high_patch)
    if not 0 <= crossover_bin < freqs - 1:
        raise ValueError(f"crossover_bin = {crossover_bin} must be 0 to {freqs - 2}")
    split = crossover_bins(taught.abs(), crossover, crossover_bin)
    masks = band_masks(split, freqs, enhanced.real.dtype)
    parts = _Products(enhanced, clean, taught)
    losses = []
    for mask, patch, share in zip(masks, (low_patch, high_patch), (1.0, beta), strict=True):
        distance, gap = parts.distances(mask, patch, share)
        with torch.no_grad():
            inside = torch.nn.functional.max_pool1d(  # a patch belongs to a band if one of its bins does
                torch.nn.functional.pad(mask, (0, 0, 0, -freqs % patch)).transpose(1, 2), patch
            ).transpose(1, 2)
            selected = select(gap, keep, gate, inside > 0)
        losses.append((distance * selected).sum() / selected.sum().clamp(min=1))
    low, high = losses
    return BandLoss(low + high, low, high)


class _Products:
    """What the distances of all patches are sums of, bin by bin; those with the estimate carry gradients."""

    def __init__(self, enhanced: Tensor, clean: Tensor, taught: Tensor) -> None:
        sizes = [spectrum.abs() for spectrum in (enhanced, clean, taught)]
        self.learning = [inner(taught, enhanced), energy(enhanced), (sizes[2] - sizes[0]).square()]
        with torch.no_grad():
            self.fixed = [
                inner(clean, enhanced),
                (sizes[1] - sizes[0]).square(),
                inner(clean, taught),
                (sizes[1] - sizes[2]).square(),
                energy(clean),
                energy(taught),
            ]

    def distances(self, mask: Tensor, patch: int, share: float) -> tuple[Tensor, Tensor]:
        """Distance of the estimate to the teacher in each patch, and the knowledge gap, ``(batch, patch, frame)``."""

        def sums(values: Tensor) -> Tensor:
            return patch_sums(values * mask, patch)

        wanted = slice(None) if share < 1 else slice(0, 2)  # without the squares where none is asked for
        to_teacher, own, *square = [sums(values) for values in self.learning[wanted]]
        with torch.no_grad():
            clean, taught = sums(self.fixed[4]), sums(self.fixed[5])
            gap = cosine_distance(sums(self.fixed[0]), clean, own) - cosine_distance(sums(self.fixed[2]), clean, taught)
            if share < 1:
                gap = share * gap + (1 - share) / patch * (sums(self.fixed[1]) - sums(self.fixed[3]))
        distance = cosine_distance(to_teacher, taught, own)
        if share < 1:
            distance = share * distance + (1 - share) / patch * square[0]
        return distance, gap


def patch_sums(values: Tensor, patch: int) -> Tensor:
    """``(batch, freq, frame)`` to sums over patches of bins, ``(batch, patch, frame)``; zeros fill the last patch."""
    batch, freqs, frames = values.shape
    padded = torch.nn.functional.pad(values, (0, 0, 0, -freqs % patch))
    return padded.reshape(batch, -1, patch, frames).sum(2)


def select(gap: Tensor, keep: float, gate: Gate, among: Tensor | None = None) -> Tensor:
    """1 where the gap is among the largest ``keep`` of its own utterance, ties kept, else 0; like ``gap``.

    ``among`` says which patches stand for selection.
    """
    flat = gap.flatten(1)
    if among is None:
        # What is dropped is the smaller part: only that is sorted.
        dropped = flat.shape[1] - max(int(keep * flat.shape[1]), 1)
        selected = gap >= flat.kthvalue(dropped + 1, dim=1).values[:, None, None]
    else:
        standing = among.flatten(1)
        count = standing.sum(1)
        dropped_each = count - (keep * count.double()).floor().long().clamp(min=1)
        smallest = flat.masked_fill(~standing, torch.inf).topk(int(dropped_each.max()) + 1, dim=1, largest=False)
        threshold = smallest.values.gather(1, dropped_each[:, None])
        selected = (gap >= threshold[:, :, None]) & among
    if gate == "positive":
        selected = selected & (gap > 0)
    return selected.to(gap.dtype)


def _check(freqs: int, keep: float, **patches: int) -> None:
    for name, patch in patches.items():
        if not 1 <= patch <= freqs:
            raise ValueError(f"{name} = {patch} must be 1 to {freqs}")
    if not 0 < keep <= 1:
        raise ValueError(f"keep = {keep} must lie in (0, 1]")
