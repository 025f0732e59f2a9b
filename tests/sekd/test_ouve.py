"""The path of SGMSE+ and what stands around its networks, against published values and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from sekd.config import parse
from sekd.errors import InputError
from sekd.generative.ouve import OuvePath, noise_like
from sekd.generative.preconditioning import consistency_scales, edm_scales, edm_weight, score_of
from sekd.generative.samplers import time_grid

PATH = OuvePath()
# Time: what is kept of the clean spectrum, sigma, g, c_in, c_skip, c_out, weight; sigma_data is 0.1.
TABLE = {
    0.03: (0.955997, 0.018830, 0.114972, 9.82729, 0.965757, 0.018505, 2920.30),
    0.10: (0.860708, 0.035746, 0.135081, 9.41647, 0.886699, 0.033660, 882.604),
    0.25: (0.687289, 0.063813, 0.190806, 8.42987, 0.710628, 0.053793, 345.576),
    0.50: (0.472367, 0.121657, 0.339307, 6.34994, 0.403218, 0.077252, 167.565),
    0.75: (0.324652, 0.218431, 0.603383, 4.16262, 0.173274, 0.090924, 120.959),
    1.00: (0.223130, 0.388983, 1.072983, 2.48985, 0.061993, 0.096851, 106.609),
}
LAST_DIGIT = (5e-7, 5e-7, 5e-7, 5e-6, 5e-7, 5e-7, 5e-3)  # to which the table is rounded


def row(t):
    one, nothing = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    sigma = PATH.std(t)
    return PATH.mean(one, nothing, t), sigma, PATH.diffusion(t), *edm_scales(sigma), edm_weight(sigma)


@pytest.mark.parametrize("t", TABLE)
@pytest.mark.parametrize("kind", [float, lambda t: torch.tensor(t, dtype=torch.float64)])
def test_the_published_table(t, kind):
    for found, wanted, off in zip(row(kind(t)), TABLE[t], LAST_DIGIT, strict=True):
        assert float(found) == pytest.approx(wanted, abs=1.01 * off)


@pytest.mark.parametrize("path", [PATH, OuvePath(theta=2.0, sigma_min=0.1, sigma_max=1.5)])
def test_the_variance_solves_its_equation(path):
    """``dP/dt = -2 theta P + g^2`` from 0 by the midpoint rule."""
    variance, steps = 0.0, 2000
    for k in range(steps):
        middle = variance + 0.5 / steps * (path.diffusion(k / steps) ** 2 - 2 * path.theta * variance)
        variance += (path.diffusion((k + 0.5) / steps) ** 2 - 2 * path.theta * middle) / steps
    assert math.sqrt(variance) == pytest.approx(path.std(1.0), rel=1e-6)
    assert path.std(0.0) == 0


def test_the_mean_solves_its_equation():
    clean, noisy, x, steps = 0.3, 0.5, 0.3, 2000
    for _ in range(steps):
        middle = x + 0.5 / steps * PATH.drift(x, noisy)
        x += PATH.drift(middle, noisy) / steps
    assert x == pytest.approx(float(PATH.mean(torch.tensor(clean), torch.tensor(noisy), 1.0)), rel=1e-6)


def test_sampling_begins_around_the_noisy_spectrum_and_not_where_the_path_ends():
    noisy, noise = torch.tensor([0.5, -1.0]), torch.tensor([1.0, -2.0])
    assert PATH.prior(noisy, noise).tolist() == pytest.approx([0.5 + 0.388983, -1 - 2 * 0.388983], abs=1e-6)
    one, none = torch.ones(1), torch.zeros(1)
    assert float(PATH.mean(one, none, 1.0)) == pytest.approx(0.223, abs=5e-4)
    assert float(PATH.mean(one, none, PATH.t_eps)) == pytest.approx(0.956, abs=5e-4)


def test_complex_noise_has_half_of_its_variance_in_each_part():
    drawn = noise_like(torch.empty(4, 2, 256, 128), torch.Generator().manual_seed(0))
    count = drawn[:, 0].numel()
    for part in drawn.unbind(1):
        assert float(part.var()) == pytest.approx(0.5, abs=4 * 0.5 * math.sqrt(2 / count))
        assert abs(float(part.mean())) < 4 * math.sqrt(0.5 / count)
    assert abs(float((drawn[:, 0] * drawn[:, 1]).mean())) < 4 * 0.5 / math.sqrt(count)


def test_points_of_the_path_are_their_mean_and_noise_for_each_time_of_a_batch():
    torch.manual_seed(0)
    clean, noisy, noise = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64).unbind(0)
    times = [0.03, 0.7]
    x = PATH.perturbed(clean, noisy, torch.tensor(times, dtype=torch.float64)[:, None, None, None], noise)
    for k, t in enumerate(times):
        kept = math.exp(-1.5 * t)
        wanted = kept * clean[k] + (1 - kept) * noisy[k] + TABLE.get(t, (0, PATH.std(t)))[1] * noise[k]
        assert torch.allclose(x[k], wanted, atol=1e-6)


def test_a_denoiser_of_one_bin():
    scales = edm_scales(PATH.std(0.5))
    assert scales.skip * 0.6 + scales.out * 0.2 == pytest.approx(0.257381, abs=5e-7)


@pytest.mark.parametrize("t", TABLE)
def test_the_score_behind_the_mean_is_minus_the_noise(t):
    torch.manual_seed(0)
    clean, noisy, z = torch.randn(3, 100, dtype=torch.float64).unbind(0)
    mean, sigma = PATH.mean(clean, noisy, t), PATH.std(t)
    assert torch.allclose(score_of(mean, mean + sigma * z, sigma), -z / sigma)


def test_the_flow_has_half_the_score_of_the_reverse_process():
    x, noisy, score = torch.tensor([0.6]), torch.tensor([0.5]), torch.tensor([-13.139639])
    wanted = 1.5 * (0.5 - 0.6) + 0.5 * 0.339307**2 * 13.139639
    assert float(PATH.flow(x, noisy, 0.5, score)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("t", TABLE)
def test_networks_see_and_give_unit_variance_where_clean_spectra_have_sigma_data(t):
    """Karras et al. 2022, appendix B.6, of the variances: inputs, and what is left for the network to say."""
    sigma = PATH.std(t)
    scales, weight = edm_scales(sigma, 0.2), edm_weight(sigma, 0.2)
    assert scales.into**2 * (sigma**2 + 0.2**2) == pytest.approx(1)
    left = (1 - scales.skip) ** 2 * 0.2**2 + scales.skip**2 * sigma**2
    assert left == pytest.approx(scales.out**2)
    assert weight * scales.out**2 == pytest.approx(1)


@pytest.mark.parametrize("t", TABLE)
def test_published_consistency_functions_hear_their_inputs_as_they_are(t):
    sigma = PATH.std(t)
    into, skip, out = consistency_scales(sigma, PATH.std(PATH.t_eps))
    assert into == 1
    assert (skip, out) == pytest.approx(TABLE[t][4:6], abs=6e-7)


def test_the_exact_boundary_gives_back_its_input_at_the_earliest_time():
    least = PATH.std(0.03)
    assert consistency_scales(least, least, boundary="exact") == (1, 1, 0)
    later = consistency_scales(PATH.std(0.5), least, boundary="exact")
    above = 0.121657 - 0.018830
    wanted = (1, 0.01 / (above**2 + 0.01), 0.1 * above / math.sqrt(0.01 + 0.121657**2))
    assert later == pytest.approx(wanted, abs=1e-5)


def test_the_grid_of_times():
    grid = time_grid(30, 0.03)
    assert (grid[0], grid[-1], len(grid)) == (1.0, 0.03, 30)
    assert [a - b for a, b in zip(grid, grid[1:], strict=False)] == pytest.approx([0.0334483] * 29, abs=5e-8)
    assert time_grid(1, 0.03) == [1.0] and time_grid(2, 0.3) == [1.0, 0.3]


@pytest.mark.parametrize(
    "document, message",
    [
        ({"sigma_min": 0.5}, "sigma_min = 0.5 must be below sigma_max = 0.5"),
        ({"theta": 0.0}, "theta"),
        ({"t_eps": 0.0}, "t_eps"),
        ({"t_eps": 1.0}, "t_eps"),
        ({"sigma": 1.0}, "unknown key 'sigma'"),
    ],
)
def test_nonsense_is_one_line(document, message):
    with pytest.raises(InputError) as error:
        parse(OuvePath, document, "path")
    assert message in str(error.value) and "\n" not in str(error.value)
