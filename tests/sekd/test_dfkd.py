"""DFKD with and without selective patches: check values, a loop over patches in numpy, and what must not happen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sekd.losses.bands import crossover_bins
from sekd.losses.dispatch import dispatch_dfkd, dispatch_dfkd_spectral, dispatch_l2, select
from sekd.losses.output_kd import dfkd, dfkd_spectral, output_l1, output_si_snr
from sekd.losses.signals import stft
from sekd.losses.supervised import negative_si_snr

EPS = 1e-8


def test_published_values_of_both_bands(golden):
    total, low, high = dispatch_dfkd(*golden)
    assert float(high) == pytest.approx(0.068817415, abs=1e-9)
    assert float(low) == pytest.approx(0.180976038, abs=1e-9)
    assert float(total) == pytest.approx(0.249793453, abs=1e-9)


def test_published_values_in_single_precision(golden):
    single = dispatch_dfkd(*(x.float() for x in golden))
    assert single.total.dtype == torch.float32
    assert float(single.low) == pytest.approx(0.180976038, rel=3e-6)
    assert float(single.high) == pytest.approx(0.068817415, rel=1.5e-4)  # one patch may flip at the threshold


def test_published_gradient(golden):
    student, clean, teacher = golden
    student = student.clone().requires_grad_()
    dispatch_dfkd(student, clean, teacher).total.backward()
    assert float(student.grad.norm()) == pytest.approx(0.62933758572, abs=1e-9)
    assert float(student.grad[0, 8000]) == pytest.approx(-0.00354903742, abs=1e-10)


def test_published_crossover(golden):
    bins = crossover_bins(stft(golden[2]).abs().transpose(1, 2))
    assert bins[0, :12].tolist() == [77, 0, 4, 5, 4, 4, 4, 4, 4, 4, 4, 4]
    assert bins[1, :12].tolist() == [0, 6, 6, 6, 6, 6, 6, 6, 6, 5, 6, 6]


def test_published_limits(golden):
    _, clean, teacher = golden
    same = dispatch_dfkd(teacher, clean, teacher)
    assert float(same.high) == pytest.approx(2.87e-8, abs=1e-10)
    assert float(same.low) == pytest.approx(1.43e-3, abs=1e-5)
    silent = torch.zeros(2, 16000, requires_grad=True)
    loss = dispatch_dfkd(silent, torch.zeros(2, 16000), torch.zeros(2, 16000))
    assert [float(x.detach()) for x in loss] == pytest.approx([1.5, 1.0, 0.5], abs=1e-6)
    loss.total.backward()
    assert not silent.grad.any()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = math.sqrt((np.abs(a) ** 2).sum() + EPS) * math.sqrt((np.abs(b) ** 2).sum() + EPS)
    return 1 - float((a * b.conj()).real.sum()) / (lengths + EPS)


def steepest_rise(taught: np.ndarray) -> int:
    peaks = np.maximum.accumulate(np.abs(taught))
    return int(np.argmax((peaks[1:] - peaks[:-1]) / (peaks[:-1] + EPS)))


def by_hand(s, c, t, *, patches: tuple[int, int], keep: float, beta: float, gate: str) -> list[float]:
    """Low and high loss, one patch after the other."""
    losses = []
    for band, (patch, share) in enumerate(zip(patches, (1.0, beta), strict=True)):
        kept: list[float] = []
        for student, clean, teacher in zip(s, c, t, strict=True):
            rows = []
            for frame in range(student.shape[1]):
                m = steepest_rise(teacher[:, frame])
                inside = np.arange(len(student)) <= m if band == 0 else np.arange(len(student)) >= m
                for first in range(0, len(student), patch):
                    piece = slice(first, first + patch)
                    if not inside[piece].any():
                        continue
                    parts = [x[piece, frame] * inside[piece] for x in (student, clean, teacher)]

                    def distance(a, b, share=share, patch=patch):
                        squares = np.square(np.abs(a) - np.abs(b)).sum() / patch
                        return share * cosine(a, b) + (1 - share) * squares

                    gap = distance(parts[1], parts[0]) - distance(parts[1], parts[2])
                    rows.append((gap, distance(parts[2], parts[0])))
            rows.sort(reverse=True)
            chosen = rows[: max(math.floor(keep * len(rows)), 1)]
            kept += [distance for gap, distance in chosen if gap > 0 or gate == "none"]
        losses.append(sum(kept) / len(kept))
    return losses


def random_spectra() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    noise = [torch.randn(2, 23, 9, 2, dtype=torch.float64, generator=generator) for _ in range(3)]
    student, clean, teacher = (torch.view_as_complex(x) for x in noise)
    return [clean + 0.8 * student, clean, clean + 0.4 * teacher]


@pytest.mark.parametrize("gate", ["none", "positive"])
@pytest.mark.parametrize("patches, keep, beta", [((3, 8), 0.6, 0.5), ((5, 5), 1.0, 0.2), ((1, 23), 0.05, 1.0)])
def test_patches_one_by_one_give_the_same(patches, keep, beta, gate):
    s, c, t = random_spectra()
    sizes = {"low_patch": patches[0], "high_patch": patches[1]}
    found = dispatch_dfkd_spectral(s, c, t, **sizes, keep=keep, beta=beta, gate=gate)
    wanted = by_hand(s.numpy(), c.numpy(), t.numpy(), patches=patches, keep=keep, beta=beta, gate=gate)
    assert [float(found.low), float(found.high)] == pytest.approx(wanted, rel=1e-9)


def test_selection_of_an_utterance_does_not_see_its_neighbours():
    gaps, standing = torch.randn(2, 9, 4), torch.rand(2, 9, 4) > 0.4
    both = select(gaps, 0.5, "none", standing)
    for k in range(2):
        assert torch.equal(both[k], select(gaps[k : k + 1], 0.5, "none", standing[k : k + 1])[0])


def test_selection_among_standing_patches_keeps_ties_and_at_least_one():
    gap = torch.tensor([[[3.0, 1.0, 1.0, 9.0, 0.0]]])
    standing = torch.tensor([[[True, True, True, False, True]]])
    assert select(gap, 0.5, "none", standing).tolist() == [[[1, 1, 1, 0, 0]]]  # two of four, and the second is a tie
    assert select(gap, 0.01, "none", standing).tolist() == [[[1, 0, 0, 0, 0]]]
    assert select(gap - 2, 1.0, "positive", standing).tolist() == [[[1, 0, 0, 0, 0]]]


def test_positive_gate_drops_patches_where_the_student_is_ahead(golden):
    student, clean, teacher = golden
    assert float(dispatch_l2(clean, clean, teacher, gate="positive")) == 0
    assert float(dispatch_l2(clean, clean, teacher)) > 0


def test_floored_and_fixed_crossovers():
    taught = torch.tensor([[[1.0, 9.0, 9.0, 10.0, 13.0, 13.0]]])
    assert crossover_bins(taught).item() == 0
    assert crossover_bins(taught, "floored", 2).item() == 3
    assert crossover_bins(taught, "fixed", 4).item() == 4


def test_keeping_all_at_one_patch_size_of_the_whole_band_is_plain_dfkd():
    """One patch as wide as the spectrum: no patches, no selection; the squares are averaged alike."""
    s, c, t = random_spectra()
    whole = dispatch_dfkd_spectral(s, c, t, low_patch=23, high_patch=23, keep=1.0)
    assert float(whole.total) == pytest.approx(float(dfkd_spectral(s, t)), rel=1e-12)


def test_gradients_reach_the_estimate_alone(golden):
    student, clean, teacher = (x.clone().requires_grad_() for x in golden)
    (dispatch_dfkd(student, clean, teacher).total + dfkd(student, teacher)).backward()
    assert student.grad is not None and clean.grad is None and teacher.grad is None


def test_selection_passes_no_gradient_of_its_own():
    s, c, t = random_spectra()

    def loss(real: torch.Tensor) -> torch.Tensor:
        return dispatch_dfkd_spectral(torch.view_as_complex(real), c, t, low_patch=4, high_patch=6).total

    assert torch.autograd.gradcheck(loss, torch.view_as_real(s).clone().requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"low_patch": 0}, {"high_patch": 258}, {"keep": 0.0}, {"crossover": "fixed", "crossover_bin": 256}]
)
def test_settings_out_of_range_are_refused(golden, wrong):
    with pytest.raises(ValueError, match=next(key for key in reversed(wrong))):
        dispatch_dfkd(*golden, **wrong)


def test_plain_output_terms_in_closed_form(golden):
    student, _, teacher = golden
    sizes = [stft(x).abs() for x in (student, teacher)]
    assert float(output_l1(student, teacher)) == pytest.approx(float((sizes[0] - sizes[1]).abs().mean()), rel=1e-12)
    assert float(output_si_snr(student, teacher)) == float(negative_si_snr(student, teacher))
    _, _, same = random_spectra()
    assert float(dfkd_spectral(same, same)) == pytest.approx(0, abs=1e-7)


def test_level_is_that_of_the_spectra():
    s, c, t = random_spectra()
    sizes = {"low_patch": 4, "high_patch": 6}
    quiet = dispatch_dfkd_spectral(*(0.05 * x for x in (s, c, t)), **sizes)
    stated = dispatch_dfkd_spectral(s, c, t, **sizes, level=0.05)
    assert [float(x) for x in stated] == pytest.approx([float(x) for x in quiet], rel=1e-4)  # but for the epsilons
    assert float(dfkd_spectral(s, t, level=0.05)) == pytest.approx(float(dfkd_spectral(0.05 * s, 0.05 * t)), rel=1e-4)
