"""GRUs of groups (Tan and Wang 2020) along time, of which the last groups can rest while a gate is shut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sekd.models.gates import Gate

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
        order, back, count = open_first(gates[..., 0])
        run, _ = self._run(self.static, len(self.parts), take(flat, order), hidden)
        last = run.gather(1, (count - 1).clamp(min=0)[:, None, None].expand(-1, 1, run.shape[2]))[:, 0]
        return take(run, back) * gates, torch.where(count[:, None] > 0, last, hidden)

    def _run(self, first: int, last: int, flat: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Groups ``first`` to ``last``."""
        parts = [part for part in self.parts[first:last] if isinstance(part, nn.GRU)]
        dense = self.training and self.width <= DENSE_WIDTH
        return _dense(parts, flat, hidden) if dense else _grouped(parts, flat, hidden)


def open_first(gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of gates (batch, frame): an order with the open frames first, the order that undoes it, and how many are open."""
    shut = (gates.detach() <= 0).to(torch.int64)
    order = shut.argsort(dim=1, stable=True)
    return order, order.argsort(dim=1), gates.shape[1] - shut.sum(1)


def take(x: Tensor, order: Tensor) -> Tensor:
    """Frames of ``(batch, frame, ...)`` in ``order`` (batch, frame)."""
    return x.gather(1, order.reshape(*order.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:]))


def _grouped(parts: list[nn.GRU], flat: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    size = parts[0].input_size
    runs = [
        gru(part, past.unsqueeze(0).contiguous())
        for gru, part, past in zip(parts, flat.split(size, 2), hidden.split(size, 1), strict=True)
    ]
    return torch.cat([run[0] for run in runs], dim=2), torch.cat([run[1][0] for run in runs], dim=1)


def _dense(parts: list[nn.GRU], flat: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """All groups as one GRU whose matrices are zero between groups: more MACs, but a quarter of the calls,
    and calls are what training a small GRU over many frames costs."""
    matrices = [_between_groups(parts, f"weight_{kind}_l0") for kind in ("ih", "hh")]
    biases = [
        torch.stack([getattr(part, f"bias_{kind}_l0").reshape(3, -1) for part in parts], dim=1).flatten()
        for kind in ("ih", "hh")
    ]
    out, after = torch.gru(flat, hidden.unsqueeze(0), [*matrices, *biases], True, 1, 0.0, True, False, True)
    return out, after[0]


def _between_groups(parts: list[nn.GRU], name: str) -> Tensor:
    """One matrix ``(3 width, width)`` of the groups' own, gates outermost as in PyTorch."""
    own = torch.stack([getattr(part, name).reshape(3, -1, part.input_size) for part in parts])
    eye = torch.eye(len(parts), device=own.device, dtype=own.dtype)
    width = len(parts) * parts[0].input_size
    return torch.einsum("gkoi,gj->kgoji", own, eye).reshape(3 * width, width)
