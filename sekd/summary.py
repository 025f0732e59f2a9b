"""Means over files with their uncertainty; a mean that leaves out what failed does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from sekd.config import Frozen

Scores = dict[str, float | None]


class PairScore(Frozen):
    """One file: metric to score, before and after enhancement; None where there is no score."""

    name: str
    unprocessed: Scores
    scores: Scores
    reasons: dict[str, str] = {}
    """Why a metric has no score for the estimate."""


class PairScores(Frozen):
    """The scores of every pair, in the order in which they were given."""

    metrics: tuple[str, ...]
    pairs: tuple[PairScore, ...]

    @property
    def unprocessed(self) -> dict[str, Scores]:
        """File name to the unprocessed scores, as `score_pairs` takes them the next time."""
        return {pair.name: pair.unprocessed for pair in self.pairs}


class Score(Frozen):
    """A mean over ``n`` files with its 95 % bootstrap interval."""

    mean: float | None
    n: int
    low: float | None
    high: float | None
    missing: tuple[str, ...] = ()
    """Files that score unprocessed but not for the estimate. If there is one there is no mean."""


def summarise(
    scores: PairScores,
    of: Literal["estimate", "unprocessed", "difference"] = "estimate",
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Score]:
    """Metric to its `Score` over the pairs that score unprocessed.

    The set of files is fixed by what came in, so that muting the hard clips, which then have no score,
    cannot raise a mean: if any of them fails for the estimate, the mean is None and ``missing`` names
    it. ``difference`` is estimate minus unprocessed, resampled in pairs.
    """
    return {metric: _summary(scores.pairs, metric, of, resamples, seed) for metric in scores.metrics}


def _summary(pairs: Iterable[PairScore], metric: str, of: str, resamples: int, seed: int) -> Score:
    values, missing = [], []
    for pair in pairs:
        before, after = pair.unprocessed[metric], pair.scores[metric]
        if before is None:
            continue
        if of == "unprocessed":
            values.append(before)
        elif after is None:
            missing.append(pair.name)
        else:
            values.append(after if of == "estimate" else after - before)
    if missing or not values:
        return Score(mean=None, n=len(values), low=None, high=None, missing=tuple(missing))
    low, high = bootstrap_interval(np.array(values), resamples=resamples, seed=seed)
    return Score(mean=float(np.mean(values)), n=len(values), low=low, high=high)


def bootstrap_interval(
    values: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> tuple[float | None, float | None]:
    """95 % percentile interval of the mean of ``values`` (file,) (Efron and Tibshirani 1993, ch. 13).

    One value says nothing about its spread: (None, None).
    """
    if len(values) < 2:
        return None, None
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
