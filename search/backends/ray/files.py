"""Files between a node of a Ray cluster and the driver's machine: shared once per node, results back home."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ray

from search.backends.ray.home import CHUNK_BYTES, STAYS, sees, travels
from search.device_lock import lock_folder
from search.trial import Job, Shared
from sekd.cache import build_once, locked
from sekd.errors import InputError


class Place(NamedTuple):
    """Where a trial works on this node."""

    job: Job  # with paths of this node
    home: Path | None  # the trial's folder on the driver's machine, where this node does not see it


def settle(job: Job, home: Any) -> Place:
    """``job`` where this node can run it: in place if it sees the driver's files, else in a folder of its own.

    Raises:
        InputError: what the job needs is neither here nor can be brought here.
    """
    token = ray.get(home.token.remote())
    run = job.folder.parent.parent
    ground = scratch() / token[:16]
    shared = _brought(job.shared, home, token, ground)
    if sees(run, token):
        return Place(job.model_copy(update={"shared": shared}), None)
    folder = ground / "trials" / str(job.number)
    with locked(ground / "trials" / f"{job.number}.lock"):
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt here: the driver's copy is the newer one
        fetch_missing(home, job.folder, folder)
        fetch_missing(home, job.shared.measured, ground / "measured")
    shared = shared.model_copy(update={"measured": ground / "measured"})
    return Place(job.model_copy(update={"folder": folder, "shared": shared}), job.folder)


def scratch() -> Path:
    """Where this node keeps what it does not share with the driver: ``$SEKD_SCRATCH``, else temporary."""
    given = os.environ.get("SEKD_SCRATCH")
    folder = Path(given) if given else Path(tempfile.gettempdir()) / f"sekd-node-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise InputError(f"{folder}: not yours; name another folder in SEKD_SCRATCH")
    return folder


def _brought(shared: Shared, home: Any, token: str, ground: Path) -> Shared:
    """``shared`` with each path that this node does not see replaced by a copy, fetched once for all its trials."""
    cache = scratch() / "cache"  # names there are hashes of contents: studies share it

    def here(path: Path | None, into: Path = cache) -> Path | None:
        if path is None or sees(path.parent, token):
            return path
        return build_once(into / path.name, lambda partial: fetch_missing(home, path, partial))

    def now(path: Path | None) -> Path | None:  # small, and may change
        if path is None or sees(path.parent, token):
            return path
        fetch(home, path, ground / path.name)
        return ground / path.name

    teacher = shared.teacher
    if teacher is not None and teacher.model is not None and not sees(Path(teacher.model).parent, token):
        folder = here(Path(teacher.model), ground / "teacher")
        teacher = teacher.model_copy(update={"model": str(folder / Path(teacher.model).name)})  # type: ignore[operator]
    seen = sees(shared.valid.parent, token)
    return shared.model_copy(
        update={
            "pool": here(shared.pool),
            "valid": here(shared.valid),
            "outputs": here(shared.outputs),
            "activations": here(shared.activations),
            "ovrl": here(shared.ovrl),
            "teacher": teacher,
            "unprocessed": now(shared.unprocessed),
            "front": now(shared.front),
            "cache": shared.cache if seen else cache,
            "lock": shared.lock if seen and shared.lock.exists() else lock_folder(),  # of this machine's cores
        }
    )


def fetch_missing(home: Any, source: Path, folder: Path) -> None:
    """Fills ``folder`` with the files of ``source``, except those that are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in ray.get(home.listing.remote(source)):
        target = folder / (source.name if name == "." else name)
        if not (target.exists() and target.stat().st_size == size) and target.name not in STAYS:
            fetch(home, source / name, target)


def fetch(home: Any, source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        while data := ray.get(home.read.remote(source, file.tell())):
            file.write(data)
    partial.replace(target)


def send(home: Any, source: Path, target: Path) -> None:
    with open(source, "rb") as file:  # one file, even if another is renamed over it meanwhile
        data, start = file.read(CHUNK_BYTES), 0
        while data or not start:
            following = file.read(CHUNK_BYTES)
            ray.get(home.write.remote(target, data, start, last=not following))
            data, start = following, file.tell() - len(following)
            if not data:
                return


def send_folder(home: Any, place: Place) -> None:
    """Brings a trial's files home, its result last: whoever sees that has everything."""
    if place.home is None:
        return
    folder = place.job.folder
    files = [file for file in folder.rglob("*") if file.is_file() and travels(file)]
    for file in sorted(files, key=lambda file: file.name == "result.json"):
        send(home, file, place.home / file.relative_to(folder))
    ray.get(home.keep_only.remote(place.home, {str(file.relative_to(folder)) for file in files}))
    measured = place.home.parent.parent / "measured"
    known = {name for name, _ in ray.get(home.listing.remote(measured))}
    _send_new(home, place.job.shared.measured, measured, known)


def _send_new(home: Any, folder: Path, target: Path, known: Iterable[str]) -> None:
    for file in folder.glob("*") if folder.exists() else ():
        if file.name not in known and travels(file):
            send(home, file, target / file.name)
