"""One study that is killed again and again until it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kinds
from command import Command
from kinds import Kind
from processes import Marked, Process
from promises import Promises

from search.results import Results, open_results

FINISH_S = 300.0


class Siege:
    """A run of ``kind`` in ``folder``; what is shared between runs, such as the corpus, lies in ``common``."""

    def __init__(
        self, folder: Path, common: Path, kind: Kind, name: str, *, backend: str, url: str | None, server: Any = None
    ) -> None:
        self.kind, self.name, self.backend, self.url, self.server = kind, name, backend, url, server
        self.home, self.run = folder / "home", folder / "home" / "runs" / name
        self._environment = {
            "HOME": str(folder),  # what its processes carry, even where all else is taken from them
            "SEKD_HOME": str(self.home),
            "SEKD_CACHE": str(common / "cache"),
            "SEKD_LOCKS": str(common / "locks"),
            "TMPDIR": str(folder),  # where Ray's processes keep their files open
        }
        self.marked = Marked(folder)
        self.promises = Promises(self.run, name, url, folder / "copy")
        self.announced: set[int] = set()
        self.struck: set[int | None] = set()  # trials whose worker was killed under this driver
        self._definition = kinds.write(self.home, kind, name)
        self.command: Command

    def start(self) -> None:
        begun = (self.run / "definition.toml").exists()
        words = ["resume", self.name] if begun else ["launch", str(self._definition)]
        storage = [] if self.url is None else ["--storage", self.url]
        backend = [] if self.backend == "local" else ["--backend", self.backend]
        self.struck = set()
        self.command = Command([*words, "--force", *backend, *storage], self._environment)

    def trial_of(self, worker: Process) -> int | None:
        """The trial that a worker is at: it holds its lock."""
        for path in map(Path, worker.open_files):
            if path.name == "lock" and path.parent.parent == self.run / "trials":
                return int(path.parent.name)
        return None

    def may_lose(self, trial: int | None) -> bool:
        """Whether killing a worker at ``trial`` leaves every trial another try."""
        return trial not in self.struck if trial is not None else not self.struck

    def broken(self) -> list[str]:
        self.announced |= self.command.announced
        return self.promises.broken(self.announced)

    def finish(self) -> list[str]:
        """Waits for the end of the search; what is wrong with it."""
        if not self.command.wait(FINISH_S):
            self.marked.kill()
            return [f"not at its end after {FINISH_S:g} s; last: {' / '.join(self.command.lines[-3:])}"]
        _, left = self.marked.left_after(90.0 if self.backend == "ray" else 3.0)  # Ray's agents of killed clusters
        wrong = [f"process {p.pid} outlived the search: {p.words[:120]}" for p in left]
        if self.command.process.returncode != 0:
            said = [*self.command.lines[-3:], *self.command.errors[-5:]]
            return [*wrong, f"ended with exit code {self.command.process.returncode}: {' / '.join(said)}"]
        return [*wrong, *self.broken(), *kinds.ends_whole(self.results())]

    def results(self) -> Results:
        return open_results(str(self.run), storage=self.url)
