import math

import numpy as np
import pytest

from search.agent import percentiles

SPIKES = 0.015  # rare ones, just more than 1 %: a p99 from few samples misses them


def spiky(rng, n):
    """Latencies, ms: 1 with a little noise, and spikes of 5 to 50."""
    quiet = rng.lognormal(0, 0.02, n)
    return np.where(rng.random(n) < SPIKES, rng.uniform(5, 50, n), quiet)


@pytest.mark.parametrize("n", [1, 2, 7, 90, 128, 459, 1000])
def test_percentile_equals_numpys_higher_order_statistic(n):
    samples = list(np.random.default_rng(n).lognormal(size=n))
    for share in (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0):
        found = percentiles.percentile(samples, share)
        assert found == np.quantile(samples, share, method="higher")
        assert found in samples


def test_samples_needed_are_those_of_mlperf():
    assert [percentiles.samples_needed(p) for p in (0.5, 0.9, 0.95, 0.99, 0.999)] == [7, 44, 90, 459, 4603]


@pytest.mark.parametrize(("n", "from_top"), [(89, None), (90, 1), (129, 1), (130, 2)])
def test_upper_bound_of_p95_discards_as_mlperf_does(n, from_top):
    samples = [float(i) for i in range(n)]
    assert percentiles.upper_bound(samples, 0.95) == (None if from_top is None else n - from_top)


def test_upper_bound_equals_the_binomial_sum_and_survives_many_samples():
    n = 300
    bound = percentiles.upper_bound(list(range(n)), 0.95)
    tails = [sum(math.comb(n, j) * 0.95**j * 0.05 ** (n - j) for j in range(k, n + 1)) for k in range(n + 1)]
    assert bound == next(k for k in range(1, n + 1) if tails[k] <= 0.01) - 1
    assert 0.95 * 24576 < percentiles.upper_bound(list(range(24576)), 0.95) < 0.96 * 24576


@pytest.mark.parametrize("n", [6, 7, 43, 44, 89, 90, 458, 459])
def test_a_percentile_needs_its_samples(n):
    found = percentiles.summarise([0.002] * n)
    for name, least in (("p50", 7), ("p90", 44), ("p95", 90), ("p99", 459)):
        assert (found[f"{name}_ms"] is not None) == (found[f"{name}_upper_ms"] is not None) == (n >= least)


@pytest.mark.parametrize("n", [459, 662, 1024, 3072])
def test_the_bound_covers_the_true_p99_where_the_sample_percentile_does_not(n):
    rng = np.random.default_rng(n)
    # Spikes are 1.5 %, hence the true p99 is the quantile (0.015 - 0.01) / 0.015 from their top.
    true_p99 = 5 + 45 * (SPIKES - 0.01) / SPIKES
    streams = [spiky(rng, n) for _ in range(1000)]
    covered = np.mean([percentiles.upper_bound(samples, 0.99) >= true_p99 for samples in streams])
    plain = np.mean([percentiles.percentile(samples, 0.99) >= true_p99 for samples in streams])
    assert covered >= 0.98
    assert plain < 0.9


def test_twenty_runs_as_peers_make_them_say_nothing_of_the_p99():
    rng = np.random.default_rng(20)
    below_half = [np.percentile(spiky(rng, 20), 99) < 10 for _ in range(1000)]
    assert np.mean(below_half) > 0.7 and percentiles.upper_bound(spiky(rng, 20), 0.99) is None
