"""Sizes of FTF-Net and HyST-Net."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from sekd.models.base import SAMPLE_RATE, Block, NetworkConfig
from sekd.models.ftf_blocks import Sizes
from sekd.models.gates import static_width

POLICY_HORIZON_S = 10.0  # what the norm of a policy remembers
KINDS = {
    "ftf": (
        ("gru frequency", "attention frequency"),
        ("gru time", "attention time"),
        ("gru frequency", "attention frequency"),
    ),
    "hyst": (("attention frequency", "gru time"),) * 3,
}


class FtfConfig(NetworkConfig):
    """The defaults are FTF-Net (Zhao and Madhu 2025) of 131 k parameters; ``order = "hyst"`` is HyST-Net of 108 k,
    which runs no GRU along the frequencies, whose steps cannot run side by side."""

    family: Literal["ftf"] = "ftf"
    order: Literal["ftf", "hyst"] = "ftf"
    width: int = 16  # channels of the first block; the next have 2 and 4 times as many
    channels: tuple[int, ...] | None = None  # says all widths, instead of width
    heads: int = 4
    gru_groups: int = 8
    attention_frames: int = 62  # that attention along time hears, the present one included
    n_fft: int = 512
    hop: int = 256

    @property
    def widths(self) -> tuple[int, ...]:
        return self.channels or (self.width, 2 * self.width, 4 * self.width)

    @property
    def freqs(self) -> tuple[int, ...]:
        """Frequencies at the input and after each encoder block."""
        return tuple(self.n_fft // 2 ** (level + 1) + 1 for level in range(len(self.widths) + 1))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every encoder block, every stage of the bottleneck, every decoder block; the last is the mask."""
        stages = (self.freqs[-1],) * len(self.kinds)
        return tuple(Block(self.hop, freqs) for freqs in (*self.freqs[1:], *stages, *self.freqs[-2::-1]))

    @property
    def kinds(self) -> tuple[tuple[str, str], ...]:
        """What the stages of the bottleneck are made of, see ``ftf_blocks.stage``."""
        return KINDS[self.order]

    @model_validator(mode="after")
    def _consistent(self) -> FtfConfig:
        width = self.widths[-1]
        if min(self.widths) < 1:
            raise ValueError("needs widths of at least 1")
        if self.hop < 1 or self.n_fft < 1 or self.n_fft % (2 * self.hop):
            raise ValueError(f"n_fft = {self.n_fft} must be an even multiple of hop = {self.hop}")
        if self.n_fft % 2 ** (len(self.widths) + 1):
            raise ValueError(f"n_fft = {self.n_fft} does not halve {len(self.widths) + 1} times")
        for name, parts in (("heads", self.heads), ("gru_groups", self.gru_groups)):
            if parts < 1 or width % parts:
                raise ValueError(f"{name} = {parts} does not divide the {width} channels of the bottleneck")
        if self.attention_frames < 1:
            raise ValueError(f"attention_frames = {self.attention_frames} must be at least 1")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> FtfConfig:
        if self.gate is None:
            return self
        if min(self.widths) < 2:
            raise ValueError(f"gate: a width of {min(self.widths)} has no dynamic part")
        if self.heads < 2:
            raise ValueError(f"gate: heads = {self.heads} must be at least 2, so that some can rest")
        if self.gru_groups * static_width(self.heads, self.gate.static_share) % self.heads:
            raise ValueError(
                f"gate: gru_groups = {self.gru_groups} must divide as heads = {self.heads} do, so that both slice the "
                "same channels"
            )
        return self

    @property
    def sizes(self) -> Sizes:
        """Of the bottleneck."""
        heads = None if self.gate is None else static_width(self.heads, self.gate.static_share)
        groups = None if heads is None else self.gru_groups * heads // self.heads
        common = (self.widths[-1], self.freqs[-1], self.heads, self.gru_groups, self.attention_frames)
        return Sizes(*common, static_heads=heads, static_groups=groups)

    @property
    def static_widths(self) -> tuple[int, ...]:
        """Channels of each encoder block that always run; at the bottleneck those of whole heads."""
        if self.gate is None or self.sizes.static is None:
            return self.widths
        return *(static_width(width, self.gate.static_share) for width in self.widths[:-1]), self.sizes.static

    @property
    def horizon_frames(self) -> int:
        """Frames that the norm of a policy remembers."""
        return round(POLICY_HORIZON_S * SAMPLE_RATE / self.hop)
