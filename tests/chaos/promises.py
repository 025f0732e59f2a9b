"""What must hold after every kill: nothing finished is lost, trained again, or measured again."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from record import told


class Print(NamedTuple):
    """One file as it lay there: written again it differs, even with the same content."""

    digest: str
    changed_ns: int
    inode: int


class Promises:
    """Remembers what a run has promised so far, and says what of it was broken."""

    def __init__(self, folder: Path, name: str, url: str | None, scratch: Path) -> None:
        self._folder, self._name, self._url, self._scratch = folder, name, url, scratch
        self.records: dict[int, str] = {}
        self._files: dict[Path, Print] = {}
        self._steps: dict[int, int] = {}

    def broken(self, announced: set[int]) -> list[str]:
        """What is wrong now; ``announced`` are the trials that the driver has printed as ended."""
        return [*self._lost(announced), *self._measured_twice(), *self._made_again(), *self._gone_back()]

    def _lost(self, announced: set[int]) -> list[str]:
        now = told(self._folder, self._name, self._url, self._scratch)
        wrong = [f"trial {n}: printed as ended, and not on record" for n in sorted(announced - now.keys())]
        for number, record in self.records.items():
            if number not in now:
                wrong.append(f"trial {number}: was on record, and is no more")
            elif now[number] != record:
                wrong.append(f"trial {number}: its record changed")
        self.records = now
        return wrong

    def _measured_twice(self) -> list[str]:
        """No student, and no setting of one, is there twice."""
        records = [json.loads(text) for text in self.records.values()]
        records = [r for r in records if r.get("duplicate_of") is None and r["status"] == "COMPLETE"]
        students = Counter(
            (r["trial_id"], variant["variant_id"]) for r in records for variant in (r.get("variants") or [r])
        )
        twice = [student for student, count in students.items() if count > 1]
        return [f"trial {trial}: variant {variant} is on record twice" for trial, variant in twice]

    def _made_again(self) -> list[str]:
        """Results, trained weights and measurements stay as they were first written."""
        wrong = []
        for path, known in self._files.items():
            if not path.exists():
                wrong.append(f"{path.relative_to(self._folder)}: is gone")
            elif (now := _print(path)) != known:
                what = "its content changed" if now.digest != known.digest else "was written again"
                wrong.append(f"{path.relative_to(self._folder)}: {what}")
        kept = [*self._folder.glob("trials/*/result.json"), *self._folder.glob("trials/*/model.safetensors")]
        for path in [*kept, *self._folder.glob("measured/*.json")]:
            self._files[path] = _print(path)
        return wrong

    def _gone_back(self) -> list[str]:
        """A training that has begun goes on from its checkpoint, never from nothing."""
        wrong = []
        trained = {int(path.parent.name) for path in self._folder.glob("trials/*/model.safetensors")}
        found = {int(path.parent.name): _step(path) for path in self._folder.glob("trials/*/checkpoint.pt")}
        for number, step in self._steps.items():
            if number not in trained and found.get(number, 0) < step:
                wrong.append(f"trial {number}: its checkpoint went back from step {step} to {found.get(number)}")
        self._steps = found
        return wrong


def _print(path: Path) -> Print:
    stat = path.stat()
    return Print(hashlib.sha256(path.read_bytes()).hexdigest()[:12], stat.st_mtime_ns, stat.st_ino)


def _step(path: Path) -> int:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)["step"]
    except FileNotFoundError:  # its training ended as we looked
        return 0
