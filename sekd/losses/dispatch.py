"""DISPatch: distil only the patches where the teacher is furthest ahead of the student (arXiv 2509.15922).

MSSP, multi-scale selective patches: other patch sizes below and above the crossover of DFKD's two bands.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sekd.losses.bands import BandLoss, Crossover, Planes, band_masks, cosine_distance, crossover_bins
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
    enhanced, clean, taught = (size.transpose(1, 2) for size in (enhanced, clean, taught))
    distance = patch_sums(_square(enhanced - taught), patch) / patch
    if keep == 1 and gate == "none":
        return distance.mean()
    with torch.no_grad():
        gap = patch_sums(_square(enhanced - clean) - _square(taught - clean), patch)
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
    level: float = 1.0,
) -> BandLoss:
    """``dispatch_dfkd`` on complex spectra ``(batch, freq, frame)``.

    ``level`` multiplies them where it matters, in the squares: cosine distances do not hear how loud a signal is.
    """
    freqs = enhanced.shape[1]
    _check(freqs, keep, low_patch=low_patch, high_patch=high_patch)
    if not 0 <= crossover_bin < freqs - 1:
        raise ValueError(f"crossover_bin = {crossover_bin} must be 0 to {freqs - 2}")
    student, target, teacher = (Planes.of(spectrum) for spectrum in (enhanced, clean, taught))
    masks = band_masks(crossover_bins(teacher.size, crossover, crossover_bin), freqs, target.size.dtype)
    products = _Products(student, target, teacher, level)
    losses = []
    for mask, patch, share in zip(masks, (low_patch, high_patch), (1.0, beta), strict=True):
        distance, gap = products.distances(mask, patch, share)
        with torch.no_grad():
            inside = patch_sums(mask, patch) > 0  # a patch belongs to a band if one of its bins does
            selected = select(gap, keep, gate, inside)
        losses.append((distance * selected).sum() / selected.sum().clamp(min=1))
    low, high = losses
    return BandLoss(low + high, low, high)


class _Products:
    """What the distances of all patches are sums of, bin by bin; those with the estimate carry gradients."""

    def __init__(self, student: Planes, target: Planes, teacher: Planes, level: float) -> None:
        self.power = level**2
        self.learning = [teacher.inner(student), student.energy]
        self.squares = _square(teacher.size - student.size)
        with torch.no_grad():
            self.fixed = [target.inner(student), target.inner(teacher), target.energy, teacher.energy]
            self.gap = _square(target.size - student.size) - _square(target.size - teacher.size)

    def distances(self, mask: Tensor, patch: int, share: float) -> tuple[Tensor, Tensor]:
        """Distance of the estimate to the teacher in each patch, and the knowledge gap, ``(batch, frame, patch)``.

        ``share`` of both is the cosine distance, the rest the squared difference of magnitudes.
        """
        to_teacher, own = (patch_sums(values * mask, patch) for values in self.learning)
        with torch.no_grad():
            student_clean, teacher_clean, clean, taught = (patch_sums(v * mask, patch) for v in self.fixed)
            gap = cosine_distance(student_clean, clean, own) - cosine_distance(teacher_clean, clean, taught)
        distance = cosine_distance(to_teacher, taught, own)
        if share == 1:
            return distance, gap
        with torch.no_grad():
            gap = share * gap + (1 - share) * self.power / patch * patch_sums(self.gap * mask, patch)
        return share * distance + (1 - share) * self.power / patch * patch_sums(self.squares * mask, patch), gap


def _square(values: Tensor) -> Tensor:
    return values * values


def patch_sums(values: Tensor, patch: int) -> Tensor:
    """``(batch, frame, freq)`` to sums over patches of bins, ``(batch, frame, patch)``; the last one may be short.

    A product with a matrix of zeros and ones: sums over short stretches of memory take several times longer.
    """
    freqs = values.shape[-1]
    bins = torch.arange(freqs, device=values.device)
    patches = torch.arange(-(-freqs // patch), device=values.device)
    return values @ (bins[:, None] // patch == patches).to(values.dtype)


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
