"""What there is to beat: scores of unprocessed audio and of the teacher on the validation pairs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from search.scoring import validation_pairs
from search.study import StudyDefinition
from search.trial import metrics_of
from sekd.audio import read_audio
from sekd.cache import write_json
from sekd.errors import InputError
from sekd.metrics import Triple, score_pairs, summarise
from sekd.preparation import Prepared, one_thread
from sekd.teacher import open_teacher

Say = Callable[[str], None]


def gated_baseline(
    study: StudyDefinition, prepared: Prepared, folder: Path, say: Say, *, force: bool, trust_code: bool = False
) -> dict[str, Any]:
    """Scores of unprocessed audio and of the teacher on the validation pairs, made once a study.

    Raises:
        InputError: the teacher does not beat unprocessed audio, and ``force`` is not set.
    """
    kept = folder / "baseline.json"
    key = [prepared.hashes.valid, prepared.hashes.teacher, *metrics_of(study)]
    known = json.loads(kept.read_text()) if kept.exists() else None
    if known is None or known["of"] != key:
        known = {"of": key, "means": _scored(study, prepared, folder, say, trust_code)}
        write_json(kept, known)
    quality = study.objectives.quality
    before, teacher = (known["means"].get(name, {}).get(quality) for name in ("unprocessed", "teacher"))
    if teacher is not None:
        say(f"{quality}: unprocessed {_mean(before)}, teacher {_mean(teacher)} on {teacher['n']} validation pairs")
        poor = teacher["mean"] is None or (before["mean"] is not None and teacher["mean"] <= before["mean"])
        if poor and not force:
            raise InputError(
                f"the teacher's {quality} {_mean(teacher)} does not beat unprocessed {_mean(before)}: "
                "train it longer (teacher.train.steps), or use --force"
            )
    return known


def _mean(score: dict[str, Any]) -> str:
    return "-" if score["mean"] is None else f"{score['mean']:.3f}"


def _scored(study: StudyDefinition, prepared: Prepared, folder: Path, say: Say, trust_code: bool) -> dict[str, Any]:
    started = time.monotonic()
    means, unprocessed = score_baseline(prepared, metrics_of(study), trust_code=trust_code)
    write_json(folder / "unprocessed.json", unprocessed)
    say(f"scoring unprocessed audio and the teacher: done in {time.monotonic() - started:.0f} s")
    return means


def score_baseline(
    prepared: Prepared, metrics: Sequence[str], *, trust_code: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Mean scores by ``unprocessed`` and ``teacher``, and the unprocessed scores of each file."""
    pairs = validation_pairs(prepared.valid)
    with one_thread():  # two wait for each other where cores are busy, and a diffusion model is asked 60 times
        scored = score_pairs(_triples(prepared, pairs, trust_code), metrics, processes=os.cpu_count() or 1)
    means = {"unprocessed": summarise(scored, "unprocessed")}
    if prepared.teacher is not None:
        means["teacher"] = summarise(scored)
    documents = {
        name: {metric: score.model_dump(mode="json") for metric, score in by_metric.items()}
        for name, by_metric in means.items()
    }
    return documents, scored.unprocessed


@torch.no_grad()
def _triples(prepared: Prepared, pairs: list[Any], trust_code: bool) -> Iterator[Triple]:
    teacher = None if prepared.teacher is None else open_teacher(prepared.teacher, trust_code=trust_code)
    if teacher is not None:
        _require_same(teacher.identity, prepared)
    for name, noisy_file, clean_file in pairs:
        noisy = read_audio(noisy_file)
        estimate = noisy if teacher is None else teacher.enhance(torch.from_numpy(noisy)[None])[0].numpy()
        yield name, noisy, estimate, read_audio(clean_file)


def _require_same(identity: str, prepared: Prepared) -> None:
    """Refuses to score another teacher than the one whose outputs the students will follow.

    Raises:
        InputError: a loading function gave other weights than the last time, or the file changed meanwhile.
    """
    if identity != prepared.hashes.teacher:
        raise InputError(
            f"the teacher is another one each time it is opened ({prepared.hashes.teacher}, then {identity}): "
            "load its weights from a file"
        )
