"""Scoring an enhancer on a folder of noisy and clean recordings of the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sekd.audio import SAMPLE_RATE, audio_info, list_audio, read_audio, resample
from sekd.config import Frozen
from sekd.errors import InputError
from sekd.metrics import PairScore, Score, Triple, metrics_named, score_pairs, summarise
from sekd.streaming import HopEnhancer

_NAMES_SHOWN = 3


USUAL_METRICS = ("pesq_wb", "estoi", "si_sdr_db")


class Evaluation(Frozen):
    """Scores of one enhancer on one folder of pairs; what has no value is None."""

    files: int
    """Pairs that were scored: those of ``per_file``."""
    failed: dict[str, str]
    """Name to reason: no partner, unreadable (not scored), or the enhancer broke (scored as missing)."""
    scores: dict[str, float | None]
    """Metric to its mean over the files that score unprocessed; None if one of them has no score."""
    unprocessed: dict[str, float | None]
    intervals: dict[str, Score]
    """The same means with n, 95 % bootstrap interval and the missing files."""
    difference: dict[str, Score]
    """Enhanced minus unprocessed, paired."""
    per_file: tuple[PairScore, ...]


def evaluate(
    enhancer: HopEnhancer,
    pairs_dir: Path,
    *,
    metrics: Sequence[str] = USUAL_METRICS,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Enhances ``pairs_dir/noisy`` and scores it against ``pairs_dir/clean``, both as they came and after.

    The layout is that of VoiceBank-DEMAND (Valentini-Botinhao 2017): equal stems pair, suffixes may
    differ. Files are enhanced here and scored meanwhile in ``processes`` others. ``progress`` receives
    the number of files done and their total.

    Raises:
        InputError: a folder is missing, no names are common, the lengths of a pair differ, a metric is
            unknown, or no pair can be read.
    """
    metrics_named(metrics)
    pairs, failed = find_pairs(Path(pairs_dir))
    count = len(pairs)
    scored = score_pairs(
        _triples(enhancer, pairs, failed),
        metrics,
        sample_rate=SAMPLE_RATE,
        processes=min(processes, count),
        progress=None if progress is None else (lambda done: progress(done, count)),
    )
    if not scored.pairs:
        raise InputError(f"{pairs_dir}: none of {count} pairs can be read; {next(iter(failed.values()))}")
    estimate, before = summarise(scored), summarise(scored, "unprocessed")
    return Evaluation(
        files=len(scored.pairs),
        failed=failed,
        scores={name: score.mean for name, score in estimate.items()},
        unprocessed={name: score.mean for name, score in before.items()},
        intervals=estimate,
        difference=summarise(scored, "difference"),
        per_file=scored.pairs,
    )


def find_pairs(folder: Path) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """Name to (noisy, clean), and name to reason for what cannot be paired.

    Raises:
        InputError: as `evaluate`.
    """
    noisy, clean = (_by_stem(folder / side) for side in ("noisy", "clean"))
    common = sorted(noisy.keys() & clean.keys())
    if not common:
        raise InputError(f"{folder}: no name is common to noisy/ ({_some(noisy)}) and clean/ ({_some(clean)})")
    failed = {name: "no clean file of this name" for name in sorted(noisy.keys() - clean.keys())}
    failed |= {name: "no noisy file of this name" for name in sorted(clean.keys() - noisy.keys())}
    pairs = {}
    for name in common:
        pair = noisy[name], clean[name]
        try:
            lengths = [audio_info(path).duration_s for path in pair]
        except InputError as error:
            failed[name] = str(error)
            continue
        if abs(lengths[0] - lengths[1]) > 0.5 / SAMPLE_RATE:
            raise InputError(f"{pair[0]}: {lengths[0]:.4f} s long, but {pair[1]} is {lengths[1]:.4f} s")
        pairs[name] = pair
    if not pairs:
        raise InputError(f"{folder}: none of {len(common)} pairs can be read; {failed[common[0]]}")
    return pairs, failed


def _by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in list_audio(folder):
        if path.stem in files:
            raise InputError(f"{path}: has the same name as {files[path.stem].name}")
        files[path.stem] = path
    return files


def _some(names: dict[str, Path]) -> str:
    shown = ", ".join(sorted(names)[:_NAMES_SHOWN])
    return f"{shown}, ..." if len(names) > _NAMES_SHOWN else shown


def _triples(enhancer: HopEnhancer, pairs: dict[str, tuple[Path, Path]], failed: dict[str, str]) -> Iterator[Triple]:
    """Reads and enhances pair after pair; what breaks is added to ``failed``.

    A file that cannot be read is left out, whoever enhances it. An estimate that is not finite is the
    enhancer's own doing and counts as a missing score, or breaking on the hard clips would pay.
    """
    rate = enhancer.sample_rate
    for name, paths in pairs.items():
        try:
            noisy, target = (read_audio(path, sample_rate=rate) for path in paths)
        except InputError as error:
            failed[name] = str(error)
            continue
        length = min(len(noisy), len(target))  # equal durations, but two rates can round differently
        noisy, target = noisy[:length], target[:length]
        enhanced = enhancer.enhance(noisy)
        estimate = enhanced if np.isfinite(enhanced).all() else None
        if estimate is None:
            failed[name] = f"{paths[0]}: the model gave back samples that are not finite numbers"
        yield name, _at_16_khz(noisy, rate), _at_16_khz(estimate, rate), resample(target, rate, SAMPLE_RATE)


def _at_16_khz(signal: np.ndarray | None, rate: int) -> np.ndarray | None:
    return None if signal is None else resample(signal, rate, SAMPLE_RATE)
