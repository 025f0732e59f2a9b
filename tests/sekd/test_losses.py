"""Losses against the published check values, closed forms and an independent computation in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from check_signals import generator

from sekd.config import parse
from sekd.errors import InputError
from sekd.losses import TERMS, DispatchConfig, LossConfig
from sekd.losses.dispatch import dispatch_l2, dispatch_l2_spectral, patch_sums, select
from sekd.losses.output_kd import output_l2
from sekd.losses.signals import Signals, stft
from sekd.losses.supervised import compressed, compressed_spectral, negative_si_snr, psa, psa_spectral
from sekd.schedule import DistillSection, ScheduleConfig


def test_check_signals_are_the_published_ones(golden):
    student, clean, teacher = golden
    assert generator(1, 3) == pytest.approx([0.013870078139, -0.324258696754, -0.191348483786], abs=1e-12)
    assert generator(101, 2) == pytest.approx([0.400303033181, -0.265533218626], abs=1e-12)
    points = [clean[0, 100], clean[1, 4000], teacher[0, 4000], student[0, 4000]]
    wanted = [0.0014194019043, 0.0696157547876, 0.0590627913629, 0.0282352015775]
    assert [float(p) for p in points] == pytest.approx(wanted, abs=1e-9)
    levels = [float(x.square().mean().sqrt()) for x in (clean, student, teacher)]
    assert levels == pytest.approx([0.149310917216, 0.128093192775, 0.143484546783], abs=1e-12)


def test_front_end_matches_the_published_sums(golden):
    size = stft(golden[1]).abs()
    assert size.shape == (2, 257, 126)
    assert float(size.sum()) == pytest.approx(17843.6241155, rel=1e-11)
    assert float(size.max()) == pytest.approx(35.8297802864, rel=1e-11)


PUBLISHED = {0.8: 0.083033218, 1.0: 0.143352475, 0.5: 0.118413504}


@pytest.mark.parametrize("keep, value", PUBLISHED.items())
def test_dispatch_has_the_published_values(golden, keep, value):
    student, clean, teacher = golden
    assert float(dispatch_l2(student, clean, teacher, keep=keep)) == pytest.approx(value, abs=1e-8)
    single = [x.float() for x in golden]
    result = dispatch_l2(*single, keep=keep)
    assert result.dtype == torch.float32 and float(result) == pytest.approx(value, rel=1e-6)


def test_dispatch_has_the_published_gradient(golden):
    student, clean, teacher = golden
    student = student.clone().requires_grad_()
    dispatch_l2(student, clean, teacher).backward()
    assert float(student.grad.norm()) == pytest.approx(0.04916582066, abs=1e-10)
    assert float(student.grad[0, 8000]) == pytest.approx(-0.00049923335, abs=1e-11)


def gap(student: torch.Tensor, clean: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    s, c, t = (stft(x).abs() for x in (student, clean, teacher))
    return patch_sums(((s - c).square() - (t - c).square()).transpose(1, 2), 20)


def test_selection_counts_are_the_published_ones(golden):
    gaps = gap(*golden)
    assert gaps[0].numel() == 1638
    assert select(gaps, 0.8, "none").sum((1, 2)).tolist() == [1310, 1310]
    assert (gaps > 0).double().mean((1, 2)).tolist() == pytest.approx([0.846154] * 2, abs=1e-6)


def test_a_student_equal_to_the_clean_signal_is_still_taught(golden):
    _, clean, teacher = golden
    assert float(dispatch_l2(clean, clean, teacher)) == pytest.approx(0.009116287, abs=1e-9)
    assert float(select(gap(clean, clean, teacher), 0.8, "none").sum()) == 2620


def test_a_student_equal_to_the_teacher_has_no_loss(golden):
    _, clean, teacher = golden
    assert float(dispatch_l2(teacher, clean, teacher)) == 0
    assert float(output_l2(teacher, teacher)) == 0


def test_selection_of_one_utterance_does_not_see_the_others(golden):
    gaps = gap(*golden)
    alone = select(gaps[:1], 0.8, "none")
    beside = select(torch.cat([gaps[:1], 1000 * gaps[1:]]), 0.8, "none")
    assert torch.equal(alone[0], beside[0])


def test_gradients_reach_the_estimate_alone(golden):
    student, clean, teacher = (x.clone().requires_grad_() for x in golden)
    (dispatch_l2(student, clean, teacher) + output_l2(student, teacher)).backward()
    assert student.grad is not None and clean.grad is None and teacher.grad is None


OUTPUT_TERMS = [name for name, term in TERMS.items() if term.reads == "output"]


@pytest.mark.parametrize("name", OUTPUT_TERMS)
def test_every_term_leaves_all_but_the_estimate_alone(golden, name):
    student, clean, teacher = (x.float().requires_grad_() for x in golden)
    noisy = (student + 0.1).detach().requires_grad_()
    TERMS[name].compute(Signals(student, clean, noisy, teacher), LossConfig()).backward()
    assert student.grad.abs().max() > 0
    assert (clean.grad, teacher.grad, noisy.grad) == (None, None, None)


def test_selection_passes_no_gradient_of_its_own(golden):
    """With the mask held fixed the gradient is the same."""
    student, clean, teacher = golden
    one, two = student.clone().requires_grad_(), student.clone().requires_grad_()
    dispatch_l2(one, clean, teacher).backward()
    mask = select(gap(*golden), 0.8, "none")
    distance = patch_sums((stft(two).abs() - stft(teacher).abs()).square().transpose(1, 2), 20) / 20
    ((distance * mask).sum() / (0.8 * mask.numel())).backward()
    assert torch.allclose(one.grad, two.grad, rtol=0, atol=1e-15)


def test_keeping_all_is_output_l2_over_padded_patches(golden):
    student, clean, teacher = golden
    everything = float(dispatch_l2(student, clean, teacher, keep=1.0))
    assert everything == pytest.approx(float(output_l2(student, teacher)) * 257 / 260, rel=1e-12)


def test_silence_selects_everything_and_costs_nothing():
    silent = torch.zeros(2, 16000, requires_grad=True)
    loss = dispatch_l2(silent, torch.zeros(2, 16000), torch.zeros(2, 16000))
    loss.backward()
    assert float(loss.detach()) == 0 and not silent.grad.any()
    assert bool(select(torch.zeros(2, 13, 126), 0.8, "none").all())


@pytest.mark.parametrize("name", OUTPUT_TERMS)
@pytest.mark.parametrize("silent", ["all", "estimate", "target"])
def test_terms_and_gradients_stay_finite_on_digital_silence(golden, name, silent):
    student, clean, teacher = (x.float() for x in golden)
    noisy = clean + 0.1 * student
    if silent == "all":
        student, clean, teacher, noisy = (torch.zeros_like(clean) for _ in range(4))
    elif silent == "estimate":
        student = torch.zeros_like(student)
    else:
        clean = torch.zeros_like(clean)
    student = student.clone().requires_grad_()
    loss = TERMS[name].compute(Signals(student, clean, noisy, teacher), LossConfig())
    loss.backward()
    assert bool(loss.isfinite()) and bool(student.grad.isfinite().all())


@pytest.mark.parametrize("patch, keep", [(0, 0.8), (258, 0.8), (20, 0.0), (20, 1.1)])
def test_patches_and_shares_out_of_range_are_refused(golden, patch, keep):
    with pytest.raises(ValueError, match="must (be 1 to 257|lie in)"):
        dispatch_l2(*golden, patch=patch, keep=keep)
    with pytest.raises(InputError, match="study.toml: '(patch|keep)'"):
        parse(DispatchConfig, {"patch": patch, "keep": keep}, "study.toml")


def brute_force_dispatch(student, clean, teacher, patch: int, keep: float) -> float:
    """Patch by patch, utterance by utterance, without a tensor operation in common."""
    total, cells = 0.0, 0
    for s, c, t in zip(student, clean, teacher, strict=True):
        rows = []
        for first in range(0, s.shape[0], patch):
            for frame in range(s.shape[1]):
                part = [x[first : first + patch, frame] for x in (s, c, t)]
                errors = [float(np.square(a - b).sum()) / patch for a, b in
                          ((part[0], part[1]), (part[2], part[1]), (part[0], part[2]))]  # fmt: skip
                rows.append((errors[0] - errors[1], errors[2]))
        rows.sort(reverse=True)
        total += sum(distance for _, distance in rows[: max(math.floor(keep * len(rows)), 1)])
        cells += len(rows)
    return total / (cells * keep)


@pytest.mark.parametrize("patch, keep", [(1, 0.5), (5, 0.8), (7, 0.03), (23, 0.9)])
def test_dispatch_equals_brute_force(patch, keep):
    s, c, t = (torch.rand(2, 23, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(3))
    found = dispatch_l2_spectral(s, c, t, patch=patch, keep=keep)
    assert float(found) == pytest.approx(brute_force_dispatch(s.numpy(), c.numpy(), t.numpy(), patch, keep), rel=1e-12)


def test_psa_in_closed_form_with_truncation_and_zero_bins():
    """Mixture 2: in phase, turned by 60 degrees, beyond the mixture, against it, and no mixture at all."""
    angle = complex(math.cos(math.pi / 3), math.sin(math.pi / 3))
    clean = torch.tensor([[[1.0 + 0j, 2 * angle, 5.0, -1.0, 1.0]]], dtype=torch.complex128)
    mixture = torch.tensor([[[2.0 + 0j, 2.0, 2.0, 2.0, 0.0]]], dtype=torch.complex128)
    estimate = torch.full((1, 1, 5), 0.5, dtype=torch.float64, requires_grad=True)
    goals = np.array([1.0, 1.0, 2.0, 0.0, 0.0])
    loss = psa_spectral(estimate, clean, mixture)
    assert float(loss.detach()) == pytest.approx(np.square(0.5 - goals).mean(), abs=1e-7)
    loss.backward()
    assert estimate.grad.flatten().numpy() == pytest.approx(2 * (0.5 - goals) / 5, abs=1e-7)
    literal = psa_spectral(estimate.detach(), clean, mixture, truncate=False)
    assert float(literal) == pytest.approx(np.square(0.5 - np.array([1, 1, 5, -1, 0])).mean(), abs=1e-7)


def test_psa_of_waves_has_no_nan_gradient_at_silence():
    noisy = torch.cat([torch.zeros(1, 4000), torch.ones(1, 4000)], dim=1)
    estimate = torch.zeros(1, 8000, requires_grad=True)
    psa(estimate, noisy, noisy=noisy).backward()
    assert bool(estimate.grad.isfinite().all())


def spectra(wave: np.ndarray) -> np.ndarray:
    """Centred STFT 512/256 with a square root of a periodic Hann, (freq, frame)."""
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512))
    padded = np.pad(wave, 256, mode="reflect")
    frames = [padded[at : at + 512] * window for at in range(0, len(padded) - 511, 256)]
    return np.fft.rfft(frames, axis=1).T


def test_compressed_loss_equals_numpy(golden):
    student, clean, _ = golden
    wanted = 0.0
    for e, c in zip(student.numpy(), clean.numpy(), strict=True):
        e, c = spectra(e), spectra(c)
        sizes = [np.hypot(np.abs(x), 1e-3) for x in (e, c)]  # the floor that keeps the root differentiable
        magnitude = np.square(sizes[0] ** 0.3 - sizes[1] ** 0.3).mean()
        turned = [x / size * size**0.3 for x, size in zip((e, c), sizes, strict=True)]
        wanted += (0.7 * magnitude + 0.3 * np.square(np.abs(turned[0] - turned[1])).mean()) / 2
    assert float(compressed(student, clean)) == pytest.approx(wanted, rel=1e-9)


def test_compressed_loss_of_constant_spectra_in_closed_form():
    ones = torch.ones(1, 257, 4, dtype=torch.complex128)
    assert float(compressed_spectral(2 * ones, ones)) == pytest.approx((2**0.3 - 1) ** 2, rel=1e-5)
    assert float(compressed_spectral(-ones, ones)) == pytest.approx(0.3 * 4, rel=1e-5)


def test_si_snr_equals_numpy_and_ignores_scale_and_offset(golden):
    student, clean, _ = golden
    wanted = []
    for e, c in zip(student.numpy(), clean.numpy(), strict=True):
        e, c = e - e.mean(), c - c.mean()
        part = np.dot(e, c) / np.dot(c, c) * c
        wanted.append(10 * np.log10(np.sum(part**2) / np.sum((e - part) ** 2)))
    assert float(negative_si_snr(student, clean)) == pytest.approx(-np.mean(wanted), abs=1e-6)
    assert float(negative_si_snr(3 * student + 0.2, clean)) == pytest.approx(-np.mean(wanted), abs=1e-6)


def test_si_snr_of_orthogonal_parts_is_their_ratio():
    t = torch.arange(16000, dtype=torch.float64) / 16000
    signal, error = (torch.sin(2 * math.pi * f * t)[None] for f in (440.0, 660.0))
    assert float(negative_si_snr(signal + 0.1 * error, signal)) == pytest.approx(-20.0, abs=1e-6)


@pytest.mark.parametrize("gain", [0.1, 10.0])
@pytest.mark.parametrize("name", OUTPUT_TERMS)
def test_no_term_depends_on_the_level_of_a_recording(golden, name, gain):
    student, clean, teacher = golden  # in double precision, or a patch at the threshold may flip
    waves = [student, clean, clean + 0.3 * student, teacher]
    values = [
        float(TERMS[name].compute(Signals(*(scale * wave for wave in waves)), LossConfig())) for scale in (1.0, gain)
    ]
    assert values[1] == pytest.approx(values[0], rel=1e-4)


def test_raw_level_leaves_the_waves_as_they_are(golden):
    student, clean, teacher = golden
    raw = Signals(student, clean, 7 * clean, teacher, level="raw")
    assert torch.equal(raw.wave("estimate"), student)
    loss = TERMS["dispatch_l2"].compute(raw, LossConfig())
    assert float(loss) == pytest.approx(PUBLISHED[0.8], abs=1e-8)


def test_signals_hold_every_spectrum_once(golden):
    signals = Signals(*golden[:2], golden[1], golden[2])
    assert signals.spectrum("target") is signals.spectrum("target")
    assert signals.magnitude("target") is signals.magnitude("target")
    assert signals.spectrum("target") is not signals.spectrum("target", 512, 256, "hann_sqrt")


SUPERVISED = {"psa": 2.0, "si_snr": 1.0}


@pytest.mark.parametrize(
    "kind, wanted",
    [
        ("supervised", [(1001, SUPERVISED)]),
        ("one_step", [(1001, {"psa": 1.2, "si_snr": 0.6, "output_l2": 1.2})]),
        ("two_step", [(250, {"output_l2": 3.0}), (751, SUPERVISED)]),
        ("two_step_kept", [(250, {"output_l2": 3.0}), (751, {"psa": 1.2, "si_snr": 0.6, "output_l2": 1.2})]),
    ],
)
def test_a_schedule_is_phases_of_weighted_terms(kind, wanted):
    section = DistillSection(
        supervised=SUPERVISED, term="output_l2", kd_scale=3.0, schedule=ScheduleConfig(kind=kind, kd_weight=0.4)
    )
    phases = section.phases(1001)
    assert [phase.steps for phase in phases] == [steps for steps, _ in wanted]
    for phase, (_, weights) in zip(phases, wanted, strict=True):
        assert phase.weights == pytest.approx(weights)


@pytest.mark.parametrize(
    "document, message",
    [
        ({"term": "psa"}, "no loss term 'psa' that follows the teacher"),
        ({"term": "dispatch_l3"}, "did you mean 'dispatch_l2'?"),
        ({"supervised": {"output_l2": 1.0}}, "follows the clean signal"),
        ({"supervised": {}}, "at least one term"),
        ({"supervised": {"psa": -1.0}}, "weight above 0"),
        ({"kd_scale": 0.0}, "'kd_scale' = 0.0"),
        ({"schedule": {"kind": "three_step"}}, "'schedule.kind' = 'three_step'"),
        ({"schedule": {"kd_weight": 1.0}}, "must lie between 0 and 1"),
    ],
)
def test_nonsense_about_losses_is_one_line(document, message):
    with pytest.raises(InputError) as error:
        parse(DistillSection, document, "study.toml: distill")
    assert message in str(error.value) and "\n" not in str(error.value)
