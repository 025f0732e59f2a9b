"""Where learning puts a network on its path, and what it compares there, against closed forms and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from path_signals import PATH, SPECTRA, column, make_batch, points
from torch import Tensor

from sekd.generative.compressed_stft import CompressedStft
from sekd.generative.learning import Consistency, ConsistencyConfig, Denoising, normalised, spectra_of
from sekd.generative.samplers import flow_step, time_grid


class Knowing:
    """A denoiser that has learnt one pair by heart."""

    def __init__(self, clean: Tensor) -> None:
        self.clean = clean

    def evaluate(self, x, noisy, t):
        return PATH.mean(self.clean, noisy, t)


def walk_with(teacher, **settings) -> Consistency:
    return Consistency(torch.nn.Identity(), teacher, ConsistencyConfig(**settings))


@pytest.mark.parametrize("solver, order", [("euler", 2), ("heun", 3)])
@pytest.mark.parametrize("t", [0.3, 0.6, 1.0])
def test_a_step_of_a_perfect_teacher_stays_on_its_trajectory(t, solver, order):
    """What the exact consistency function says of the point moves by the error of one step, of a known order."""
    clean, noisy, x = (torch.tensor(value, dtype=torch.float64) for value in (0.3, 0.5, 0.6))

    def says(x: Tensor, t: float) -> float:
        ratio = PATH.std(PATH.t_eps) / PATH.std(t)
        return float(PATH.mean(clean, noisy, PATH.t_eps) + (x - PATH.mean(clean, noisy, t)) * ratio)

    def moved(h: float) -> float:
        after = flow_step(Knowing(clean).evaluate, PATH, x, noisy, t, h, solver=solver)
        return abs(says(after, t - h) - says(x, t))

    assert math.log2(moved(0.004) / moved(0.002)) == pytest.approx(order, abs=0.1)
    assert moved(1 / 30) < (1e-3 if solver == "euler" else 1e-4)


def stepped(clean: float, noisy: float, x: float, t: float, h: float, solver: str) -> float:
    """A step of the flow with a perfect teacher, of one bin, written out."""

    def slope(x, t):
        kept, ratio = math.exp(-1.5 * t), math.log(10)
        variance = 0.05**2 * ratio * math.exp(-3 * t) * (math.exp(2 * (1.5 + ratio) * t) - 1) / (1.5 + ratio)
        score = (kept * clean + (1 - kept) * noisy - x) / variance
        return 1.5 * (noisy - x) - 0.5 * (0.05 * 10**t) ** 2 * 2 * ratio * score

    first = slope(x, t)
    return x - h * first if solver == "euler" else x - h * (first + slope(x - h * first, t - h)) / 2


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_teachers_step_is_a_thirtieth_and_not_the_spacing_of_the_grid(solver):
    clean, noisy, x = points((2, 2, 4, 3))
    times = (1.0, 0.5)
    walk = walk_with(Knowing(clean), randomised=False, solver=solver)
    found = walk.further(PATH, clean, x, noisy, column(*times), column(*(t - 0.97 / 29 for t in times)))
    for h, same in ((1 / 30, True), (0.97 / 29, False)):
        wanted = [
            stepped(*map(float, bins), t, h, solver)
            for t, *spectra in zip(times, clean, noisy, x, strict=True)
            for bins in zip(*(s.flatten() for s in spectra), strict=True)
        ]
        assert np.allclose(found.flatten().tolist(), wanted, rtol=0, atol=2e-6) == same


def test_without_new_noise_the_point_further_on_follows_from_the_first():
    clean, noisy, x = points()
    walk = walk_with(Knowing(clean), randomised=False)
    pair = [walk.further(PATH, clean, x, noisy, column(0.8, 0.2), column(0.7, 0.1)) for _ in range(2)]
    assert torch.equal(*pair)


@pytest.mark.parametrize("t, published", [(1.0, 0.1959), (0.75, 0.1102), (0.5, 0.0619), (0.25, 0.0348), (0.1, 0.0247)])
def test_new_noise_has_its_published_size(t, published):
    assert PATH.diffusion(t) / math.sqrt(30) == pytest.approx(published, abs=5.1e-5)
    clean, noisy, x = points()
    torch.manual_seed(0)
    tube, line = (
        walk_with(Knowing(clean), randomised=randomised).further(
            PATH, clean, x, noisy, column(t, t), column(t - 0.97 / 29, t - 0.97 / 29)
        )
        for randomised in (True, False)
    )
    added = tube - line
    assert float(added.square().sum(1).mean().sqrt()) == pytest.approx(published, rel=0.03)
    assert abs(float(added.mean())) < 4 * published / math.sqrt(2 * added.numel())


@pytest.mark.parametrize("t, share", [(1.0, 0.54), (0.5, 0.55), (0.1, 0.86)])
def test_new_noise_widens_the_path_by_its_published_share(t, share):
    assert PATH.diffusion(t) / math.sqrt(30) / PATH.std(t - 0.97 / 29) == pytest.approx(share, abs=6e-3)


class Listening(torch.nn.Module):
    """Stands where a student does: keeps what it was asked, and its copy, the target, does too."""

    def __init__(self) -> None:
        super().__init__()
        self.spectra, self.path, self.sigma_data = CompressedStft(SPECTRA), PATH, 0.1
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def evaluate(self, x, noisy, t):
        self.asked.append((x, noisy, t))
        return x * (1 if isinstance(t, float) else t)


def noise_of(asked, clean: Tensor) -> Tensor:
    """The noise that was added to the path's mean."""
    x, noisy, t = asked
    return (x - PATH.mean(clean, noisy, t)) / PATH.std(t)


def test_without_a_teacher_both_points_have_noise_of_their_own():
    torch.manual_seed(0)
    model, batch = Listening(), make_batch(0)
    walk = Consistency(model, None, ConsistencyConfig())
    walk(model, batch.noisy, batch.clean, heard=False)
    (asked,), (later,) = model.asked, walk.target.asked
    assert bool((later[2] < asked[2]).all()) and torch.equal(later[1], asked[1])
    _, clean, _ = normalised(batch.noisy, batch.clean)
    first, second = (noise_of(each, spectra_of(model, clean)[0]) for each in (asked, later))
    for drawn in (first, second):
        assert float(drawn.var()) == pytest.approx(0.5, rel=0.05)
    assert abs(float((first * second).mean())) < 4 * 0.5 / math.sqrt(first.numel())


def test_times_are_neighbours_on_the_grid_and_all_of_them_come_up():
    torch.manual_seed(0)
    model, grid = Listening(), time_grid(5, 0.03)
    walk, batch = Consistency(model, None, ConsistencyConfig(points=5)), make_batch(0, 64)
    for _ in range(30):
        walk(model, batch.noisy, batch.clean, heard=False)
    pairs = {
        (round(float(t), 5), round(float(s), 5))
        for one, other in zip(model.asked, walk.target.asked, strict=True)
        for t, s in zip(one[2], other[2], strict=True)
    }
    assert pairs == {(round(t, 5), round(s, 5)) for t, s in zip(grid, grid[1:], strict=False)}


def test_networks_see_signals_whose_noisy_peak_is_one():
    batch = make_batch(0)
    noisy, clean, peak = normalised(batch.noisy, batch.clean)
    assert noisy.abs().amax(1).tolist() == pytest.approx([1, 1])
    assert torch.allclose(clean * peak, batch.clean) and torch.allclose(noisy * peak, batch.noisy)


@pytest.mark.parametrize("samples", [2048, 2049, 2079])
def test_terms_hear_the_output_as_loud_and_as_long_as_the_clean_signal(samples):
    """Of a network that is right, the clean signal itself."""
    batch, model = make_batch(0, samples), Listening()
    walk = Consistency(model, None, ConsistencyConfig())
    _, clean, _ = normalised(batch.noisy, batch.clean)
    model.evaluate = lambda x, noisy, t: spectra_of(model, clean)[0]
    assert torch.allclose(walk(model, batch.noisy, batch.clean, heard=True).wave, batch.clean, atol=1e-5)
    assert walk(model, batch.noisy, batch.clean, heard=False).wave is None


def test_denoisers_learn_the_mean_of_the_path_at_all_its_times():
    torch.manual_seed(0)
    model, batch, times = Listening(), make_batch(0), []
    for _ in range(100):
        walked = Denoising()(model, batch.noisy, batch.clean, heard=False)
        x, noisy, t = model.asked[-1]
        times += t.flatten().tolist()
    y, clean = spectra_of(model, *normalised(batch.noisy, batch.clean)[:2])
    assert torch.equal(walked.output, x * t) and torch.equal(noisy, y)
    assert torch.allclose(walked.target, torch.exp(-1.5 * t) * clean + (1 - torch.exp(-1.5 * t)) * y, atol=1e-6)
    sigma = PATH.std(t)
    assert torch.allclose(walked.weight, 1 / sigma**2 + 1 / 0.1**2, rtol=1e-4)  # the published weight, reduced
    assert float(noise_of((x, noisy, t), clean).var()) == pytest.approx(0.5, rel=0.05)
    assert 0.03 <= min(times) < 0.06 and 0.96 < max(times) <= 1 and np.mean(times) == pytest.approx(0.515, abs=0.06)
