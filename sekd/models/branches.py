"""Work that has two forms, of which one runs for each frame: in an exported file, the branches of an ``If``."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol

from torch import Tensor

from sekd.models.gates import Gate

Run = Callable[..., tuple[Tensor, ...]]  # (gate, *tensors)


class Collector(Protocol):
    """Who exports: keeps both forms of ``run`` and stands in for them while the rest is traced."""

    def __call__(self, run: Run, gate: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]: ...


collecting: ContextVar[Collector | None] = ContextVar("collecting", default=None)


def branched(run: Run, gate: Gate, *inputs: Tensor) -> tuple[Tensor, ...]:
    """``run(gate, *inputs)``; with ``True`` and ``False`` for the gate it must give tensors of the same shapes."""
    collector = collecting.get()
    if collector is None or isinstance(gate, bool):
        return run(gate, *inputs)
    return collector(run, gate, inputs)
