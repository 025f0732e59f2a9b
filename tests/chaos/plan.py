"""Which kills there are, and how many of each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from victims import Driver, Everything, FullDisk, Raylet, Server, Victim, Worker


class Cell(NamedTuple):
    """One kind of kill in one setting; ``weight`` is its share of all kills."""

    backend: str
    storage: str
    victim: Victim
    weight: int

    @property
    def setting(self) -> str:
        return f"{self.backend}-{self.storage}"

    def __str__(self) -> str:
        return f"{self.setting} {self.victim.name}"

    @property
    def needs_disk(self) -> bool:
        return isinstance(self.victim, FullDisk)


WORKER = Worker(lambda process: "search.backends.worker" in process.words)
RAY_WORKER = Worker(
    lambda process: process.words.startswith(("ray::ResourceTrainable", "ray::TrialOnNode")), "ray worker"
)
RAY_HOME = Worker(lambda process: process.words.startswith("ray::Home"), "ray home")

CELLS = (
    Cell("local", "sqlite", Driver(), 4),
    Cell("local", "sqlite", WORKER, 3),
    Cell("local", "sqlite", Everything(), 2),
    Cell("local", "sqlite", FullDisk(), 3),
    Cell("local", "elsewhere", FullDisk(), 2),
    Cell("local", "journal", Driver(), 3),
    Cell("local", "journal", WORKER, 1),
    Cell("local", "journal", Everything(), 1),
    Cell("local", "journal", FullDisk(), 3),
    Cell("local", "postgresql", Driver(), 2),
    Cell("local", "postgresql", WORKER, 1),
    Cell("local", "postgresql", Server(), 3),
    Cell("ray", "sqlite", Driver(), 2),
    Cell("ray", "sqlite", RAY_WORKER, 2),
    Cell("ray", "sqlite", Raylet(), 2),
    Cell("ray", "sqlite", RAY_HOME, 1),
    Cell("ray", "postgresql", RAY_HOME, 1),
    Cell("ray", "sqlite", Everything(), 1),
    Cell("ray", "journal", Driver(), 1),
    Cell("ray", "journal", RAY_WORKER, 1),
    Cell("ray", "journal", Raylet(), 1),
    Cell("ray", "postgresql", Driver(), 1),
    Cell("ray", "postgresql", RAY_WORKER, 1),
    Cell("ray", "postgresql", Raylet(), 1),
    Cell("ray", "postgresql", Server(), 2),
)


class Round(NamedTuple):
    """The kills of one study, all in one setting, in this order."""

    cells: list[Cell]


def rounds(kills: int, cells: Sequence[Cell], rng: random.Random) -> list[Round]:
    """``kills`` by the cells' weights, in handfuls that one study can take."""
    planned: list[Round] = []
    counts = _shares(kills, [cell.weight for cell in cells])
    for setting in dict.fromkeys((cell.setting, cell.needs_disk) for cell in cells):
        ours = [(c, n) for c, n in zip(cells, counts, strict=True) if (c.setting, c.needs_disk) == setting]
        queue = [cell for cell, count in ours for _ in range(count)]
        rng.shuffle(queue)
        while queue:
            size = rng.randint(2, 5)
            planned.append(Round(queue[:size]))
            queue = queue[size:]
    rng.shuffle(planned)
    return planned


def _shares(whole: int, weights: Sequence[int]) -> list[int]:
    """``whole`` divided by weights into whole numbers, the largest remainders first."""
    exact = [whole * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in order[: whole - sum(counts)]:
        counts[i] += 1
    return counts
