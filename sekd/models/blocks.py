"""Where the activations of two networks can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sekd.models.base import NetworkConfig


class Block(NamedTuple):
    """Grid of a block's output: two networks can be compared block by block where all grids are equal."""

    hop: int  # samples between frames
    freqs: int


def incomparable(student: NetworkConfig, teacher: NetworkConfig) -> str | None:
    """Why the activations of two networks cannot be compared block by block, or None."""
    ours, theirs = student.blocks, teacher.blocks
    if ours and ours == theirs:
        return None
    shown = [
        f"{who} ({getattr(config, 'family', '?')}) has {_grids(config)}"
        for who, config in (("the student", student), ("the teacher", teacher))
    ]
    return f"cannot compare them: {shown[0]}, {shown[1]}; choose a term on outputs, or networks with equal blocks"


def _grids(config: NetworkConfig) -> str:
    if not config.blocks:
        return "no blocks to compare"
    hops = sorted({block.hop for block in config.blocks})
    freqs = ", ".join(str(block.freqs) for block in config.blocks)
    return f"blocks of {freqs} frequencies every {' or '.join(map(str, hops))} samples"
