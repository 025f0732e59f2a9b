"""What there is to beat: scores of unprocessed audio and of the teacher on the validation pairs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from search.objective import validation_pairs
from sekd.audio import read_audio
from sekd.checkpoint import load_model
from sekd.metrics import Triple, score_pairs, summarise
from sekd.preparation import Prepared


def score_baseline(prepared: Prepared, metrics: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Mean scores by ``unprocessed`` and ``teacher``, and the unprocessed scores of each file."""
    pairs = validation_pairs(prepared.valid)
    scored = score_pairs(_triples(prepared, pairs), metrics, processes=os.cpu_count() or 1)
    means = {"unprocessed": summarise(scored, "unprocessed")}
    if prepared.teacher is not None:
        means["teacher"] = summarise(scored)
    documents = {
        name: {metric: score.model_dump(mode="json") for metric, score in by_metric.items()}
        for name, by_metric in means.items()
    }
    return documents, scored.unprocessed


@torch.no_grad()
def _triples(prepared: Prepared, pairs: list[Any]) -> Iterator[Triple]:
    teacher = None if prepared.teacher is None else load_model(prepared.teacher)
    for name, noisy_file, clean_file in pairs:
        noisy = read_audio(noisy_file)
        estimate = noisy if teacher is None else teacher(torch.from_numpy(noisy)[None])[0].numpy()
        yield name, noisy, estimate, read_audio(clean_file)
