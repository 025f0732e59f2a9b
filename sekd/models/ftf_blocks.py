"""The bottleneck of FTF-Net: GRUs and attention along frequency and time, each in a norm and a residual connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from sekd.models.attention import FrequencyAttention, TimeAttention
from sekd.models.gates import Gate, masked, narrowed
from sekd.models.grouped_gru import FrequencyGru, TimeGru
from sekd.models.norm import SlimLayerNorm


class Residual(nn.Module):
    """``x`` plus a layer of ``x``, normalised; what rests is zero where the gate is.

    Args:
        static: how many channels always run; None: all.
    """

    def __init__(self, layer: nn.Module, width: int, static: int | None) -> None:
        super().__init__()
        self.layer, self.norm = layer, SlimLayerNorm(width, static)
        self.static = width if static is None else static
        remembered = layer.memory if isinstance(layer, TimeGru | TimeAttention) else None
        self.memory = [] if remembered is None else [remembered]  # values to remember of a signal

    def forward(self, x: Tensor, gate: Gate, *memory: Tensor) -> tuple[Tensor, ...]:
        if self.memory:
            out, *after = self.layer(x, *memory, gate)
        else:
            out, after = self.layer(x, gate), []
        out = self.norm(out, gate)
        return masked(narrowed(x, out.shape[1]) + out, gate, self.static), *after


class Stage(nn.Module):
    """Layers one after the other."""

    def __init__(self, layers: list[Residual]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.memory = [size for layer in layers for size in layer.memory]

    def forward(self, x: Tensor, gate: Gate, *memory: Tensor) -> tuple[Tensor, ...]:
        """``(batch, channel, frame, freq)`` and the ``memory`` of its layers in, both out again."""
        after: list[Tensor] = []
        for layer in self.layers:
            x, *own = layer(x, gate, *memory[len(after) :][: len(layer.memory)])  # type: ignore[arg-type]
            after += own
        return x, *after


class Sizes(NamedTuple):
    """What all layers of a bottleneck share; of heads and groups, how many always run (None: all)."""

    width: int
    freqs: int
    heads: int
    groups: int
    frames: int  # that attention along time hears
    static_heads: int | None
    static_groups: int | None

    @property
    def static(self) -> int | None:
        return None if self.static_heads is None else self.width * self.static_heads // self.heads


def stage(kinds: tuple[str, str], sizes: Sizes) -> Stage:
    """A GRU and attention, in either order, each along "frequency" or "time": ``("gru time", "attention time")``."""
    width, static = sizes.width, sizes.static
    heads, groups = (width, sizes.heads), (width, sizes.groups)
    makers: dict[str, Callable[[], nn.Module]] = {
        "gru frequency": lambda: FrequencyGru(*groups, sizes.static_groups),
        "gru time": lambda: TimeGru(*groups, sizes.freqs, sizes.static_groups),
        "attention frequency": lambda: FrequencyAttention(*heads, sizes.static_heads),
        "attention time": lambda: TimeAttention(*heads, sizes.freqs, sizes.frames, sizes.static_heads),
    }
    return Stage([Residual(makers[kind](), width, static) for kind in kinds])
