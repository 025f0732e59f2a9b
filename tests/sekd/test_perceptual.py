"""PESQ as a loss against the package itself, silence, and the published values of SI-SDR."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import noise, speech_like
from torch import Tensor

from sekd.losses.perceptual import pesq_loss
from sekd.losses.supervised import negative_si_snr
from sekd.quality import pesq_wb, si_sdr_db

CLEAN = torch.from_numpy(np.stack([speech_like(1.0, seed=seed) for seed in (0, 1)]))
HISS = torch.from_numpy(np.stack([noise(16000, 0.02, seed=seed) for seed in (0, 1)]))
REFERENCE, ESTIMATE = [0.5, -0.2, 0.1, 0.7, -0.4, 0.3], [0.45, -0.1, 0.2, 0.6, -0.5, 0.35]


@pytest.fixture(scope="module")
def published():
    """The package's own loss, (reference, degraded); its imports warn."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_pesq import PesqLoss

        return PesqLoss(1.0, sample_rate=16000)


def loss_and_gradient(estimate: Tensor, target: Tensor) -> tuple[float, Tensor]:
    estimate = estimate.clone().requires_grad_()
    loss = pesq_loss(estimate, target)
    loss.backward()
    return float(loss.detach()), estimate.grad


def test_the_estimate_is_what_is_degraded(published):
    noisy = CLEAN + HISS
    each = [float(published(clean[None], row[None])) for clean, row in zip(CLEAN, noisy, strict=True)]
    assert float(pesq_loss(noisy, CLEAN)) == pytest.approx(np.mean(each), rel=1e-5)
    assert float(pesq_loss(noisy, CLEAN)) != pytest.approx(float(pesq_loss(CLEAN, noisy)), rel=0.01)


def test_it_weighs_its_two_disturbances_as_published(published):
    symmetric, asymmetric = published.raw(CLEAN[:1], (CLEAN + HISS)[:1])
    wanted = 0.1 * float(symmetric) + 0.0309 * float(asymmetric)
    assert float(pesq_loss((CLEAN + HISS)[:1], CLEAN[:1])) == pytest.approx(wanted, rel=1e-6)


def test_equal_signals_lose_nothing():
    loss, gradient = loss_and_gradient(CLEAN, CLEAN)
    assert loss == pytest.approx(0, abs=1e-12) and bool(gradient.isfinite().all())


def test_worse_is_more():
    losses = [float(pesq_loss(CLEAN + level * HISS, CLEAN)) for level in (0.03, 0.1, 0.3, 1.0)]
    assert losses == sorted(losses) and losses[0] < 0.7 * losses[-1]


def test_it_falls_where_the_metric_rises():
    """On one recording, of which more or less noise is left."""
    scores = [pesq_wb((CLEAN + level * HISS)[0].numpy(), CLEAN[0].numpy()) for level in (0.03, 0.1, 0.3, 1.0)]
    assert scores == sorted(scores, reverse=True)


def test_loudness_changes_nothing():
    noisy = CLEAN + HISS
    assert float(pesq_loss(0.1 * noisy, 0.1 * CLEAN)) == pytest.approx(float(pesq_loss(noisy, CLEAN)), rel=1e-3)


def test_its_gradient_leads_down():
    noisy = CLEAN + HISS
    loss, gradient = loss_and_gradient(noisy, CLEAN)
    step = 1e-3 * noisy.norm() / gradient.norm()
    after = float(pesq_loss(noisy - step * gradient, CLEAN))
    assert after < loss
    predicted = float(step * gradient.square().sum())
    assert loss - after == pytest.approx(predicted, rel=0.5)


@pytest.mark.parametrize("quiet", [0.0, 1e-12, 1e-20])
@pytest.mark.parametrize("silent", ["target", "estimate"])
def test_a_silent_clip_of_a_batch_counts_nothing(silent, quiet):
    factor = torch.tensor([[1.0], [quiet]])
    estimate = (CLEAN + HISS) * (factor if silent == "estimate" else 1)
    target = CLEAN * (factor if silent == "target" else 1)
    loss, gradient = loss_and_gradient(estimate, target)
    alone, own = loss_and_gradient(estimate[:1], target[:1])
    assert loss == pytest.approx(alone / 2, rel=1e-5)
    assert float((gradient[:1] - own / 2).norm()) < 1e-3 * float(own.norm()) and not gradient[1].any()


def test_two_quiet_signals_are_compared_like_loud_ones():
    loss, gradient = loss_and_gradient(1e-12 * (CLEAN + HISS), 1e-12 * CLEAN)
    assert loss == pytest.approx(float(pesq_loss(CLEAN + HISS, CLEAN)), rel=1e-3)
    assert bool(gradient.isfinite().all())


def test_silence_alone_has_no_loss_and_no_gradient():
    loss, gradient = loss_and_gradient(HISS, torch.zeros_like(HISS))
    assert loss == 0 and not gradient.any()


def test_pauses_inside_a_clip_have_finite_gradients():
    target = CLEAN.clone()
    target[:, :8000] = 0
    for estimate in (target + 1e-6 * HISS, target + HISS * (torch.arange(16000) >= 8000), target):
        _, gradient = loss_and_gradient(estimate, target)
        assert bool(gradient.isfinite().all())


def test_published_values_of_si_sdr():
    """Losses and the metric remove means: 12.6530 dB. The papers' own metric does not, and gives 13.4487 dB here."""
    reference, estimate = torch.tensor([REFERENCE]), torch.tensor([ESTIMATE])
    assert float(negative_si_snr(estimate, reference)) == pytest.approx(-12.6530, abs=5e-5)
    assert si_sdr_db(np.array(ESTIMATE), np.array(REFERENCE)) == pytest.approx(12.6530, abs=5e-5)
    projection = np.dot(ESTIMATE, REFERENCE) / np.dot(REFERENCE, REFERENCE) * np.array(REFERENCE)
    kept = 10 * np.log10(np.sum(projection**2) / np.sum((projection - ESTIMATE) ** 2))
    assert kept == pytest.approx(13.4487, abs=5e-5)


def test_a_clip_without_a_gradient_leaves_that_of_the_others(monkeypatch):
    distance = lambda target, estimate: (estimate - target).square().sum(1).sqrt()  # noqa: E731 - NaN at equal signals
    monkeypatch.setattr("sekd.losses.perceptual._model", lambda device: distance)
    estimate = torch.stack([CLEAN[0], CLEAN[1] + HISS[1]])
    loss, gradient = loss_and_gradient(estimate, CLEAN)
    assert loss == pytest.approx(float(HISS[1].norm()) / 2, rel=1e-5)
    assert not gradient[0].any() and torch.allclose(gradient[1], HISS[1] / HISS[1].norm() / 2, atol=1e-6)
