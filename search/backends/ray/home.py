"""The driver's machine to the nodes of a Ray cluster: an actor that reads, writes and remembers for them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path

from search.trial import Job, Shared
from sekd.cache import write_json

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
        for file in [file for file in root.rglob("*") if file.is_file() and travels(file)]:
            if str(file.relative_to(root)) not in names:
                file.unlink()

    def _allowed(self, path: Path, within: Path | None = None) -> Path:
        real = path.resolve()
        roots = self._readable if within is None else {within}
        if not any(real.is_relative_to(root) for root in roots):
            raise PermissionError(f"{path}: not of this run")
        return real


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
    paths = [shared.pool, shared.valid, shared.outputs, shared.activations, shared.ovrl]
    paths += [shared.unprocessed, shared.front]
    if shared.teacher is not None and shared.teacher.model is not None:
        paths.append(Path(shared.teacher.model))
    return [path for path in paths if path is not None]


def travels(file: Path) -> bool:
    return file.name not in STAYS and not file.name.startswith(".") and file.suffix != ".partial"
