"""CRUSE (Braun et al. 2021) as in Daod Nathoo, Kegler and Stamenovic 2024, section 2: conv, grouped GRU, conv."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from sekd.models.base import SAMPLE_RATE, Block, NetworkConfig, SpectralEnhancer, State
from sekd.models.context import delayed, last_frame
from sekd.models.mel import band_gains, mel_matrix
from sekd.models.norm import MIN_HORIZON, CumulativeNorm, Stats, advance

MULTIPLIERS = (1, 2, 4, 4)
DENSE_WIDTH = 300  # GRU widths up to here train faster as one matrix


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

    @property
    def horizon_frames(self) -> int | None:
        if self.norm_horizon_s is None:
            return None
        return round(self.norm_horizon_s * SAMPLE_RATE / self.hop)


class Cruse(SpectralEnhancer):
    """A mask on mel bands, applied to the noisy spectrum; tensors inside are ``(batch, channel, frame, freq)``."""

    config: CruseConfig
    mel: Tensor
    gains: Tensor

    def __init__(self, config: CruseConfig) -> None:
        super().__init__(config.n_fft, config.hop)
        self.config = config
        widths = config.widths
        mel = mel_matrix(config.bands, config.n_fft)
        self.register_buffer("mel", mel.T.contiguous(), persistent=False)
        self.register_buffer("gains", band_gains(mel), persistent=False)
        inputs = (1, *widths[:-1])
        horizon = config.horizon_frames
        self.encoder = nn.ModuleList(
            nn.Conv2d(i, o, (2, 3), stride=(1, 2), padding=(0, 1)) for i, o in zip(inputs, widths, strict=True)
        )
        self.encoder_norms = nn.ModuleList(CumulativeNorm(o, horizon) for o in widths)
        self.skips = nn.ModuleList(nn.Conv2d(c, c, 1) for c in widths)
        self.gru = GroupedGru(widths[-1] * config.bottleneck[1], config.gru_groups)
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(o, i, (2, 3), stride=(1, 2), padding=(0, 1), output_padding=(0, 1))
            for i, o in zip(reversed(inputs), reversed(widths), strict=True)
        )
        self.decoder_norms = nn.ModuleList(CumulativeNorm(i, horizon) for i in reversed(inputs[1:]))
        self.activation = nn.LeakyReLU(0.2)
        self._context = self._context_shapes()

    def _context_shapes(self) -> list[tuple[int, int]]:
        """Channels and frequencies of the past frame that each convolution keeps, encoder first."""
        freqs = [self.config.bands // 2**level for level in range(len(self.encoder) + 1)]
        widths = self.config.widths
        encoder = [(channels, freqs[k]) for k, channels in enumerate((1, *widths[:-1]))]
        decoder = [(channels, freqs[-1 - k]) for k, channels in enumerate(reversed(widths))]
        return encoder + decoder

    def state_sizes(self) -> tuple[int, int, int]:
        norms = len(self.encoder_norms) + len(self.decoder_norms)
        return sum(c * f for c, f in self._context), 2 * norms + 1, self.gru.width

    def frames(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        past = self._unpack_context(state.conv_cache)
        count, *parts = state.tra_cache[:, :, None, None].split(1, dim=1)
        before = [Stats(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        x = self._features(spectrum)
        levels = len(self.encoder)
        kept: list[Tensor] = []
        after: list[Stats] = []
        skips = []
        for k, (conv, norm, skip) in enumerate(zip(self.encoder, self.encoder_norms, self.skips, strict=True)):
            kept.append(last_frame(x))
            x, stats = norm(conv(torch.cat([past[k], x], dim=2)), before[k], count)
            after.append(stats)
            x = self.tap(self.activation(x))
            skips.append(skip(x))
        x, hidden = self.gru(x, state.inter_cache)
        self.tap(x)
        for k, conv in enumerate(self.decoder):
            assert isinstance(conv, nn.ConvTranspose2d)
            x = x + skips[-1 - k]
            kept.append(last_frame(x))
            x = _transposed(conv, delayed(past[levels + k], x), x)
            if k < len(self.decoder_norms):
                x, stats = self.decoder_norms[k](x, before[levels + k], count)
                after.append(stats)
                x = self.tap(self.activation(x))
        mask = self.tap(torch.sigmoid(x))
        gain = mask[:, 0] @ self.gains  # (batch, frame, freq)
        count = advance(count, spectrum.shape[2], self.config.horizon_frames)
        following = State(
            torch.cat([frame.flatten(1) for frame in kept], dim=1),
            torch.cat([count, *(part for stats in after for part in stats)], dim=1).flatten(1),
            hidden,
        )
        return spectrum * gain.transpose(1, 2).unsqueeze(-1), following

    def _unpack_context(self, cache: Tensor) -> list[Tensor]:
        parts = cache.split([c * f for c, f in self._context], dim=1)
        return [part.reshape(-1, c, 1, f) for part, (c, f) in zip(parts, self._context, strict=True)]

    def _features(self, spectrum: Tensor) -> Tensor:
        """Mel bands of the magnitude to the power 0.3, ``(batch, 1, frame, band)``."""
        magnitude = spectrum.square().sum(-1).sqrt().transpose(1, 2)
        return (magnitude @ self.mel).pow(0.3).unsqueeze(1)


class GroupedGru(nn.Module):
    """Flattens channel and frequency, runs one GRU for each group of them, and restores the shape."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.width = width
        self.parts = nn.ModuleList(nn.GRU(width // groups, width // groups, batch_first=True) for _ in range(groups))

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``(batch, channel, frame, freq)`` and ``(batch, width)`` in, both out again."""
        batch, channels, frames, freqs = x.shape
        flat = x.transpose(1, 2).reshape(batch, frames, channels * freqs)
        dense = self.training and self.width <= DENSE_WIDTH
        out, after = self._dense(flat, hidden) if dense else self._grouped(flat, hidden)
        return out.reshape(batch, frames, channels, freqs).transpose(1, 2), after

    def _grouped(self, flat: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        size = self.width // len(self.parts)
        runs = [
            gru(part, past.unsqueeze(0).contiguous())
            for gru, part, past in zip(self.parts, flat.split(size, 2), hidden.split(size, 1), strict=True)
        ]
        return torch.cat([run[0] for run in runs], dim=2), torch.cat([run[1][0] for run in runs], dim=1)

    def _dense(self, flat: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """All groups as one GRU whose matrices are zero between groups: more MACs, but a quarter of the calls,
        and calls are what training a small GRU over many frames costs."""
        matrices = [self._between_groups(f"weight_{kind}_l0") for kind in ("ih", "hh")]
        biases = [
            torch.stack([getattr(part, f"bias_{kind}_l0").reshape(3, -1) for part in self.parts], dim=1).flatten()
            for kind in ("ih", "hh")
        ]
        out, after = torch.gru(flat, hidden.unsqueeze(0), [*matrices, *biases], True, 1, 0.0, True, False, True)
        return out, after[0]

    def _between_groups(self, name: str) -> Tensor:
        """One matrix ``(3 width, width)`` of the groups' own, gates outermost as in PyTorch."""
        own = torch.stack([getattr(part, name).reshape(3, -1, part.input_size) for part in self.parts])
        eye = torch.eye(len(self.parts), device=own.device, dtype=own.dtype)
        return torch.einsum("gkoi,gj->kgoji", own, eye).reshape(3 * self.width, self.width)


def _transposed(conv: nn.ConvTranspose2d, before: Tensor, now: Tensor) -> Tensor:
    """A causal transposed convolution over two frames, as one over frequency with both frames as channels.

    Run over time it would also compute the frames before the first and after the last, only to drop them.
    """
    weight = torch.cat([conv.weight[:, :, 1:], conv.weight[:, :, :1]])
    return nn.functional.conv_transpose2d(
        torch.cat([before, now], dim=1), weight, conv.bias, stride=(1, 2), padding=(0, 1), output_padding=(0, 1)
    )
