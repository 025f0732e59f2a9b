"""What a metric is, and the metrics themselves: every one is (estimate, target), absent is None."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

# The PESQ library writes past its table of 50 utterances without a check (wrong scores, then a crash).
# An utterance and the pause before the next take at least 0.2 s each, so 20 s cannot hold more than 50.
_PESQ_LONGEST_S = 20


class Unscored(Exception):
    """The metric is not defined for this pair; the message says why."""


class Outcome(NamedTuple):
    """A score, or the reason why there is none."""

    value: float | None
    reason: str | None


@dataclass(frozen=True)
class Metric:
    """One metric. ``compute`` is (estimate, target, sample_rate) -> float and raises Unscored.

    Call the metric itself, or `function`, for ``float | None``; `outcome` for the reason besides.
    """

    name: str
    unit: str
    direction: Literal["maximize", "minimize"]
    compute: Callable[[np.ndarray, np.ndarray, int], float]
    needs_target: bool = True  # else the target is not looked at

    def __call__(self, estimate: np.ndarray, target: np.ndarray, *, sample_rate: int = 16_000) -> float | None:
        return self.outcome(estimate, target, sample_rate=sample_rate).value

    @property
    def function(self) -> Callable[..., float | None]:
        """(estimate, target, *, sample_rate=16000) -> float | None."""
        return self

    def outcome(self, estimate: np.ndarray, target: np.ndarray, *, sample_rate: int = 16_000) -> Outcome:
        """The score of ``estimate`` (sample,) against ``target`` (sample,), or why there is none.

        Raises:
            ValueError: the shapes differ, or the metric is not defined at this sampling rate.
        """
        if estimate.shape != target.shape or estimate.ndim != 1:
            raise ValueError(f"{self.name}: estimate {estimate.shape} and target {target.shape} do not pair")
        try:
            if self.needs_target:
                _require_sound(target, "target")
            _require_sound(estimate, "estimate")
            value = float(self.compute(estimate, target, sample_rate))
            if not np.isfinite(value):
                raise Unscored(f"the score is {value}")
        except Unscored as reason:
            return Outcome(None, str(reason))
        return Outcome(value, None)


def _require_sound(signal: np.ndarray, role: str) -> None:
    if not np.isfinite(signal).all():
        raise Unscored(f"the {role} holds samples that are not finite numbers")
    if not signal.any():
        raise Unscored(f"the {role} is silent")


def _si_sdr(estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> float:
    """10 log10(|a s|^2 / |a s - e|^2) with a = <e, s> / |s|^2, means removed."""
    estimate, target = (x.astype(np.float64) - x.mean(dtype=np.float64) for x in (estimate, target))
    energy = target @ target
    if energy == 0:
        raise Unscored("the target is constant")
    projection = (estimate @ target / energy) * target
    residual = projection - estimate
    signal, distortion = projection @ projection, residual @ residual
    if signal == 0:
        raise Unscored("the estimate holds nothing of the target")
    if distortion == 0:
        raise Unscored("the estimate equals the target up to its level: infinite")
    return 10 * float(np.log10(signal / distortion))


def _pesq_wb(estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> float:
    if sample_rate != 16_000:
        raise ValueError(f"pesq_wb is defined at 16000 Hz, not at {sample_rate} Hz")
    return _pesq(estimate, target, sample_rate, "wb")


def _pesq_nb(estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> float:
    if sample_rate not in (8_000, 16_000):
        raise ValueError(f"pesq_nb is defined at 8000 and 16000 Hz, not at {sample_rate} Hz")
    return _pesq(estimate, target, sample_rate, "nb")


def _pesq(estimate: np.ndarray, target: np.ndarray, sample_rate: int, mode: str) -> float:
    """PESQ of the whole, or the mean over equal parts of at most 20 s of those in which somebody speaks."""
    parts = -(-len(target) // (_PESQ_LONGEST_S * sample_rate))
    if parts == 1:
        return _pesq_part(estimate, target, sample_rate, mode)
    scores = []
    for e, t in zip(np.array_split(estimate, parts), np.array_split(target, parts), strict=True):
        if _holds_utterance(t, sample_rate, mode):
            scores.append(_pesq_part(e, t, sample_rate, mode))
    if not scores:
        raise Unscored("no utterances in the target")
    return float(np.mean(scores))


def _pesq_part(estimate: np.ndarray, target: np.ndarray, sample_rate: int, mode: str) -> float:
    from pesq import PesqError, pesq  # here: imports multiprocessing, wanted only when scoring

    if not target.any() or not estimate.any():
        raise Unscored("a part of the signal is silent")  # the library divides by the peak
    try:
        return float(pesq(sample_rate, target, estimate, mode))
    except (PesqError, ValueError) as error:
        message = error.args[0] if error.args else error
        raise Unscored(message.decode() if isinstance(message, bytes) else str(message)) from error


def _holds_utterance(target: np.ndarray, sample_rate: int, mode: str) -> bool:
    """Asks the target alone: a part must not drop out because the estimate muted it."""
    try:
        _pesq_part(target, target, sample_rate, mode)
    except Unscored:
        return False
    return True


def _estoi(estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> float:
    from pystoi import stoi  # here: takes a second to import

    # Too little speech makes pystoi warn and return 1e-5, or, under two frames, fail on an axis. It also
    # draws from numpy's global generator: seeded for equal scores, restored for everybody else's.
    before = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Not enough STFT frames")
            return float(stoi(target, estimate, sample_rate, extended=True))
    except (RuntimeWarning, np.exceptions.AxisError) as error:
        raise Unscored("less than 0.4 s of speech, too little for ESTOI") from error
    finally:
        np.random.set_state(before)


def _dnsmos_ovrl(estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> float:
    if sample_rate != 16_000:
        raise ValueError(f"dnsmos_ovrl is defined at 16000 Hz, not at {sample_rate} Hz")
    if len(estimate) < 0.4 * sample_rate:
        raise Unscored("less than 0.4 s, too little to judge")
    from sekd.dnsmos import ovrl  # here: brings onnxruntime, wanted only when somebody asks for this score

    return ovrl(estimate)


si_sdr_db = Metric("si_sdr_db", "dB", "maximize", _si_sdr)
"""Scale-invariant signal-to-distortion ratio, zero-mean (Le Roux et al. 2019, eq. 3)."""

pesq_wb = Metric("pesq_wb", "MOS-LQO", "maximize", _pesq_wb)
"""Wide-band PESQ, ITU-T P.862.2 without corrigendum 2, 1.04 to 4.64; 16 kHz."""

pesq_nb = Metric("pesq_nb", "MOS-LQO", "maximize", _pesq_nb)
"""Narrow-band PESQ, ITU-T P.862.1, 1.02 to 4.55; not comparable with the wide-band score."""

estoi = Metric("estoi", "1", "maximize", _estoi)
"""Extended short-time objective intelligibility, 0 to 1 (Jensen and Taal 2016)."""

dnsmos_ovrl = Metric("dnsmos_ovrl", "MOS", "maximize", _dnsmos_ovrl, needs_target=False)
"""DNSMOS P.835, overall, 1 to 5; a network's opinion of the estimate alone (Reddy et al. 2022); 16 kHz."""
