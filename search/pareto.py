"""Pareto arithmetic: who is not dominated, and how much of objective space a front covers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Direction = Literal["minimize", "maximize"]
Array = NDArray[np.float64]


def non_dominated(points: ArrayLike, directions: Sequence[Direction]) -> list[int]:
    """Indices, ascending, of the rows of ``points`` (n, m) that no other row dominates.

    Of exactly equal rows only the first is kept, so that a student proposed twice is on the front once.
    """
    losses = _losses(points, directions)
    # From the least loss on, ties by place: whoever is first of those left is beaten by none of them.
    left = np.lexsort((np.arange(len(losses)), *losses.T[::-1]))
    kept: list[int] = []
    while len(left):
        first, others = left[0], left[1:]
        kept.append(int(first))
        left = others[(losses[others] < losses[first]).any(axis=1)]
    return sorted(kept)


def hypervolume(points: ArrayLike, reference: ArrayLike, directions: Sequence[Direction]) -> float:
    """Volume dominated by ``points`` (n, m) and bounded by ``reference`` (m,), exact, for m = 2 or 3.

    A point that is not strictly better than the reference in every objective contributes nothing.
    """
    losses, bound = _losses(points, directions), _losses([reference], directions)[0]
    inside = losses[(losses < bound).all(axis=1)]
    if bound.size == 2:
        return _area(inside, bound)
    if bound.size == 3:
        return _volume(inside, bound)
    raise ValueError(f"hypervolume is for two or three objectives, not {bound.size}")


def hypervolume_gain(
    point: ArrayLike, front: ArrayLike, reference: ArrayLike, directions: Sequence[Direction]
) -> float:
    """What ``point`` (m,) adds to the hypervolume of ``front`` (n, m); exactly 0 when it is dominated."""
    losses, candidate = _losses(front, directions), _losses([point], directions)
    if (losses <= candidate).all(axis=1).any():
        return 0.0
    signs = _signs(directions)
    with_point = np.concatenate([losses, candidate]) * signs
    # Two nearly equal volumes may differ by a rounding error below zero.
    gain = hypervolume(with_point, reference, directions) - hypervolume(losses * signs, reference, directions)
    return max(0.0, gain)


def reference_point(points: ArrayLike, directions: Sequence[Direction]) -> list[float]:
    """The worst value of each objective of ``points`` (n, m), made worse by 10 % of the observed range.

    Where all values of an objective are equal: by 10 % of its magnitude, or by 1 where that is 0 too.
    """
    losses = _losses(points, directions)
    if not len(losses):
        raise ValueError("a reference point needs at least one point")
    worst, spread = losses.max(axis=0), np.ptp(losses, axis=0)
    margin = 0.1 * np.where(spread > 0, spread, np.abs(worst))
    bound = worst + np.where(margin > 0, margin, 1.0)
    return [float(value) for value in bound * _signs(directions)]


def _signs(directions: Sequence[Direction]) -> Array:
    """(m,) +1 where less is better, -1 where more is."""
    unknown = [name for name in directions if name not in ("minimize", "maximize")]
    if unknown or not directions:
        raise ValueError(f"directions are 'minimize' or 'maximize', not {unknown or 'none at all'}")
    return np.array([1.0 if name == "minimize" else -1.0 for name in directions])


def _losses(points: Any, directions: Sequence[Direction]) -> Array:
    """``points`` as (n, m) where less is better in every column; n may be 0."""
    signs = _signs(directions)
    values = np.asarray(points, dtype=np.float64)
    if values.size == 0:
        return np.empty((0, signs.size))
    if values.ndim != 2 or values.shape[1] != signs.size:
        raise ValueError(f"points have shape {values.shape}, expected (n, {signs.size})")
    # None became NaN above: an absent figure has no place on a front.
    if not np.isfinite(values).all():
        raise ValueError("points must be finite: leave out what was not measured")
    return values * signs


def _area(losses: Array, bound: Array) -> float:
    """Area between ``losses`` (n, 2), all below ``bound``, and ``bound`` (2,): a staircase swept along x."""
    if not len(losses):
        return 0.0
    ordered = losses[np.argsort(losses[:, 0], kind="stable")]
    lowest = np.minimum.accumulate(ordered[:, 1])
    widths = np.diff(ordered[:, 0], append=bound[0])
    return float(np.sum(widths * (bound[1] - lowest)))


def _volume(losses: Array, bound: Array) -> float:
    """Volume between ``losses`` (n, 3), all below ``bound``, and ``bound`` (3,): slices swept along z."""
    ordered = losses[np.argsort(losses[:, 2], kind="stable")]
    depths = np.diff(ordered[:, 2], append=bound[2])
    slices = (_area(ordered[: i + 1, :2], bound[:2]) * depth for i, depth in enumerate(depths) if depth > 0)
    return float(sum(slices))
