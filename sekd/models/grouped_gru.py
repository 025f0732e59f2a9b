"""GRUs of groups (Tan and Wang 2020), of which the last groups can rest while a gate is shut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sekd.models.gates import Gate, masked, narrowed, where_open
from sekd.models.slimmable import SlimLinear

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # of the weights of a GRU, in torch's order
DENSE_WIDTH = 300  # widths up to here train faster as one matrix


class GroupedGru(nn.Module):
    """Flattens channel and frequency, runs one GRU for each group of them, and restores the shape.

    Args:
        static: how many groups always run; None: all. The others hold their state while the gate is shut.
    """

    def __init__(self, width: int, groups: int, static: int | None = None) -> None:
        super().__init__()
        self.width = width
        self.size = width // groups
        self.static = groups if static is None else static
        self.parts = nn.ModuleList(nn.GRU(self.size, self.size, batch_first=True) for _ in range(groups))

    def forward(self, x: Tensor, hidden: Tensor, gate: Gate = True) -> tuple[Tensor, Tensor]:
        """``(batch, channel, frame, freq)`` and ``(batch, width)`` in, both out again; shut, only static channels may
        come in, only they go out, and the other states stay as they were."""
        batch, channels, frames, freqs = x.shape
        flat = x.transpose(1, 2).reshape(batch, frames, channels * freqs)
        always = self.static * self.size
        if gate is True or self.static == len(self.parts):
            out, after = self._run(0, len(self.parts), flat, hidden)
        elif gate is False:
            mine = flat if flat.shape[-1] == always else flat[..., :always]  # of the same width no slice in the ONNX
            kept, held = hidden.split([always, self.width - always], dim=1)
            out, part = self._run(0, self.static, mine, kept)
            after = torch.cat([part, held], dim=1)
        else:
            first, part = self._run(0, self.static, flat[..., :always], hidden[:, :always])
            second, held = self._while_open(flat[..., always:], hidden[:, always:], gate)
            out, after = torch.cat([first, second], dim=2), torch.cat([part, held], dim=1)
        return out.reshape(batch, frames, -1, freqs).transpose(1, 2), after

    def _while_open(self, flat: Tensor, hidden: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """The dynamic groups: to a state that is held, frames behind a shut gate do not exist. They are taken out, the
        rest is run, and put back where it was."""
        gates = gate[:, 0, :, :]  # (batch, frame, 1)
        if flat.shape[1] == 1:
            run, after = self._run(self.static, len(self.parts), flat, hidden)
            return run * gates, where_open(gate, after, hidden)
        order, back, count = open_first(gates[..., 0])
        run, _ = self._run(self.static, len(self.parts), take(flat, order), hidden)
        last = run.gather(1, (count - 1).clamp(min=0)[:, None, None].expand(-1, 1, run.shape[2]))[:, 0]
        return take(run, back) * gates, torch.where(count[:, None] > 0, last, hidden)

    def _run(self, first: int, last: int, flat: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Groups ``first`` to ``last``."""
        parts = [part for part in self.parts[first:last] if isinstance(part, nn.GRU)]
        dense = self.training and self.width <= DENSE_WIDTH
        out, after = (_dense if dense else _grouped)(parts, flat, hidden.unsqueeze(0))
        return out, after[0]


class TimeGru(nn.Module):
    """A ``GroupedGru`` over channels, of which every frequency keeps its own state.

    Args:
        static: as for ``GroupedGru``.
    """

    def __init__(self, width: int, groups: int, freqs: int, static: int | None = None) -> None:
        super().__init__()
        self.gru = GroupedGru(width, groups, static)
        self.memory = freqs * width  # values to remember of a signal

    def forward(self, x: Tensor, memory: Tensor, gate: Gate = True) -> tuple[Tensor, Tensor]:
        """``(batch, channel, frame, freq)`` and ``(batch, memory)`` in, both out again."""
        batch, channels, frames, freqs = x.shape
        rows = x.permute(0, 3, 1, 2).reshape(batch * freqs, channels, frames, 1)
        own = gate if isinstance(gate, bool) else gate.repeat_interleave(freqs, dim=0)
        out, after = self.gru(rows, memory.reshape(batch * freqs, -1), own)
        return out.reshape(batch, freqs, -1, frames).permute(0, 2, 3, 1), after.reshape(batch, -1)


class FrequencyGru(nn.Module):
    """A bidirectional GRU of groups along the frequencies of each frame, and a fully connected layer back to the width.

    Args:
        static: how many groups always run; None: all. The others start from nothing in every frame: none is held.
    """

    def __init__(self, width: int, groups: int, static: int | None = None) -> None:
        super().__init__()
        self.width, self.size = width, width // groups
        self.static = self.size * (groups if static is None else static)
        self.parts = nn.ModuleList(
            nn.GRU(self.size, self.size, batch_first=True, bidirectional=True) for _ in range(groups)
        )
        self.full = SlimLinear(2 * width, width, static=(2 * self.static, self.static))

    def forward(self, x: Tensor, gate: Gate = True) -> Tensor:
        """``(batch, channel, frame, freq)``, of which the static channels come out alone where the gate is shut."""
        batch, _, frames, freqs = x.shape
        used = self.static if gate is False else self.width
        flat = narrowed(x, used).permute(0, 2, 3, 1).reshape(batch * frames, freqs, used)
        out = self._run(flat).reshape(batch, frames, freqs, 2 * used)
        own = gate if isinstance(gate, bool) else gate.transpose(1, 2)
        return self.full(masked(out, own, 2 * self.static, dim=-1), gate).permute(0, 3, 1, 2)

    def _run(self, flat: Tensor) -> Tensor:
        """The groups that own the channels of ``flat``, both directions of one before those of the next."""
        parts = [part for part in self.parts[: flat.shape[2] // self.size] if isinstance(part, nn.GRU)]
        hidden = flat.new_zeros(2, flat.shape[0], flat.shape[2])
        if not self.training or self.width > DENSE_WIDTH:
            return _grouped(parts, flat, hidden)[0]
        weights = [*_dense_weights(parts, "l0"), *_dense_weights(parts, "l0_reverse")]
        out, _ = torch.gru(flat, hidden, weights, True, 1, 0.0, True, True, True)
        return out.unflatten(2, (2, len(parts), -1)).transpose(2, 3).flatten(2)


def open_first(gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of gates (batch, frame): an order with the open frames first, the order that undoes it, and how many are open."""
    shut = (gates.detach() <= 0).to(torch.int64)
    order = shut.argsort(dim=1, stable=True)
    return order, order.argsort(dim=1), gates.shape[1] - shut.sum(1)


def take(x: Tensor, order: Tensor) -> Tensor:
    """Frames of ``(batch, frame, ...)`` in ``order`` (batch, frame)."""
    return x.gather(1, order.reshape(*order.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:]))


def _grouped(parts: list[nn.GRU], flat: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Each on its own, ``(batch, step, width)`` and ``(direction, batch, width)``; time comes first once for all of
    them, or every group would have its own transpositions in the ONNX."""
    size = parts[0].input_size
    each = zip(parts, flat.transpose(0, 1).split(size, 2), hidden.split(size, 2), strict=True)
    runs = [_alone(part, x, past.contiguous()) for part, x, past in each]
    return torch.cat([run[0] for run in runs], dim=2).transpose(0, 1), torch.cat([run[1] for run in runs], dim=2)


def _alone(part: nn.GRU, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    ends = ("l0", "l0_reverse") if part.bidirectional else ("l0",)
    weights = [getattr(part, f"{name}_{end}") for end in ends for name in NAMES]
    return torch.gru(x, hidden, weights, True, 1, 0.0, False, part.bidirectional, False)


def _dense(parts: list[nn.GRU], flat: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """All groups as one GRU whose matrices are zero between groups: more MACs, but a quarter of the calls,
    and calls are what training a small GRU over many frames costs."""
    return torch.gru(flat, hidden, _dense_weights(parts, "l0"), True, 1, 0.0, True, False, True)


def _dense_weights(parts: list[nn.GRU], end: str) -> list[Tensor]:
    """Matrices and biases of one direction, whose names have that end, of all groups."""
    matrices = [_between_groups(parts, f"weight_{kind}_{end}") for kind in ("ih", "hh")]
    biases = [
        torch.stack([getattr(part, f"bias_{kind}_{end}").reshape(3, -1) for part in parts], dim=1).flatten()
        for kind in ("ih", "hh")
    ]
    return [*matrices, *biases]


def _between_groups(parts: list[nn.GRU], name: str) -> Tensor:
    """One matrix ``(3 width, width)`` of the groups' own, gates outermost as in PyTorch."""
    own = torch.stack([getattr(part, name).reshape(3, -1, part.input_size) for part in parts])
    eye = torch.eye(len(parts), device=own.device, dtype=own.dtype)
    width = len(parts) * parts[0].input_size
    return torch.einsum("gkoi,gj->kgoji", own, eye).reshape(3 * width, width)
