"""How much of a file's output another file gives back: what int8 costs before anybody scores the speech."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sekd.errors import InputError
from sekd.quality import si_sdr_db
from sekd.streaming import OnnxEnhancer


def agreement_db(deployed: Path, reference: Path, audio: Iterable[np.ndarray]) -> float:
    """Mean SI-SDR in dB of what ``deployed`` makes of noisy signals (sample,) against what ``reference`` makes.

    Signals that both make equal, or ``reference`` silent, have no score; infinite if there are no others.

    Raises:
        InputError: an output of ``deployed`` is not finite, is silent, or has nothing of that of ``reference``.
    """
    ours, theirs = OnnxEnhancer(deployed), OnnxEnhancer(reference)
    scores = []
    for noisy in audio:
        estimate, target = ours.enhance(noisy), theirs.enhance(noisy)
        if np.array_equal(estimate, target) or not target.any() and np.isfinite(estimate).all():
            continue
        score, reason = si_sdr_db.outcome(estimate, target)
        if score is None:
            raise InputError(f"{deployed}: not the network of {reference.name}: {reason}")
        scores.append(score)
    return float(np.mean(scores)) if scores else float("inf")
