"""How often the gates of a trained file are open: a mean over the study's own noisy recordings, never over noise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from search.cost import with_loads
from search.record import Cost
from search.scoring import validation_pairs
from sekd.audio import read_audio
from sekd.onnx_gates import measured_load, threshold_of


def with_load(
    cost: Cost,
    path: Path,
    valid: Path,
    mix: str,
    *,
    guard: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Cost:
    """``cost`` of the file at ``path`` with its load on the noisy validation pairs; without gates as it is.

    Args:
        mix: what the pairs are called.
        guard: held during each signal.
    """
    threshold = threshold_of(path)
    if not cost.gated or threshold is None:
        return cost
    means, seconds = [], []
    for _, noisy, _ in validation_pairs(valid):
        with guard():
            signal = read_audio(noisy)
            means += measured_load(path, [signal])
            seconds.append(len(signal))
    loads = np.average(means, axis=0, weights=seconds)  # of frames, whichever recording they are in
    return with_loads(cost, [float(load) for load in loads], threshold=round(threshold, 6), mix=mix)


def mix_name(valid: str | None) -> str:
    """What a load on the validation pairs with this hash is said to be of."""
    return f"valid-{valid}"
