"""Multi-head attention, of which some heads can rest (see ``sekd.models.gates``), along frequency or back in time.

Tensors outside are ``(batch, channel, frame, freq)``, static channels first; each head owns a run of as many channels
as the others. As in ``sekd.models.slimmable``, under a gate of zeros and ones all outputs come out as if it were open.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sekd.models.gates import Gate, masked, where_open
from sekd.models.grouped_gru import open_first, take
from sekd.models.slimmable import SlimLinear

UNHEARD = 1e9  # taken from the score of what must not be heard


class _Attention(nn.Module):
    """The projections of both forms.

    Args:
        static: how many heads always run; None: all.
    """

    def __init__(self, width: int, heads: int, static: int | None = None) -> None:
        super().__init__()
        self.head = width // heads  # channels of each
        self.static = width if static is None else static * self.head
        shares = (self.static, self.static)
        self.query, self.key, self.value, self.out = (SlimLinear(width, width, static=shares) for _ in range(4))

    def _projected(self, x: Tensor, gate: Gate) -> list[Tensor]:
        """Queries, keys and values ``(batch, frame, freq, channel)``."""
        x = x.permute(0, 2, 3, 1)
        return [self.query(x, gate) * self.head**-0.5, self.key(x, gate), self.value(x, gate)]

    def _joined(self, heads: Tensor, gate: Gate) -> Tensor:
        """Of heads ``(batch, frame, freq, channel)`` the output; those that rest weigh nothing in it."""
        own = gate if isinstance(gate, bool) else gate.transpose(1, 2)
        return self.out(masked(heads, own, self.static, dim=-1), gate).permute(0, 3, 1, 2)

    def _split(self, x: Tensor) -> Tensor:
        """The last dimension as ``(head, channel)``."""
        return x.reshape(*x.shape[:-1], -1, self.head)


class FrequencyAttention(_Attention):
    """Every frequency hears all others of its frame."""

    def forward(self, x: Tensor, gate: Gate = True) -> Tensor:
        projected = self._projected(x, gate)
        query, key, value = (self._split(part).transpose(2, 3) for part in projected)
        heads = torch.softmax(query @ key.transpose(-1, -2), dim=-1) @ value
        return self._joined(heads.transpose(2, 3).reshape(projected[0].shape), gate)


class TimeAttention(_Attention):
    """Every frequency hears itself in the last ``window`` frames, the present one included; heads that rest hear the
    last in which they ran.

    Remembers of each slice of heads that many rows, oldest first: a key, a value, and 1 where a frame was. To shift
    them costs onnxruntime as little as to write one in place, since it copies what a file takes in either way.
    """

    def __init__(self, width: int, heads: int, freqs: int, window: int, static: int | None = None) -> None:
        super().__init__(width, heads, static)
        self.window, self.freqs = window, freqs
        slices = [self.static] if static is None else [self.static, width - self.static]
        self.sizes = [window * self._row(channels) for channels in slices]

    @property
    def memory(self) -> int:
        """Values to remember of a signal."""
        return sum(self.sizes)

    def forward(self, x: Tensor, memory: Tensor, gate: Gate = True) -> tuple[Tensor, Tensor]:
        """``x`` and ``(batch, memory)`` in, both out again; shut, only static channels may come in, only they go out,
        and what the other heads remember stays as it was."""
        projected = self._projected(x, gate)
        if len(self.sizes) == 1:
            heads, after = self._heard(projected, memory, True)
            return self._joined(heads, gate), after
        past = memory.split(self.sizes, dim=1)
        first, kept = self._heard([part[..., : self.static] for part in projected], past[0], True)
        if gate is False:
            return self._joined(first, gate), torch.cat([kept, past[1]], dim=1)
        second, held = self._heard([part[..., self.static :] for part in projected], past[1], gate)
        return self._joined(torch.cat([first, second], dim=3), gate), torch.cat([kept, held], dim=1)

    def _heard(self, projected: list[Tensor], past: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
        """What one slice of heads hears; frames behind a shut gate leave nothing to remember."""
        query, key, value = projected
        batch, frames = query.shape[:2]
        parts = [part.reshape(batch, frames, -1) for part in (key, value)]
        rows = torch.cat([*parts, query.new_ones(batch, frames, 1)], dim=2)
        if frames > 1:
            return self._frames(query, rows, past, gate)
        after = torch.cat([past[:, rows.shape[2] :], rows.flatten(1)], dim=1)
        keys, values, heard = self._columns(after.reshape(-1, self.window, rows.shape[2]))
        own = self._split(query).permute(0, 2, 3, 1, 4)  # (batch, freq, head, 1, channel)
        scores = own @ keys + (heard - 1)[:, None, None, None] * UNHEARD
        return (torch.softmax(scores, dim=-1) @ values).reshape(query.shape), where_open(gate, after, past)

    def _frames(self, query: Tensor, rows: Tensor, past: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
        """Many frames: as many queries as the window is long hear the rows of two windows, each its own band of them.

        Rows of open frames stand closed up behind those of the past, so that a frame hears as many rows back from its
        own; of a shut one, which has none there, the own row stands beside.
        """
        batch, frames, freqs, channels = query.shape
        shut = torch.zeros_like(rows[..., 0]) if isinstance(gate, bool) else 1 - gate[:, 0, :, 0].detach()
        order, _, count = open_first(1 - shut)
        together = torch.cat([past.reshape(batch, self.window, -1), take(rows, order)], dim=1)
        after = take(together, count[:, None] + torch.arange(self.window, device=rows.device)).flatten(1)
        missing = -frames % self.window
        start, band = self._bands(pad(shut, (0, missing), value=1.0))
        places = start[:, :, None] + torch.arange(2 * self.window, device=rows.device)
        near = take(pad(together, (0, 0, 0, missing)), places.flatten(1))
        keys, values, heard = self._columns(near.reshape(*places.shape, -1))  # (batch, block, ...)
        queries = self._blocks(query, missing)
        unheard = 1 - band * heard[:, :, None]
        scores = queries @ keys - unheard[:, :, None, None] * UNHEARD
        if isinstance(gate, bool):
            heads = torch.softmax(scores, dim=-1) @ values
        else:
            width = freqs * channels
            own = [self._blocks(part.reshape(query.shape), missing) for part in rows[..., :-1].split(width, dim=2)]
            others = pad(1 - shut, (0, missing)).reshape(batch, -1, 1, 1, self.window, 1)
            alone = (queries * own[0]).sum(-1, keepdim=True) - others * UNHEARD
            weights = torch.softmax(torch.cat([scores, alone], dim=-1), dim=-1)
            heads = weights[..., :-1] @ values + weights[..., -1:] * own[1]
        return heads.permute(0, 1, 4, 2, 3, 5).reshape(batch, -1, freqs, channels)[:, :frames], after

    def _bands(self, shut: Tensor) -> tuple[Tensor, Tensor]:
        """Of whole blocks of frames: the first row that each can hear ``(batch, block)``, and which of the rows from
        there each of its frames hears, ``(batch, block, frame, row)``."""
        blocks = shut.reshape(shut.shape[0], -1, self.window)
        open_before = (1 - blocks).sum(2).cumsum(1)
        start = pad(open_before, (1, -1))
        newest = self.window - 1 + (1 - blocks).cumsum(2)
        row = torch.arange(2 * self.window, device=shut.device)
        newest, shut = newest[..., None], blocks[..., None]
        band = (row <= newest) & (row > newest - self.window + shut)
        return start.long(), band.to(shut.dtype)

    def _blocks(self, x: Tensor, missing: int) -> Tensor:
        """``(batch, frame, freq, channel)`` as ``(batch, block, freq, head, frame, channel)``."""
        blocks = pad(x, (0, 0, 0, 0, 0, missing)).reshape(x.shape[0], -1, self.window, *x.shape[2:])
        return self._split(blocks).permute(0, 1, 3, 4, 2, 5)

    def _columns(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys ``(..., freq, head, channel, frame)``, values ``(..., freq, head, frame, channel)`` and which frames
        there were ``(..., frame)``, of rows (..., frame, value)."""
        width, frame = rows.shape[-1] // 2, rows.dim() - 2
        keys, values, heard = rows.split([width, width, 1], dim=-1)
        shape = (*rows.shape[:-1], self.freqs, width // self.freqs // self.head, self.head)
        keys, values = keys.reshape(shape), values.reshape(shape)
        return keys.movedim(frame, frame + 3), values.movedim(frame, frame + 2), heard[..., 0]

    def _row(self, channels: int) -> int:
        return 2 * self.freqs * channels + 1
