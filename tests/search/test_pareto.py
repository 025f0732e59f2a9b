"""Pareto arithmetic against brute force and against Optuna's own hypervolume."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume

from search.pareto import hypervolume, hypervolume_gain, non_dominated, reference_point

DOWN, UP = "minimize", "maximize"
MIXES = [*itertools.product((DOWN, UP), repeat=2), *itertools.product((DOWN, UP), repeat=3)]


def random_points(seed, count, directions):
    """(count, m) small integers, so that ties and duplicates are common, less is better before the signs."""
    signs = np.array([1 if name == DOWN else -1 for name in directions])
    return np.random.default_rng(seed).integers(0, 7, (count, len(directions))) * signs, signs


def brute_front(losses):
    def beaten(j):
        return any(
            all(losses[i] <= losses[j]) and (any(losses[i] < losses[j]) or i < j) for i in range(len(losses)) if i != j
        )

    return [j for j in range(len(losses)) if not beaten(j)]


def brute_volume(losses, bound):
    """Unit cells of the integer grid below ``bound`` that some point covers."""
    cells = itertools.product(*(range(int(side)) for side in bound))
    return sum(any(all(np.array(cell) >= point) for point in losses) for cell in cells)


@pytest.mark.parametrize("directions", MIXES)
def test_non_dominated_is_brute_force(directions):
    for seed in range(20):
        points, signs = random_points(seed, 15, directions)
        assert non_dominated(points, directions) == brute_front(points * signs)


@pytest.mark.parametrize("directions", MIXES)
def test_hypervolume_counts_grid_cells(directions):
    for seed in range(4):
        points, signs = random_points(seed, 6, directions)
        bound = np.full(len(directions), 6)
        expected = brute_volume(points * signs, bound)
        assert hypervolume(points, bound * signs, directions) == expected


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_hypervolume_equals_optuna(dimensions, seed):
    losses = np.random.default_rng(seed).normal(size=(25, dimensions))
    inside = losses[(losses < 1.0).all(axis=1)]
    expected = compute_hypervolume(inside, np.ones(dimensions))
    assert hypervolume(losses, np.ones(dimensions), [DOWN] * dimensions) == pytest.approx(expected)


@pytest.mark.parametrize("directions", [(DOWN, UP), (UP, DOWN, DOWN)])
@pytest.mark.parametrize("seed", range(5))
def test_order_duplicates_and_dominated_points_change_nothing(directions, seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(size=(12, len(directions)))
    bound = reference_point(points, directions)
    volume = hypervolume(points, bound, directions)
    front = points[non_dominated(points, directions)]
    assert hypervolume(rng.permutation(points), bound, directions) == pytest.approx(volume)
    assert hypervolume(np.concatenate([points, points]), bound, directions) == pytest.approx(volume)
    assert hypervolume(front, bound, directions) == pytest.approx(volume)


@pytest.mark.parametrize("seed", range(5))
def test_gains_of_points_added_one_by_one_sum_to_the_hypervolume(seed):
    directions, points = (UP, DOWN, DOWN), np.random.default_rng(seed).uniform(size=(10, 3))
    bound = reference_point(points, directions)
    gains = [hypervolume_gain(points[i], points[:i], bound, directions) for i in range(10)]
    assert sum(gains) == pytest.approx(hypervolume(points, bound, directions))
    assert all(hypervolume_gain(point, points, bound, directions) == 0 for point in points)


def test_hypervolume_of_a_known_front():
    # Quality 2 at 1 ms and 3 at 2 ms, seen from quality 1 at 4 ms: 1 x 3 plus 1 x 2.
    front = [(2.0, 1.0), (3.0, 2.0)]
    assert hypervolume(front, (1.0, 4.0), (UP, DOWN)) == 5.0
    assert hypervolume_gain((2.5, 1.5), front, (1.0, 4.0), (UP, DOWN)) == pytest.approx(0.25)
    assert hypervolume_gain((2.5, 3.0), front, (1.0, 4.0), (UP, DOWN)) == 0.0


def test_points_at_or_beyond_the_reference_contribute_nothing():
    assert hypervolume([(1.0, 0.0), (0.0, 2.0), (5.0, 5.0)], (1.0, 1.0), (DOWN, DOWN)) == 0.0
    assert hypervolume([], (1.0, 1.0), (DOWN, DOWN)) == 0.0
    assert hypervolume_gain((0.5, 0.5), [], (1.0, 1.0), (DOWN, DOWN)) == 0.25


def test_equal_points_keep_the_first():
    assert non_dominated([(1, 1), (0, 2), (1, 1), (0, 2), (2, 2)], (DOWN, DOWN)) == [0, 1]
    assert non_dominated([], (DOWN, DOWN)) == []


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(2.0, 1.0), (3.0, 5.0)], [1.9, 5.4]),
        ([(2.0, 4.0)], [1.8, 4.4]),
        ([(-2.0, 0.0)], [-2.2, 1.0]),
    ],
)
def test_reference_point_is_the_worst_and_a_tenth_more(points, expected):
    assert reference_point(points, (UP, DOWN)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "points", [[(1.0, None)], [(float("nan"), 1.0)], [(float("inf"), 1.0)], [(1.0, 2.0, 3.0)], [1.0, 2.0]]
)
@pytest.mark.parametrize("compute", [non_dominated, reference_point])
def test_what_is_not_a_point_is_refused(compute, points):
    with pytest.raises(ValueError):
        compute(points, (DOWN, DOWN))


def test_other_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="two or three"):
        hypervolume([(1.0,)], (2.0,), (DOWN,))
    with pytest.raises(ValueError, match="at least one point"):
        reference_point([], (DOWN, DOWN))
    with pytest.raises(ValueError, match="finite"):
        hypervolume([(1.0, 1.0)], (None, 2.0), (DOWN, DOWN))
    with pytest.raises(ValueError, match="smaller"):
        non_dominated([(1.0, 1.0)], (DOWN, "smaller"))
