"""How good a student sounds: its scores on the frozen validation pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from search.device_lock import DeviceLock
from search.record import Score
from search.trial import Job
from sekd.audio import read_audio
from sekd.cache import write_json
from sekd.errors import InputError
from sekd.metrics import Triple, score_pairs, summarise

Tell = Callable[[str, float], None]  # stage and share of it done
Enhance = Callable[[np.ndarray], np.ndarray]  # (sample,) to (sample,)


def validation_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, noisy file and clean file of each frozen validation pair."""
    return [(clean.stem, folder / "noisy" / clean.name, clean) for clean in sorted((folder / "clean").iterdir())]


def evaluate_student(enhance: Enhance, job: Job, lock: DeviceLock, tell: Tell, folder: Path) -> dict[str, Score]:
    """Mean scores on the validation pairs; per-file scores go to ``folder``.

    Raises:
        InputError: a signal came out with samples that are no numbers.
    """
    pairs = validation_pairs(job.shared.valid)
    known = json.loads(job.shared.unprocessed.read_text())

    def triples():
        for name, noisy, clean in pairs:
            with lock.step():
                estimate = enhance(read_audio(noisy))
                if not np.isfinite(estimate).all():
                    raise InputError(f"{folder}: the enhanced '{name}' is not finite")
                triple: Triple = (name, None, estimate, read_audio(clean))
            yield triple

    scored = score_pairs(
        triples(),
        job.metrics,
        guard=lock.step,
        unprocessed=known,
        progress=lambda done: tell("evaluate", done / len(pairs)),
    )
    write_json(folder / "scores.json", [pair.model_dump(mode="json") for pair in scored.pairs])
    return {name: Score(**score.model_dump()) for name, score in summarise(scored).items()}
