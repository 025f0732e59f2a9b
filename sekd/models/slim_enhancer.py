"""What networks with gates on STFT frames share: blocks under one gate or their own, and what they keep of a frame."""

from __future__ import annotations

from torch import Tensor

from sekd.models.base import SpectralEnhancer
from sekd.models.branches import Run, branched
from sekd.models.context import last_frame
from sekd.models.gates import Gates, widened
from sekd.models.policy import Policy


class SlimEnhancer(SpectralEnhancer):
    """``thin``: one gate for all blocks, so that what rests is not there; else it is zero to the other blocks."""

    thin: bool
    policy: Policy | None
    _context: list[tuple[int, int]]  # channels and frequencies of the past frame that each convolution keeps

    def _block(self, place: int, run: Run, gates: Gates, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One block under the gate of all, or under its own."""
        if isinstance(gates, list):
            return run(gates[place], *inputs)
        if self.thin or isinstance(gates, bool):
            return run(gates, *inputs)
        return branched(run, gates[:, place : place + 1], *inputs)

    def _whole(self, x: Tensor, width: int) -> Tensor:
        return x if self.thin else widened(x, width)

    def _to_keep(self, x: Tensor, place: int) -> Tensor:
        return widened(last_frame(x), self._context[place][0])
