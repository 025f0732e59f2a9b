"""CRUSE (Braun et al. 2021) as in Daod Nathoo, Kegler and Stamenovic 2024, section 2: conv, grouped GRU, conv."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from sekd.models.base import SAMPLE_RATE, Block, NetworkConfig, State
from sekd.models.branches import Run, branched
from sekd.models.context import unpacked
from sekd.models.gates import Gate, Gates, masked, static_width
from sekd.models.grouped_gru import GroupedGru
from sekd.models.mel import band_gains, mel_matrix
from sekd.models.norm import MIN_HORIZON, SlimNorm, advance
from sekd.models.policy import Policy
from sekd.models.slim_enhancer import SlimEnhancer
from sekd.models.slimmable import SlimConv, SlimConvTranspose

MULTIPLIERS = (1, 2, 4, 4)


class CruseConfig(NetworkConfig):
    """``width`` 8 is the 62 k student; ``channels = [32, 64, 128, 192]`` is the 1.87 M teacher."""

    family: Literal["cruse"] = "cruse"
    width: int = 8  # channels of the first block; the next have 2, 4 and 4 times as many
    depth: int = 4
    channels: tuple[int, ...] | None = None  # says all widths, instead of width and depth
    gru_groups: int = 4
    bands: int = 80
    n_fft: int = 512
    hop: int = 256
    norm_horizon_s: float | None = 10.0  # None: the published norm, which never forgets

    @property
    def widths(self) -> tuple[int, ...]:
        return self.channels or tuple(self.width * m for m in MULTIPLIERS[: self.depth])

    @property
    def bottleneck(self) -> tuple[int, int]:
        """Channels and frequencies that enter the GRU."""
        return self.widths[-1], self.bands // 2 ** len(self.widths)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every encoder block, the GRU, every decoder block; the last is the mask (Daod Nathoo et al., figure 2)."""
        halved = [self.bands // 2**level for level in range(len(self.widths) + 1)]
        return tuple(Block(self.hop, freqs) for freqs in (*halved[1:], halved[-1], *halved[-2::-1]))

    @model_validator(mode="after")
    def _consistent(self) -> CruseConfig:
        if not 1 <= self.depth <= len(MULTIPLIERS) or min(self.widths) < 1:
            raise ValueError(f"needs widths of at least 1 and a depth of 1 to {len(MULTIPLIERS)}")
        if self.hop < 1 or self.n_fft < 1 or self.n_fft % (2 * self.hop):
            raise ValueError(f"n_fft = {self.n_fft} must be an even multiple of hop = {self.hop}")
        if not 1 <= self.bands <= self.n_fft // 2:
            raise ValueError(f"bands = {self.bands} must be 1 to half of n_fft = {self.n_fft}")
        if self.bands % 2 ** len(self.widths):
            raise ValueError(f"bands = {self.bands} does not halve {len(self.widths)} times")
        channels, freqs = self.bottleneck
        if self.gru_groups < 1 or (channels * freqs) % self.gru_groups:
            raise ValueError(f"gru_groups = {self.gru_groups} does not divide the GRU width {channels * freqs}")
        shortest_s = MIN_HORIZON * self.hop / SAMPLE_RATE
        if self.norm_horizon_s is not None and not shortest_s <= self.norm_horizon_s < math.inf:
            raise ValueError(f"norm_horizon_s = {self.norm_horizon_s} must be at least {shortest_s:g} s")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> CruseConfig:
        if self.gate is None:
            return self
        if min(self.widths) < 2:
            raise ValueError(f"gate: a width of {min(self.widths)} has no dynamic part")
        if self.gru_groups < 2 or self.widths[-1] % self.gru_groups:
            raise ValueError(
                f"gate: gru_groups = {self.gru_groups} must be at least 2 and divide the {self.widths[-1]} channels "
                "of the bottleneck, so that some groups can rest"
            )
        return self

    @property
    def static_groups(self) -> int | None:
        """How many groups of the GRU always run; None: all."""
        return None if self.gate is None else static_width(self.gru_groups, self.gate.static_share)

    @property
    def static_widths(self) -> tuple[int, ...]:
        """Channels of each block that always run; at the bottleneck those of whole groups."""
        if self.gate is None or self.static_groups is None:
            return self.widths
        share = self.gate.static_share
        bottleneck = self.widths[-1] * self.static_groups // self.gru_groups
        return *(static_width(width, share) for width in self.widths[:-1]), bottleneck

    @property
    def horizon_frames(self) -> int | None:
        if self.norm_horizon_s is None:
            return None
        return round(self.norm_horizon_s * SAMPLE_RATE / self.hop)


class Cruse(SlimEnhancer):
    """A mask on mel bands, applied to the noisy spectrum; tensors inside are ``(batch, channel, frame, freq)``."""

    config: CruseConfig
    mel: Tensor
    gains: Tensor

    def __init__(self, config: CruseConfig) -> None:
        super().__init__(config.n_fft, config.hop)
        self.config = config
        mel = mel_matrix(config.bands, config.n_fft)
        self.register_buffer("mel", mel.T.contiguous(), persistent=False)
        self.register_buffer("gains", band_gains(mel), persistent=False)
        horizon, gate = config.horizon_frames, config.gate
        self.thin = gate is None or gate.scope == "frame"
        widths, static = (1, *config.widths), (1, *config.static_widths)
        steps = list(zip(widths, widths[1:], static, static[1:], strict=False))
        self.encoder = nn.ModuleList(
            SlimConv(i, o, (2, 3), stride=2, static=(si, so), thin=self.thin) for i, o, si, so in steps
        )
        self.encoder_norms = nn.ModuleList(SlimNorm(o, horizon, so if gate else None) for _, o, _, so in steps)
        self.skips = nn.ModuleList(SlimConv(o, o, (1, 1), static=(so, so), thin=self.thin) for _, o, _, so in steps)
        self.gru = GroupedGru(config.widths[-1] * config.bottleneck[1], config.gru_groups, config.static_groups)
        self.decoder = nn.ModuleList(
            SlimConvTranspose(o, i, static=(so, si), thin=self.thin) for i, o, si, so in reversed(steps)
        )
        self.decoder_norms = nn.ModuleList(
            SlimNorm(i, horizon, si if gate else None) for i, _, si, _ in reversed(steps[1:])
        )
        self.activation = nn.LeakyReLU(0.2)
        self._norms = [norm for norm in (*self.encoder_norms, *self.decoder_norms) if isinstance(norm, SlimNorm)]
        modules = 2 * len(steps)  # what can rest: every encoder block, the GRU, every decoder block but the last
        self.policy = None if gate is None else Policy(gate, config.bands, 1 if self.thin else modules, horizon)
        self._context = self._context_shapes()

    def _context_shapes(self) -> list[tuple[int, int]]:
        """Channels and frequencies of the past frame that each convolution keeps, encoder first."""
        freqs = [self.config.bands // 2**level for level in range(len(self.encoder) + 1)]
        widths = self.config.widths
        encoder = [(channels, freqs[k]) for k, channels in enumerate((1, *widths[:-1]))]
        decoder = [(channels, freqs[-1 - k]) for k, channels in enumerate(reversed(widths))]
        return encoder + decoder

    def state_sizes(self) -> tuple[int, int, int]:
        statistics, hidden = 1 + sum(norm.memory for norm in self._norms), self.gru.width
        if self.policy is not None:
            statistics, hidden = statistics + self.policy.memory, hidden + self.policy.hidden
        return sum(c * f for c, f in self._context), statistics, hidden

    def frames(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        gain, following = self.gain_of(spectrum, state)
        return spectrum * gain.transpose(1, 2).unsqueeze(-1), following

    def gain_of(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        """What each frequency is multiplied with, ``(batch, frame, freq)``, and the next state."""
        x = self._features(spectrum)
        if self.policy is None:
            gain, *after = self._body(True, x, *state)
            return gain, State(*after)
        policy = self.policy
        statistics, judged = state.tra_cache.split([state.tra_cache.shape[1] - policy.memory, policy.memory], dim=1)
        hidden, heard = state.inter_cache.split([self.gru.width, policy.hidden], dim=1)
        logits, judged, heard = policy(x, judged, statistics[:, :1, None, None], heard)
        gates = self.decide(logits, policy.threshold)
        gate: Any = gates[..., None] if self.forced is None else self.forced
        body = branched if self.thin else _at_once
        gain, context, statistics, hidden = body(self._body, gate, x, state.conv_cache, statistics, hidden)
        judged = torch.cat([statistics, judged, gates[:, :, -1]], dim=1)
        return gain, State(context, judged, torch.cat([hidden, heard], dim=1))

    def _body(
        self, gates: Gates, x: Tensor, context: Tensor, statistics: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All that a gate may thin out: features to the gain ``(batch, frame, freq)``, and what to remember.

        ``gates`` is one for all blocks, ``(batch, 1, frame, 1)``, or one for each: ``(batch, gate, frame, 1)``, a list.
        """
        past = unpacked(context, self._context)
        count, *numbers = statistics[:, :, None, None].split(1, dim=1)
        memories = [[numbers.pop(0) for _ in range(norm.memory)] for norm in self._norms]
        if self.policy is not None and self.thin:
            for memory in memories:
                memory[-1] = memories[0][-1]  # how often the one gate was open: the same for all
        levels = len(self.encoder)
        kept: list[Tensor] = []
        skips = []
        frames = x.shape[2]
        for k in range(levels):
            kept.append(self._to_keep(x, k))
            x, skip, *memories[k] = self._block(k, self._encode(k), gates, x, past[k], count, *memories[k])
            skips.append(skip)
            self.tap(x)
        x, hidden = self._block(levels, self._rest, gates, x, hidden)
        self.tap(x)
        for k in range(levels):
            x, place = x + skips[-1 - k], levels + k
            kept.append(self._to_keep(x, place))
            if k < len(self.decoder_norms):
                inputs = x, past[place], count, *memories[place]
                x, *memories[place] = self._block(place + 1, self._decode(k), gates, *inputs)
                self.tap(x)
        shared = gates if self.thin else True  # the last block has no dynamic outputs, and no gate of its own
        mask = self.tap(torch.sigmoid(self.decoder[-1](x, past[-1], shared)))
        gain = mask[:, 0] @ self.gains  # (batch, frame, freq)
        count = advance(count, frames, self.config.horizon_frames)
        numbers = [count, *(number for memory in memories for number in memory)]
        return (
            gain,
            torch.cat([frame.flatten(1) for frame in kept], dim=1),
            torch.cat(numbers, dim=1).flatten(1),
            hidden,
        )

    def _encode(self, k: int) -> Run:
        width, static = self.config.widths[k], self.config.static_widths[k]

        def run(gate: Gate, x: Tensor, past: Tensor, count: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
            x, after = self._norms[k].run(self.encoder[k](x, past, gate), memory, count, gate)
            x = self.activation(x)
            skip = masked(self.skips[k](x, None, gate), gate, static)
            return self._whole(x, width), self._whole(skip, width), *after

        return run

    def _rest(self, gate: Gate, x: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        x, hidden = self.gru(x, hidden, gate)
        return self._whole(x, self.config.widths[-1]), hidden

    def _decode(self, k: int) -> Run:
        width = self.config.widths[-2 - k]

        def run(gate: Gate, x: Tensor, past: Tensor, count: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
            norm = self._norms[len(self.encoder) + k]
            x, after = norm.run(self.decoder[k](x, past, gate), memory, count, gate)
            return self._whole(self.activation(x), width), *after

        return run

    def _features(self, spectrum: Tensor) -> Tensor:
        """Mel bands of the magnitude to the power 0.3, ``(batch, 1, frame, band)``."""
        magnitude = spectrum.square().sum(-1).sqrt().transpose(1, 2)
        return (magnitude @ self.mel).pow(0.3).unsqueeze(1)


def _at_once(run: Run, gate: Gates, *inputs: Tensor) -> tuple[Tensor, ...]:
    return run(gate, *inputs)
