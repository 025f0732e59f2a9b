"""A study looked over: interrupted trials, missing and half-written files, unreadable ones, clocks that jumped."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from search.drivers import Roll
from search.results import Results
from search.store import FORMAT, Told
from search.variants import flat, model_file
from sekd.config import Frozen
from sekd.errors import InputError

JUMP_S = 5.0  # what two machines' clocks may differ by without a word
# What we leave when we are killed: `.name.PID`, `.name.PID.npz`, `name.partial`; under Ray `.name.coming` and marks.
HALF_WRITTEN = re.compile(r"^\..+\.\d+(\.npz)?$|^\.?.+\.partial$|^\..+\.coming$|^\.ray-[0-9a-f]{32}$")


class Finding(Frozen):
    """One thing that is not as it should be; a ``notice`` asks for nothing."""

    kind: Literal["interrupted", "missing", "unreadable", "half-written", "unknown", "clock", "format", "driver"]
    what: str
    notice: bool = False
    files: tuple[str, ...] = ()  # to be removed by a repair, which loses nothing that is on record
    repaired: bool = False


def examine(results: Results) -> list[Finding]:
    """All that is found; reads only."""
    told = results.store.told()
    roll = Roll(results.store, results.study.run)
    return [
        *_drivers(roll),
        *_format(results),
        *_interrupted(results, roll),
        *_missing(results),
        *_unreadable(results.folder, told),
        *_half_written(results.folder),
        *_unknown(results.folder, told),
        *_clocks(told),
    ]


def repair(findings: Sequence[Finding]) -> list[Finding]:
    """The same, with all removed that may go."""
    return [_repaired(finding) for finding in findings]


def _repaired(finding: Finding) -> Finding:
    for name in finding.files:
        path = Path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return finding.model_copy(update={"repaired": True}) if finding.files else finding


def _drivers(roll: Roll) -> Iterator[Finding]:
    for driver in roll.others():
        yield Finding(kind="driver", what=f"driver: {driver} is at work, or was when last heard of", notice=True)


def _format(results: Results) -> Iterator[Finding]:
    written = results.store.noted("sekd_format")
    if written != FORMAT:
        what = f"written in format {written}: it opens as it is, and the next resume makes it format {FORMAT}"
        yield Finding(kind="format", what=what, notice=True)


def _interrupted(results: Results, roll: Roll) -> Iterator[Finding]:
    for number, trial in results.store.running().items():
        if roll.is_at_work(trial.owner):
            continue
        folder = results.folder / "trials" / str(number)
        checkpoint = "its checkpoint is kept" if (folder / "checkpoint.pt").exists() else "it has no checkpoint yet"
        state = "it has ended and was not told" if (folder / "result.json").exists() else checkpoint
        what = f"trial {number} was interrupted; {state}: sekd resume {results.study.name} finishes it"
        yield Finding(kind="interrupted", what=what, notice=True)


def _missing(results: Results) -> Iterator[Finding]:
    for student in flat(results.trials):
        if not student.trained or student.duplicate_of is not None:
            continue
        model = model_file(results.folder, student)
        weights = results.folder / "trials" / str(student.number) / "model.safetensors"
        for path in (model, weights):
            if not path.exists():
                what = f"trial {student.number} is on record, but {path} is missing: select and reprofile need it"
                yield Finding(kind="missing", what=what)


def _unreadable(folder: Path, told: Sequence[Told]) -> Iterator[Finding]:
    for path in sorted(folder.glob("measured/*.json")):
        if not _is_json(path):
            what = f"{path} cannot be read: without it the network is measured again"
            yield Finding(kind="unreadable", what=what, files=(str(path),))
    finished = {one.number for one in told if one.record is not None}
    for trial in _trial_folders(folder):
        result, checkpoint = trial / "result.json", trial / "checkpoint.pt"
        on_record = int(trial.name) in finished
        if result.exists() and not _is_json(result):
            rest = "the storage has its record" if on_record else "without it the trial goes on from its checkpoint"
            yield Finding(kind="unreadable", what=f"{result} cannot be read; {rest}", files=(str(result),))
        if not on_record and checkpoint.exists() and not _is_checkpoint(checkpoint):
            what = f"{checkpoint} cannot be read: without it trial {trial.name} begins anew"
            yield Finding(kind="unreadable", what=what, files=(str(checkpoint),))


def _trial_folders(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("trials/*") if p.name.isdecimal()), key=lambda path: int(path.name))


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _is_checkpoint(path: Path) -> bool:
    import torch  # late: most checks do without

    try:
        return "step" in torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises half a dozen types for a broken file
        return False


def _half_written(folder: Path) -> Iterator[Finding]:
    found = [path for path in folder.rglob("*") if HALF_WRITTEN.match(path.name) and path.is_file()]
    for path in sorted(found):
        yield Finding(kind="half-written", what=f"{path} was left by a process that was killed", files=(str(path),))


def _unknown(folder: Path, told: Sequence[Told]) -> Iterator[Finding]:
    for one in told:
        if one.record is None and one.finished:
            what = f"trial {one.number} has no record of ours: another program told it; the search does not see it"
            yield Finding(kind="unknown", what=what, notice=True)
    known = {one.number for one in told}
    for trial in _trial_folders(folder):
        if int(trial.name) not in known:
            what = f"{trial} is of no trial of this study; it is kept until a trial of that number needs the place"
            yield Finding(kind="unknown", what=what, notice=True)


def _clocks(told: Sequence[Told]) -> Iterator[Finding]:
    """Orders and durations by the clock are worth nothing across a jump; nothing of ours is decided by them."""
    latest: datetime | None = None
    for one in told:
        if one.started is None:
            continue
        if latest is not None and (back := (latest - one.started).total_seconds()) > JUMP_S:
            yield Finding(
                kind="clock", what=f"the clock was set back {back:.0f} s before trial {one.number}", notice=True
            )
        if one.ended is not None and (back := (one.started - one.ended).total_seconds()) > JUMP_S:
            yield Finding(
                kind="clock", what=f"the clock was set back {back:.0f} s during trial {one.number}", notice=True
            )
        latest = one.started


def require_nobody(results: Results) -> None:
    """Before a repair.

    Raises:
        InputError: a driver is at work, and what looks left behind may be its own.
    """
    others = Roll(results.store, results.study.run).others()
    if others:
        raise InputError(f"a driver is at work: {others[0]}; repair when it has ended")
