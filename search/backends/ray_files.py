"""Files between the driver's machine and the nodes of a Ray cluster: shared once per node, results back home."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ray

from search.device_lock import lock_folder
from search.trial import Job, Shared
from sekd.cache import build_once, locked, write_json
from sekd.errors import InputError

CHUNK_BYTES = 4 << 20
TOKEN = ".ray-{}"  # beside files that a node may see or not: an equal path alone is not the same place
STAYS = ("lock",)  # of a trial's folder


class Home:
    """Runs on the driver's machine: reads and writes for nodes that do not see its files, and tells who is wanted.

    What it must remember lies in files, so that Ray may start it again when its process was killed.
    """

    def __init__(self, run: Path, token: str, facts: dict[str, str]) -> None:
        self._run, self._token, self._facts = run.resolve(), token, facts
        self._kept = self._run / "ray" / f".home-{token[:16]}"
        self._kept.mkdir(parents=True, exist_ok=True)
        self._readable: set[Path] = {self._run}
        self._marked = {run}
        for kept in self._kept.glob("*.json"):
            self._open(self.job(kept.stem))

    def facts(self) -> dict[str, str]:
        return self._facts

    def token(self) -> str:
        return self._token

    def give(self, key: str, job: str) -> None:
        """Keeps the job for whoever asks under ``key``; files that it names may be read from now on."""
        write_json(self._kept / f"{key}.json", json.loads(job))
        self._open(job)

    def _open(self, job: str) -> None:
        for path in shared_paths(Job.model_validate_json(job).shared):
            self._readable.add(path.resolve())
            if path.parent not in self._marked:
                leave_token(path.parent, self._token)
                self._marked.add(path.parent)

    def job(self, key: str) -> str:
        return (self._kept / f"{key}.json").read_text(encoding="utf-8")

    def end(self, key: str) -> None:
        """The trial ``key`` is to save a checkpoint and end."""
        (self._kept / f"{key}.ended").touch()

    def wanted(self, key: str) -> bool:
        return not (self._kept / f"{key}.ended").exists()

    def hurry(self) -> None:
        """Whoever ends does so without a checkpoint."""
        (self._kept / "hurried").touch()

    def hurried(self) -> bool:
        return (self._kept / "hurried").exists()

    def tidy(self) -> None:
        """Takes away what it remembered, and the marks by which nodes knew folders."""
        shutil.rmtree(self._kept, ignore_errors=True)
        for folder in self._marked:
            (folder / TOKEN.format(self._token)).unlink(missing_ok=True)

    def listing(self, path: Path) -> list[tuple[str, int]]:
        """Names, relative to ``path``, and sizes of the files below it; of a file itself, as ``.``."""
        root = self._allowed(path)
        if root.is_file():
            return [(".", root.stat().st_size)]
        return [
            (str(file.relative_to(root)), file.stat().st_size) for file in sorted(root.rglob("*")) if file.is_file()
        ]

    def read(self, path: Path, start: int) -> bytes:
        with open(self._allowed(path), "rb") as file:
            file.seek(start)
            return file.read(CHUNK_BYTES)

    def write(self, path: Path, data: bytes, start: int, *, last: bool) -> None:
        """One chunk of a file in the run's folder, which is there when its last chunk is; twice is as good as once."""
        target = self._allowed(path, within=self._run)
        if last and start and not target.with_name(f".{target.name}.coming").exists():
            return  # done before, and the answer was lost
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.coming")
        with open(partial, "r+b" if start else "wb") as file:
            file.seek(start)
            file.write(data)
            file.truncate()
            if last:
                file.flush()
                os.fsync(file.fileno())
        if last:
            partial.replace(target)

    def keep_only(self, folder: Path, names: set[str]) -> None:
        """Removes files of a trial that its node has none of any more: a checkpoint, once the training is over."""
        root = self._allowed(folder, within=self._run / "trials")
        for file in [file for file in root.rglob("*") if file.is_file() and _travels(file)]:
            if str(file.relative_to(root)) not in names:
                file.unlink()

    def _allowed(self, path: Path, within: Path | None = None) -> Path:
        real = path.resolve()
        roots = self._readable if within is None else {within}
        if not any(real.is_relative_to(root) for root in roots):
            raise PermissionError(f"{path}: not of this run")
        return real


class Place(NamedTuple):
    """Where a trial works on this node."""

    job: Job  # with paths of this node
    home: Path | None  # the trial's folder on the driver's machine, where this node does not see it


def new_token(run: Path) -> str:
    token = secrets.token_hex(16)
    leave_token(run, token)
    return token


def leave_token(folder: Path, token: str) -> None:
    """Makes ``folder`` recognisable from another machine, where it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKEN.format(token)).touch()
    except OSError:  # somebody else's: nodes that lack it get copies
        pass


def sees(folder: Path, token: str) -> bool:
    return (folder / TOKEN.format(token)).exists()


def shared_paths(shared: Shared) -> list[Path]:
    """What a trial reads besides its own folder."""
    paths = [shared.pool, shared.valid, shared.outputs, shared.activations, shared.unprocessed, shared.front]
    if shared.teacher is not None and shared.teacher.model is not None:
        paths.append(Path(shared.teacher.model))
    return [path for path in paths if path is not None]


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
    files = [file for file in folder.rglob("*") if file.is_file() and _travels(file)]
    for file in sorted(files, key=lambda file: file.name == "result.json"):
        send(home, file, place.home / file.relative_to(folder))
    ray.get(home.keep_only.remote(place.home, {str(file.relative_to(folder)) for file in files}))
    measured = place.home.parent.parent / "measured"
    known = {name for name, _ in ray.get(home.listing.remote(measured))}
    _send_new(home, place.job.shared.measured, measured, known)


def _send_new(home: Any, folder: Path, target: Path, known: Iterable[str]) -> None:
    for file in folder.glob("*") if folder.exists() else ():
        if file.name not in known and _travels(file):
            send(home, file, target / file.name)


def _travels(file: Path) -> bool:
    return file.name not in STAYS and not file.name.startswith(".") and file.suffix != ".partial"
