"""The short studies that storms pass over, and what each comes to when nothing happens to it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.numpy import load_file

sys.path.append(str(Path(__file__).parents[1] / "search"))

from definitions import NUMERIC, write_definition  # noqa: E402

from search.ends import counts  # noqa: E402
from search.results import Results  # noqa: E402

TRIALS = 5
SHORT = {  # a trial trains for two to three seconds on one core
    "trials": TRIALS,
    "base/train/steps": 80,
    "run/checkpoint_s": 0.3,
    "run/heartbeat_s": 0.5,
    "run/lapse_s": 3.0,
}
GAUSSIAN = {"search/sampler": "gp", "space": NUMERIC | {"student.width": {"int": [4, 16], "step": 2}}}
MEASURED = {"device": "x86-1core", "objectives/cost": ["latency_ms"], "budget": {}}


class Kind(NamedTuple):
    """One definition; a ``replayed`` one is the same search however often it was killed."""

    name: str
    changes: dict[str, Any]
    replayed: bool
    workers: int


REPLAYED = (
    Kind("tpe, seed 3", {"seed": 3}, True, 1),
    Kind("gp, seed 5", GAUSSIAN | {"seed": 5}, True, 1),
    Kind("tpe, seed 8", {"seed": 8}, True, 1),
)
SIDE_BY_SIDE = (
    Kind("measured, two workers", MEASURED | {"seed": 4}, False, 2),
    Kind("counted, two workers", {"seed": 6}, False, 2),
)


def write(folder: Path, kind: Kind, name: str) -> Path:
    return write_definition(folder, SHORT | kind.changes | {"run/workers": kind.workers}, name=name)


class Story(NamedTuple):
    """What a search came to."""

    trials: list[tuple[Any, ...]]
    front: list[tuple[Any, ...]]
    weights: dict[int, str]  # of each trained student, bit for bit


def story(results: Results) -> Story:
    trials = [
        (r.number, r.params, r.status, {k: s.mean for k, s in r.scores.items()}, r.trial_id, r.duplicate_of)
        for r in results.trials
    ]
    names = results.study.objectives.names
    front = [(r.number, *(r.value(name, results.device) for name in names)) for r in results.front]
    files = {int(file.parent.name): file for file in results.folder.glob("trials/*/model.safetensors")}
    return Story(trials, front, {number: _digest(file) for number, file in sorted(files.items())})


def _digest(file: Path) -> str:
    """Of the weights: the header that safetensors writes has no fixed order."""
    found = hashlib.sha256()
    for name, value in sorted(load_file(file).items()):
        found.update(name.encode() + value.tobytes())
    return found.hexdigest()[:12]


def ends_whole(results: Results) -> list[str]:
    """What is wrong with a finished study whatever happened to it."""
    wrong = []
    done = sum(map(counts, results.trials))
    if done != results.study.trials:
        wrong.append(f"{done} trials counted at the end, {results.study.trials} wanted")
    failed = [r.number for r in results.trials if r.status == "FAILED"]
    if failed:
        wrong.append(f"trials {failed} failed: {results.trials[failed[0]].reason}")
    if results.store.running():
        wrong.append(f"trials {results.store.running()} are left running")
    return wrong
