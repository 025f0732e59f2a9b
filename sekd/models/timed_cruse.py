"""CRUSE (Braun et al. 2021) as a network that knows a time: a deterministic family on a path.

Its layers are those of ``sekd.models.cruse``, on linear frequencies and without a mask. A segment is heard whole, so
norms see all of its frames; before it there is silence. Of 256 frequencies 4 channels make 117,952 parameters and 16
MMAC/s an evaluation at a hop of 256, 8 channels 437,276 and 62. Most parameters are the GRU's: at twice the width, or
at depth 3, it has four times as many.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from sekd.config import Frozen
from sekd.errors import InputError
from sekd.models.cruse import MULTIPLIERS
from sekd.models.grouped_gru import GroupedGru
from sekd.models.ncsnpp import groups_of
from sekd.models.slimmable import SlimConv, SlimConvTranspose
from sekd.models.timed import TimedNetwork, TimeEmbedding

EMBEDDING = 64  # values that tell the time
LEAST_WIDTH = 4  # channels are normalised in groups of at least as many


class CruseBackboneConfig(Frozen):
    kind: Literal["cruse"] = "cruse"
    width: int = 8  # channels of the first block; the next have 2, 4 and 4 times as many
    depth: int = 4  # how often frequencies are halved
    gru_groups: int = 4
    freqs: int = 256  # of the spectra, which decide how wide the GRU is
    fourier_scale: float = Field(16.0, gt=0)  # of the time's features

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.width * m for m in MULTIPLIERS[: self.depth])

    @property
    def gru_width(self) -> int:
        """Channels times frequencies that enter the GRU."""
        return self.widths[-1] * self.freqs // 2**self.depth

    @model_validator(mode="after")
    def _consistent(self) -> CruseBackboneConfig:
        if self.width < LEAST_WIDTH:
            raise ValueError(f"width = {self.width} must be at least {LEAST_WIDTH}")
        if not 1 <= self.depth <= len(MULTIPLIERS):
            raise ValueError(f"depth = {self.depth} must be 1 to {len(MULTIPLIERS)}")
        if self.freqs < 1 or self.freqs % 2**self.depth:
            raise ValueError(f"freqs = {self.freqs} does not halve {self.depth} times")
        if self.gru_groups < 1 or self.gru_width % self.gru_groups:
            raise ValueError(f"gru_groups = {self.gru_groups} does not divide the GRU width {self.gru_width}")
        return self


class TimedCruse(TimedNetwork):
    """Tensors inside are ``(batch, channel, frame, freq)``; the GRU hears the time as the convolutions do."""

    frame_stride = 1

    def __init__(self, config: CruseBackboneConfig, channels: int) -> None:
        super().__init__()
        widths = config.widths
        self.freqs, self.freq_stride = config.freqs, 2**config.depth
        self.embedding = TimeEmbedding(EMBEDDING, config.fourier_scale)
        steps = pairwise((channels, *widths))
        self.encoder = nn.ModuleList(TimedBlock(SlimConv(i, o, (2, 3), stride=2)) for i, o in steps)
        self.skips = nn.ModuleList(SlimConv(width, width, (1, 1)) for width in widths)
        self.gru = GroupedGru(config.gru_width, config.gru_groups)
        self.decoder = nn.ModuleList(TimedBlock(SlimConvTranspose(i, o)) for i, o in pairwise(widths[::-1]))
        self.decoder.append(TimedBlock(SlimConvTranspose(widths[0], 2), last=True))
        self.times = nn.ModuleList(nn.Linear(EMBEDDING, width) for width in (*widths, *widths[::-1], 2))

    def biases(self, t: Tensor) -> list[Tensor]:
        """Of the encoder's blocks, the GRU and the decoder's blocks."""
        embedded = functional.silu(self.embedding(t))
        return [time(embedded)[:, :, None, None] for time in self.times]

    def forward(self, x: Tensor, biases: list[Tensor]) -> Tensor:
        if x.shape[2] != self.freqs:
            raise InputError(f"backbone.freqs = {self.freqs}, but the spectra have {x.shape[2]} bins")
        left = iter(biases)
        x = x.transpose(2, 3)
        skips = []
        for block, skip in zip(self.encoder, self.skips, strict=True):
            x = block(x, next(left))
            skips.append(skip(x))
        x, _ = self.gru(x + next(left), x.new_zeros(x.shape[0], self.gru.width))
        for block in self.decoder:
            x = block(x + skips.pop(), next(left))
        return x.transpose(2, 3)


class TimedBlock(nn.Module):
    """A convolution over two frames, a norm, the bias of the time and an activation; the last block is linear."""

    def __init__(self, convolution: SlimConv | SlimConvTranspose, *, last: bool = False) -> None:
        super().__init__()
        width = convolution.out_channels
        self.convolution = convolution
        self.norm = nn.Identity() if last else nn.GroupNorm(groups_of(width), width)
        self.activation = nn.Identity() if last else nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        before = torch.zeros_like(x[:, :, :1])
        return self.activation(self.norm(self.convolution(x, before)) + bias)
