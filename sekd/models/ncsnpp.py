"""A small NCSN++ (Song et al. 2021; Richter et al. 2023): a U-Net of residual blocks that knows the time.

The published network has 65.6 M parameters. Here a level has one block, resampling is a strided convolution and
repetition, and there is no attention; so 16 channels have 174,514 parameters and 0.47 GMAC/s at a hop of 256.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from sekd.config import Frozen
from sekd.models.timed import TimedNetwork, TimeEmbedding

LEAST_EMBEDDING = 64


class NcsnppConfig(Frozen):
    kind: Literal["ncsnpp"] = "ncsnpp"
    width: int = Field(16, ge=4)  # channels of the first level
    multipliers: tuple[int, ...] = (1, 1, 2, 2)  # of the levels
    fourier_scale: float = Field(16.0, gt=0)  # of the time's features

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.width * m for m in self.multipliers)

    @model_validator(mode="after")
    def _consistent(self) -> NcsnppConfig:
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError("multipliers need at least one number, all of them at least 1")
        if self.width % 4:
            raise ValueError(f"width = {self.width} must be a multiple of 4: channels are normalised in groups of 4")
        return self


class Ncsnpp(TimedNetwork):
    """Levels halve the frequencies, and from the second on the frames too."""

    def __init__(self, config: NcsnppConfig, channels: int) -> None:
        super().__init__()
        widths, levels = config.widths, len(config.widths)
        self.freq_stride, self.frame_stride = 2 ** (levels - 1), 2 ** max(0, levels - 2)
        size = max(LEAST_EMBEDDING, 4 * config.width)
        self.embedding = TimeEmbedding(size, config.fourier_scale)
        self.first = nn.Conv2d(channels, config.width, 3, padding=1)
        before = (config.width, *widths)
        self.down = nn.ModuleList(ResidualBlock(i, o, size) for i, o in zip(before, widths, strict=False))
        self.halve = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=(2, 1 if level == 0 else 2), padding=1)
            for level, width in enumerate(widths[:-1])
        )
        self.middle = ResidualBlock(widths[-1], widths[-1], size)
        deeper = (widths[-1], *reversed(widths))
        self.up = nn.ModuleList(
            ResidualBlock(below + width, width, size) for below, width in zip(deeper, reversed(widths), strict=False)
        )
        self.last_norm = nn.GroupNorm(groups_of(widths[0]), widths[0])
        self.last = nn.Conv2d(widths[0], 2, 3, padding=1)

    @property
    def _blocks(self) -> list[ResidualBlock]:
        return [block for block in self.modules() if isinstance(block, ResidualBlock)]

    def biases(self, t: Tensor) -> list[Tensor]:
        embedded = functional.silu(self.embedding(t))
        return [block.time(embedded)[:, :, None, None] for block in self._blocks]

    def forward(self, x: Tensor, biases: list[Tensor]) -> Tensor:
        left: dict[nn.Module, Tensor] = dict(zip(self._blocks, biases, strict=True))
        x = self.first(x)
        skips = []
        for level, block in enumerate(self.down):
            if level:
                x = self.halve[level - 1](x)
            x = block(x, left[block])
            skips.append(x)
        x = self.middle(x, left[self.middle])
        for level, block in enumerate(self.up):
            if level:
                x = _repeated(x, 2, 1 if level == len(self.up) - 1 else 2)
            x = block(torch.cat([x, skips[-1 - level]], dim=1), left[block])
        return self.last(functional.silu(self.last_norm(x)))


class ResidualBlock(nn.Module):
    """BigGAN's block without resampling; the second convolution begins at zero, so that a new block does nothing."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.first_norm, self.first = nn.GroupNorm(groups_of(inputs), inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedding, outputs)
        self.second_norm = nn.GroupNorm(groups_of(outputs), outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        inside = self.first(functional.silu(self.first_norm(x))) + bias
        inside = self.second(functional.silu(self.second_norm(inside)))
        return (self.skip(x) + inside) / math.sqrt(2)


def groups_of(channels: int) -> int:
    """Groups of a norm: of four channels, at most 32, as many as divide the channels."""
    return next(groups for groups in range(min(channels // 4, 32), 0, -1) if channels % groups == 0)


def _repeated(x: Tensor, freqs: int, frames: int) -> Tensor:
    """Every frequency and frame as often as said."""
    return functional.interpolate(x, scale_factor=(float(freqs), float(frames)), mode="nearest")
