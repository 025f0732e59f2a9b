"""The table of metrics, and scoring many pairs with them, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from sekd.errors import InputError, nearest
from sekd.quality import Metric, Outcome, Unscored, dnsmos_ovrl, estoi, pesq_nb, pesq_wb, si_sdr_db
from sekd.summary import PairScore, PairScores, Score, Scores, bootstrap_interval, summarise

__all__ = [
    "METRICS", "Metric", "Outcome", "PairScore", "PairScores", "Score", "Triple", "Unscored",
    "bootstrap_interval", "dnsmos_ovrl", "estoi", "metrics_named", "pesq_nb", "pesq_wb", "score_pairs",
    "si_sdr_db", "summarise",
]  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in (pesq_wb, pesq_nb, estoi, si_sdr_db, dnsmos_ovrl)}

Triple = tuple[str, np.ndarray | None, np.ndarray | None, np.ndarray]
"""(name, noisy, estimate, target), each (sample,).

An estimate that could not be made is None and counts as missing; noisy may be None where its scores
are known already.
"""

_Job = tuple[str, Scores | None, Triple, tuple[Metric, ...], int]


def metrics_named(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics of these names. Raises InputError for an unknown one."""
    for name in names:
        if name not in METRICS:
            raise InputError(f"unknown metric {name!r}{nearest(name, METRICS)}")
    return tuple(METRICS[name] for name in names)


def score_pairs(
    triples: Iterable[Triple],
    metrics: Sequence[str],
    *,
    sample_rate: int = 16_000,
    processes: int = 1,
    guard: Callable[[], AbstractContextManager[object]] | None = None,
    unprocessed: Mapping[str, Scores] | None = None,
    progress: Callable[[int], None] | None = None,
) -> PairScores:
    """Scores of the noisy signal and of the estimate against the target, file by file.

    ``triples`` is consumed as scoring proceeds, so it may make the estimates on the way. ``unprocessed``
    holds scores of noisy signals known from before (`PairScores.unprocessed`). With one process the work
    is done here, each file inside ``guard()``; with more, in spawned processes, without it: a script then
    needs the usual ``if __name__ == "__main__"``. ``progress`` receives the number of files done.
    """
    chosen = metrics_named(metrics)
    known = unprocessed or {}
    jobs = ((triple[0], known.get(triple[0]), triple, chosen, sample_rate) for triple in triples)
    several = processes > 1 and _main_can_be_imported()
    scored = _in_pool(jobs, processes) if several else _in_process(jobs, guard or nullcontext)
    pairs = []
    for pair in scored:
        pairs.append(pair)
        if progress is not None:
            progress(len(pairs))
    return PairScores(metrics=tuple(metrics), pairs=tuple(pairs))


def _in_process(jobs: Iterable[_Job], guard: Callable[[], AbstractContextManager[object]]) -> Iterator[PairScore]:
    for job in jobs:
        with guard():
            pair = _score(job)
        yield pair


def _in_pool(jobs: Iterable[_Job], processes: int) -> Iterator[PairScore]:
    """Keeps a few files per process in flight: all of them at once would hold the whole set in memory."""
    waiting: deque[Future[PairScore]] = deque()
    # Spawned, not forked: a fork of a process whose libraries run threads can hang.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_leave_interrupts_to_parent)
    try:
        for job in jobs:
            waiting.append(pool.submit(_score, job))
            if len(waiting) >= 3 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _main_can_be_imported() -> bool:
    """A spawned process imports the main module first; a program read from standard input has no file."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    return path is None or os.path.exists(path)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _score(job: _Job) -> PairScore:
    name, known, (_, noisy, estimate, target), metrics, sample_rate = job
    before: Scores = {}
    after: Scores = {}
    reasons = {}
    for metric in metrics:
        before[metric.name] = _before(metric, known, noisy, target, sample_rate)
        if estimate is None:
            outcome = Outcome(None, "no estimate")
        else:
            outcome = metric.outcome(estimate, target, sample_rate=sample_rate)
        after[metric.name] = outcome.value
        if outcome.reason is not None:
            reasons[metric.name] = outcome.reason
    return PairScore(name=name, unprocessed=before, scores=after, reasons=reasons)


def _before(
    metric: Metric, known: Scores | None, noisy: np.ndarray | None, target: np.ndarray, sample_rate: int
) -> float | None:
    if known is not None and metric.name in known:
        return known[metric.name]
    if noisy is None:
        raise ValueError(f"{metric.name}: neither the noisy signal nor its score is given")
    return metric(noisy, target, sample_rate=sample_rate)
