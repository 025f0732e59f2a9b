"""A storm of kills over short real studies: `python tests/chaos [--kills 100] [--only local-sqlite] [--seed N]`.

Each study trains real students on the embedded corpus. It is launched as a user would launch it, hit at random
moments, checked and resumed until it is done. The first broken promise ends the storm with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import moments  # noqa: E402
from disk import small_disk, why_no_disk  # noqa: E402
from kinds import REPLAYED, SIDE_BY_SIDE, Kind, Story, story  # noqa: E402
from plan import CELLS, Cell, Round, rounds  # noqa: E402
from siege import Siege  # noqa: E402
from storages import Storages, why_not  # noqa: E402

SOON = moments.Moment("the start", 0.2)


class Broken(Exception):
    """A promise was not kept."""


class Storm:
    """All studies of one call."""

    def __init__(self, seed: int, scratch: Path, stack: ExitStack) -> None:
        self.seed, self._scratch = seed, scratch
        self._storages = Storages(stack)
        self._undisturbed: dict[str, Story] = {}
        self.kills: Counter[Cell] = Counter()
        self.studies = 0

    def over(self, planned: Round) -> list[Cell]:
        """Passes over one study; the kills that it ended too early for."""
        self.studies += 1
        number, rng = self.studies, random.Random(f"{self.seed}/{self.studies}")
        first = planned.cells[0]
        kind = rng.choice(REPLAYED) if first.needs_disk or rng.random() < 0.65 else rng.choice(SIDE_BY_SIDE)
        wanted = self._story_of(kind) if kind.replayed else None
        print(f"study {number}, seed {self.seed}/{number}: {first.setting}, {kind.name}", flush=True)
        folder = self._scratch / str(number)
        with small_disk(folder / "home") if first.needs_disk else nullcontext():
            siege = self._siege(folder, kind, f"storm-{number}", first)
            try:
                left = self._besiege(siege, planned, rng)
                self._require(siege, siege.finish(), "at the end")
                if wanted is not None:
                    self._require(siege, _differences(story(siege.results()), wanted), "against the undisturbed study")
            finally:
                siege.marked.kill()
        print(f"study {number}: whole at its end{', and as if nothing had been' if wanted else ''}", flush=True)
        return left

    def _siege(self, folder: Path, kind: Kind, name: str, cell: Cell) -> Siege:
        folder.mkdir(parents=True, exist_ok=True)
        url = self._storages.url(cell.storage, folder)
        server = self._storages.server if cell.storage == "postgresql" else None
        return Siege(folder, self._scratch / "common", kind, name, backend=cell.backend, url=url, server=server)

    def _besiege(self, siege: Siege, planned: Round, rng: random.Random) -> list[Cell]:
        siege.start()
        for place, cell in enumerate(planned.cells):
            if siege.command.ended:
                self._require(siege, siege.broken(), "between two kills")
                siege.start()
            moment = moments.draw(rng, cell.victim.events or tuple(moments.EVENTS))
            if not moments.come(moment, siege.command, siege.run, rng):
                return planned.cells[place:]
            while (blow := cell.victim.strike(siege, rng)) is None:  # nobody to kill yet
                if not moments.come(SOON, siege.command, siege.run, rng):
                    return planned.cells[place:]
            self.kills[cell] += 1
            wrong = [*blow.wrong, *siege.broken()]
            kept = f"{len(siege.promises.records)} on record"
            found = "; ".join(wrong) or "nothing lost"
            print(f"{self.kills.total():4d}  {cell!s:28s} {moment!s:36s} {blow.note}; {kept}; {found}", flush=True)
            self._require(siege, wrong, f"after kill {self.kills.total()}")
        if siege.command.ended:
            siege.start()
        return []

    def _require(self, siege: Siege, wrong: list[str], when: str) -> None:
        if wrong:
            raise Broken(f"{siege.name} ({siege.kind.name}) {when}: " + "; ".join(wrong))

    def _story_of(self, kind: Kind) -> Story:
        """What ``kind`` comes to when nothing happens to it; run once."""
        if kind.name not in self._undisturbed:
            began = time.monotonic()
            folder = self._scratch / f"undisturbed-{len(self._undisturbed)}"
            folder.mkdir()
            siege = Siege(folder, self._scratch / "common", kind, "undisturbed", backend="local", url=None)
            siege.start()
            self._require(siege, siege.finish(), "undisturbed")
            self._undisturbed[kind.name] = found = story(siege.results())
            took_s = time.monotonic() - began
            print(f"undisturbed, {kind.name}: {len(found.trials)} trials in {took_s:.0f} s", flush=True)
        return self._undisturbed[kind.name]


def _differences(found: Story, wanted: Story) -> list[str]:
    wrong = []
    for one, other in zip(found.trials, wanted.trials, strict=False):
        if one != other:
            wrong.append(f"trial {one} instead of {other}")
            break
    if len(found.trials) != len(wanted.trials):
        wrong.append(f"{len(found.trials)} trials instead of {len(wanted.trials)}")
    if found.front != wanted.front:
        wrong.append(f"front {found.front} instead of {wanted.front}")
    if found.weights != wanted.weights:
        wrong.append(f"weights {found.weights} instead of {wanted.weights}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=int(os.environ.get("SEKD_KILLS") or 100))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEKD_TEST_SEED") or time.time()))
    parser.add_argument("--only", metavar="TEXT", help="cells whose name begins so, as 'local-sqlite worker'")
    parser.add_argument("--keep", action="store_true", help="leave the runs for a look")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing of a storm outlives it
    # Short: a path of Ray's sockets below it may have 107 bytes.
    scratch = Path(tempfile.mkdtemp(prefix="st-"))
    cells = _possible([cell for cell in CELLS if str(cell).startswith(options.only or "")], scratch)
    if not cells:
        print(f"no cell can run here{f' that begins with {options.only!r}' if options.only else ''}")
        return 2
    print(f"seed {options.seed}, {options.kills} kills, runs in {scratch}", flush=True)
    with ExitStack() as stack:
        storm = Storm(options.seed, scratch, stack)
        broken = _rage(storm, options.kills, cells)
    _report(storm, cells)
    if broken is None and not options.keep:
        _clear(scratch)
    return 0 if broken is None else 1


def _rage(storm: Storm, kills: int, cells: list[Cell]) -> Broken | None:
    queue = rounds(kills, cells, random.Random(storm.seed))
    try:
        while queue:
            left = storm.over(queue.pop(0))
            if left:
                queue.append(Round(left))
    except Broken as broken:
        print(f"BROKEN, seed {storm.seed}: {broken}", flush=True)
        return broken
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    return None


def _possible(cells: list[Cell], scratch: Path) -> list[Cell]:
    """The cells that can run here; says why others cannot."""
    reasons = {cell.setting: why_not(cell.backend, cell.storage) for cell in cells}
    no_disk = why_no_disk(scratch) if any(cell.needs_disk for cell in cells) else None
    for setting, reason in reasons.items():
        if reason:
            print(f"left out, {setting}: {reason}")
    if no_disk:
        print(f"left out, full disk: {no_disk}")
    return [cell for cell in cells if not reasons[cell.setting] and not (cell.needs_disk and no_disk)]


def _report(storm: Storm, cells: list[Cell]) -> None:
    print("\n| backend, storage | victim | kills |\n|---|---|---|")
    for cell in cells:
        print(f"| {cell.setting} | {cell.victim.name} | {storm.kills[cell]} |")
    print(f"{storm.kills.total()} kills over {storm.studies} studies, seed {storm.seed}", flush=True)


def _clear(scratch: Path) -> None:
    import shutil

    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
