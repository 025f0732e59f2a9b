"""Samplers on one bin with a perfect network, whose every step has a closed form, and against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sekd.generative.ouve import OuvePath, noise_like
from sekd.generative.samplers import (
    corrected,
    few_steps,
    flow_step,
    predicted,
    predictor_corrector,
    probability_flow,
    time_grid,
)

PATH = OuvePath()
CLEAN, NOISY, X = (torch.tensor(value, dtype=torch.float64) for value in (0.3, 0.5, 0.6))
STILL = torch.zeros(())


def perfect(x: Tensor, noisy: Tensor, t) -> Tensor:
    """What a denoiser sees that has learnt one pair by heart."""
    return PATH.mean(CLEAN, noisy, t)


def exact(x: Tensor, t: float, earlier: float) -> Tensor:
    """Where the flow takes ``x`` from ``t``."""
    ratio = PATH.std(earlier) / PATH.std(t)
    return PATH.mean(CLEAN, NOISY, earlier) + (x - PATH.mean(CLEAN, NOISY, t)) * ratio


class Counted:
    """A network that counts, and keeps at which times it was asked."""

    def __init__(self, network=perfect) -> None:
        self.network, self.times = network, []

    def __call__(self, x, noisy, t):
        self.times.append(float(t))
        return self.network(x, noisy, t)


class Drawn:
    """Noise that is known afterwards."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.generator, self.shape, self.all = torch.Generator().manual_seed(3), shape, []

    def __call__(self) -> Tensor:
        self.all.append(noise_like(torch.empty(self.shape, dtype=torch.float64), self.generator))
        return self.all[-1]


def test_the_published_values_of_one_step():
    score = (float(PATH.mean(CLEAN, NOISY, 0.5)) - 0.6) / PATH.std(0.5) ** 2
    assert (float(PATH.mean(CLEAN, NOISY, 0.5)), score) == pytest.approx((0.4055267, -13.139639), abs=1e-6)
    _, mean = corrected(perfect, PATH, X, NOISY, 0.5, STILL)
    assert float(mean) == pytest.approx(0.5027633, abs=1e-7)
    _, mean = predicted(perfect, PATH, mean, NOISY, 0.5, 0.97 / 29, STILL)
    assert float(mean) == pytest.approx(0.4776024, abs=1e-7)


@pytest.mark.parametrize("solver, value", [("euler", 0.5797874), ("heun", 0.5802014)])
def test_the_published_values_of_one_step_of_the_flow(solver, value):
    assert float(flow_step(perfect, PATH, X, NOISY, 0.5, 1 / 30, solver=solver)) == pytest.approx(value, abs=1e-7)
    assert float(exact(X, 0.5, 0.5 - 1 / 30)) == pytest.approx(0.5801943, abs=1e-7)


def test_noise_of_a_step_has_its_published_size():
    one = torch.ones((), dtype=torch.float64)
    for snr, size in ((0.5, PATH.std(0.5)), (0.33, 2 * 0.33 * PATH.std(0.5))):
        x, mean = corrected(perfect, PATH, X, NOISY, 0.5, one, snr=snr)
        assert float(x - mean) == pytest.approx(size)
    x, mean = predicted(perfect, PATH, X, NOISY, 0.5, 0.04, one)
    assert float(x - mean) == pytest.approx(PATH.diffusion(0.5) * 0.2)


def by_loops(steps: int, snr: float, noises: list[float]) -> float:
    """Predictor and corrector of SGMSE+ on one bin, written out."""
    theta, log_ratio, t_eps = 1.5, math.log(10), 0.03
    draw = iter(noises)

    def sigma(t):
        grown = math.exp(2 * (theta + log_ratio) * t) - 1
        return math.sqrt(0.05**2 * log_ratio * math.exp(-2 * theta * t) * grown / (theta + log_ratio))

    def score(x, t):
        return (math.exp(-theta * t) * 0.3 + (1 - math.exp(-theta * t)) * 0.5 - x) / sigma(t) ** 2

    x = mean = 0.5 + sigma(1) * next(draw)
    for i in range(steps):
        t = 1 + i * (t_eps - 1) / (steps - 1)
        dt = (1 - t_eps) / (steps - 1) if i < steps - 1 else t
        size = 2 * (snr * sigma(t)) ** 2
        x = x + size * score(x, t) + math.sqrt(2 * size) * next(draw)
        g = 0.05 * 10**t * math.sqrt(2 * log_ratio)
        mean = x - theta * (0.5 - x) * dt + g**2 * dt * score(x, t)
        x = mean + g * math.sqrt(dt) * next(draw)
    return mean


@pytest.mark.parametrize("steps, snr", [(2, 0.5), (5, 0.33), (30, 0.5)])
def test_predictor_corrector_equals_plain_loops(steps, snr):
    """The last prediction is given back without its noise."""
    draw = Drawn()
    sampled = predictor_corrector(perfect, PATH, NOISY, draw, steps=steps, snr=snr)
    noises = [float(noise) for noise in draw.all]
    assert len(noises) == 1 + 2 * steps
    assert float(sampled.spectrum) == pytest.approx(by_loops(steps, snr, noises), rel=1e-9)
    assert by_loops(steps, snr, [*noises[:-1], 99.0]) == by_loops(steps, snr, noises)


def test_the_last_step_goes_down_to_nought():
    network = Counted()
    predictor_corrector(network, PATH, NOISY, Drawn(), steps=3)
    assert network.times == pytest.approx([1, 1, 0.515, 0.515, 0.03, 0.03])


@pytest.mark.parametrize("steps", [1, 3, 30])
def test_evaluations_are_as_many_as_said(steps):
    noises = [STILL] * steps
    for sample, each in (
        (lambda network: predictor_corrector(network, PATH, NOISY, Drawn(), steps=steps), 2),
        (lambda network: probability_flow(network, PATH, NOISY, Drawn(), steps=steps, solver="heun"), 2),
        (lambda network: probability_flow(network, PATH, NOISY, Drawn(), steps=steps, solver="euler"), 1),
        (lambda network: few_steps(network, PATH, NOISY, noises, time_grid(steps, 0.03)), 1),
    ):
        network = Counted()
        assert sample(network).evaluations == each * steps == len(network.times)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2)])
def test_the_flow_leads_to_where_it_must_at_the_order_of_its_solver(solver, order):
    def error(steps: int) -> float:
        draw = Drawn()
        found = probability_flow(perfect, PATH, NOISY, draw, steps=steps, solver=solver).spectrum
        return abs(float(found - exact(PATH.prior(NOISY, draw.all[0]), 1.0, PATH.t_eps)))

    assert math.log2(error(200) / error(400)) == pytest.approx(order, abs=0.1)
    assert error(400) < 0.01


def test_the_flow_stops_at_the_earliest_time():
    network = Counted()
    probability_flow(network, PATH, NOISY, Drawn(), steps=2, solver="heun")
    assert network.times == pytest.approx([1, 0.515, 0.515, 0.03])


def bent(x: Tensor, noisy: Tensor, t: float) -> Tensor:
    """Some network: of all its inputs, and not linear."""
    return torch.tanh(x + 0.3 * noisy) * math.cos(t)


def test_one_step_is_the_published_formula_bit_for_bit():
    noisy, noise = torch.randn(2, 2, 2, 8, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    wanted = bent(noisy + PATH.std(1.0) * noise, noisy, 1.0)
    for renoise in ("published", "marginal"):
        sampled = few_steps(bent, PATH, noisy, [noise], [1.0], renoise=renoise)
        assert torch.equal(sampled.spectrum, wanted)


def heard(renoise: str, scale: float = 1.0) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Inputs and outputs of a network that is asked at 1 and at 0.4, and the noisy spectrum."""
    inputs, outputs = [], []
    noisy = torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    draw = Drawn(tuple(noisy.shape))

    def network(x, noisy, t):
        inputs.append(x)
        outputs.append(bent(x, noisy, t))
        return outputs[-1]

    few_steps(network, PATH, noisy, [draw().float(), draw().float()], [1.0, 0.4], renoise=renoise, scale=scale)
    return inputs, outputs, noisy


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("renoise, kept", [("published", 1.0), ("marginal", math.exp(-1.5 * 0.4))])
def test_what_is_renoised_has_the_mean_and_the_noise_of_its_kind(renoise, kept, scale):
    inputs, outputs, noisy = heard(renoise, scale)
    added = inputs[1] - (kept * outputs[0] + (1 - kept) * noisy)
    size = scale * PATH.std(0.4)  # of complex noise: both parts together
    assert float(added.square().sum(1).mean().sqrt()) == pytest.approx(size, rel=0.03)
    assert abs(float(added.mean())) < 4 * size / math.sqrt(2 * added.numel())
    assert abs(float((added * outputs[0]).mean())) < 0.02 * size


@pytest.mark.parametrize("renoise", ["published", "marginal"])
def test_without_noise_nothing_is_drawn_by_lot(renoise):
    noisy = torch.randn(1, 2, 8, 4, generator=torch.Generator().manual_seed(0))
    lots = [[torch.full_like(noisy, value)] * 3 for value in (1.0, -7.0)]
    times = time_grid(3, 0.1)
    found = [few_steps(bent, PATH, noisy, lot, times, renoise=renoise, scale=0.0).spectrum for lot in lots]
    assert torch.equal(*found)
    inputs, outputs, same = heard(renoise, scale=0.0)
    assert torch.equal(inputs[0], same)
    assert torch.equal(inputs[1], outputs[0]) == (renoise == "published")


def test_each_time_needs_its_noise():
    with pytest.raises(ValueError):
        few_steps(bent, PATH, NOISY, [STILL], [1.0, 0.5])
