"""Fits a cost model: few non-negative costs, chosen and judged by networks that were left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.prediction.cost_model import LEAST_MS, SHARE
from search.prediction.features import CACHES_KIB
from sekd.errors import InputError

FEWEST = 10  # networks: a 90 % interval of nine residuals would be their largest, and of fewer none at all

# What may cost, from the least to the most that ten to thirty networks can tell apart. Written down before any fit
# that is reported: a launch for each node; the values that nodes write; MACs, at one rate or at one of each kind of
# kernel; a call of a recurrent layer, which sets up its own buffers.
_LAUNCHES = (
    ("nodes", "macs_k"),
    ("nodes", "values_k", "macs_k"),
    ("nodes", "recurrent_nodes", "values_k", "macs_k"),
    ("nodes", "recurrent_nodes", "values_k", "conv_macs_k", "matmul_macs_k", "recurrent_macs_k"),
)
_MEMORY: tuple[tuple[str, ...], ...] = ((), *((f"weights_kib_over_{cache}",) for cache in CACHES_KIB))
FORMS = tuple((*launches, *memory) for launches, memory in product(_LAUNCHES, _MEMORY))


class Fit(NamedTuple):
    """Microseconds of each figure, and the factor by which networks left out of it were off."""

    us_per: dict[str, float]
    errors: NDArray[np.float64]  # |log(measured / predicted)| of each network, left out


class Judged(NamedTuple):
    """What a fit without a network said of it: ms, and the interval that the others' errors give."""

    predicted_ms: float
    ratio: float


def fit(figures: Sequence[dict[str, float]], measured_ms: Sequence[float]) -> Fit:
    """The form whose costs predict left-out networks best, fitted to all of them.

    Errors are relative ones: networks of a fiftieth of a millisecond matter as much as those of one.

    Raises:
        InputError: too few networks.
    """
    if len(figures) < FEWEST:
        raise InputError(f"{len(figures)} networks are too few to fit a cost model; at least {FEWEST}")
    return _fit(figures, np.asarray(measured_ms, dtype=float))


def judge(figures: Sequence[dict[str, float]], measured_ms: Sequence[float]) -> list[Judged]:
    """Each network by a fit to all others: its form, costs and interval know nothing of it."""
    measured = np.asarray(measured_ms, dtype=float)
    judged = []
    for left_out in range(len(figures)):
        others = [i for i in range(len(figures)) if i != left_out]
        found = _fit([figures[i] for i in others], measured[others])
        us = sum(cost * figures[left_out][name] for name, cost in found.us_per.items())
        judged.append(Judged(max(us / 1000, LEAST_MS), interval_ratio(found.errors)))
    return judged


def interval_ratio(errors: NDArray[np.float64], share: float = SHARE) -> float:
    """Split-conformal: of n errors the one of rank (n + 1) x share, rounded up, the largest where n is too small."""
    rank = min(math.ceil((len(errors) + 1) * share), len(errors))
    return float(np.exp(np.sort(errors)[rank - 1]))


def _fit(figures: Sequence[dict[str, float]], measured_ms: NDArray[np.float64]) -> Fit:
    errors = {form: _left_out_errors(_matrix(figures, form), measured_ms) for form in FORMS}
    # Of forms within a thousandth of each other the one of fewer figures.
    form = min(FORMS, key=lambda each: (round(float(errors[each].mean()), 3), len(each)))
    costs = _costs(_matrix(figures, form), measured_ms)
    return Fit(dict(zip(form, map(float, costs), strict=True)), errors[form])


def _matrix(figures: Sequence[dict[str, float]], form: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[each[name] for name in form] for each in figures], dtype=float)


def _costs(matrix: NDArray[np.float64], measured_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Microseconds, none below 0, least squares of predicted / measured - 1."""
    from scipy.optimize import nnls

    costs, _ = nnls(matrix / (1000 * measured_ms[:, None]), np.ones(len(measured_ms)))
    return costs


def _left_out_errors(matrix: NDArray[np.float64], measured_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    everyone = np.arange(len(measured_ms))
    predicted_ms = [
        matrix[i] @ _costs(matrix[everyone != i], measured_ms[everyone != i]) / 1000 for i in range(len(measured_ms))
    ]
    return np.abs(np.log(measured_ms / np.maximum(predicted_ms, LEAST_MS)))
