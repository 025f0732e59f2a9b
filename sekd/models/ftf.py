"""FTF-Net (Zhao and Madhu 2025, LCT-GAN) and HyST-Net (their 2026 order of it): conv, attention and GRUs, conv."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sekd.models.base import State
from sekd.models.branches import Run, branched
from sekd.models.complex_mask import bounded
from sekd.models.complex_mask import masked as times
from sekd.models.context import unpacked
from sekd.models.ftf_blocks import Stage, stage
from sekd.models.ftf_config import FtfConfig
from sekd.models.gates import Gate, Gates, masked
from sekd.models.norm import advance
from sekd.models.policy import Policy
from sekd.models.slim_enhancer import SlimEnhancer
from sekd.models.slimmable import SlimConv, SlimConvTranspose

COMPRESSION = 0.3
SMALLEST = 1e-12  # added to powers: that of an empty bin is raised to a negative one


class Ftf(SlimEnhancer):
    """A complex mask of at most 1 on the compressed spectrum; tensors inside are ``(batch, channel, frame, freq)``."""

    config: FtfConfig

    def __init__(self, config: FtfConfig) -> None:
        super().__init__(config.n_fft, config.hop)
        self.config = config
        gate = config.gate
        self.thin = gate is None or gate.scope == "frame"
        widths, static = (2, *config.widths), (2, *config.static_widths)
        steps = list(zip(widths, widths[1:], static, static[1:], strict=False))
        self.encoder = nn.ModuleList(
            SlimConv(i, o, (2, 3), stride=2, static=(si, so), thin=self.thin) for i, o, si, so in steps
        )
        self.stages = nn.ModuleList(stage(kinds, config.sizes) for kinds in config.kinds)
        self.decoder = nn.ModuleList(
            SlimConvTranspose(2 * o, i, static=(2 * so, si), thin=self.thin, even=False)
            for i, o, si, so in reversed(steps)
        )
        self.activation = nn.LeakyReLU(0.03)
        modules = len(steps) + len(self.stages) + len(steps) - 1  # what can rest: all but the last block
        horizon = config.horizon_frames
        self.policy = None if gate is None else Policy(gate, config.freqs[0], 1 if self.thin else modules, horizon)
        self._memories: list[int] = [size for part in self._stages() for size in part.memory]
        # What attention along time remembers is large: a cache of its own is never cut up nor put together.
        self._alone = 1 if config.order == "ftf" else len(self._memories)
        self._context = self._context_shapes()
        self._start_near_the_noisy()

    def _start_near_the_noisy(self) -> None:
        """A mask near 1: one near 0 would be 0 in what comes out, by the third power, and so would its gradient."""
        bias = self.decoder[-1].bias
        assert isinstance(bias, nn.Parameter)
        with torch.no_grad():
            bias.copy_(torch.tensor([1.0, 0.0]))

    def _stages(self) -> list[Stage]:
        return [part for part in self.stages if isinstance(part, Stage)]

    def _context_shapes(self) -> list[tuple[int, int]]:
        """Channels and frequencies of the past frame that each convolution keeps, encoder first."""
        widths, freqs = self.config.widths, self.config.freqs
        encoder = list(zip((2, *widths[:-1]), freqs, strict=False))
        decoder = [(2 * channels, freqs[-1 - k]) for k, channels in enumerate(reversed(widths))]
        return encoder + decoder

    def state_sizes(self) -> tuple[int, int, int]:
        small = 1 + sum(self._memories[: -self._alone])
        if self.policy is not None:
            small += self.policy.hidden + self.policy.memory
        return sum(c * f for c, f in self._context), small, sum(self._memories[-self._alone :])

    def frames(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        noisy = spectrum.permute(0, 3, 2, 1)
        power = noisy.square().sum(1, keepdim=True) + SMALLEST
        compressed = noisy * power.pow((COMPRESSION - 1) / 2)
        count, memories, heard, judged = self._remembered(state)
        gate: Gate | list[bool] = True
        if self.policy is not None:
            logits, judged, heard = self.policy(power.pow(COMPRESSION / 2), judged, count[:, :, None, None], heard)
            gates = self.decide(logits, self.policy.threshold)
            judged = torch.cat([judged, gates[:, :, -1]], dim=1)
            gate = gates[..., None] if self.forced is None else self.forced
        inputs = (compressed, state.conv_cache, *memories)
        if self.thin:
            assert not isinstance(gate, list)
            mask, context, *memories = branched(self._body, gate, *inputs)
        else:
            mask, context, *memories = self._body(gate, *inputs)
        count = advance(count, spectrum.shape[2], self.config.horizon_frames)
        small = torch.cat([count, *memories[: -self._alone], heard, judged], dim=1)
        return _expanded(times(compressed, mask)), State(context, small, _joined(memories[-self._alone :]))

    def _body(self, gates: Gates, x: Tensor, context: Tensor, *memories: Tensor) -> tuple[Tensor, ...]:
        """All that a gate may thin out: the compressed spectrum to the mask, and what to remember.

        ``gates`` is one for all blocks, ``(batch, 1, frame, 1)``, or one for each: ``(batch, gate, frame, 1)``, a list.
        """
        past = unpacked(context, self._context)
        levels = len(self.encoder)
        kept, skips = [], []
        for k in range(levels):
            kept.append(self._to_keep(x, k))
            (x,) = self._block(k, self._conv(k), gates, x, past[k])
            skips.append(self.tap(x))
        after: list[Tensor] = []
        for k, part in enumerate(self._stages()):
            own = memories[len(after) :][: len(part.memory)]
            x, *new = self._block(levels + k, self._rest(part), gates, x, *own)
            after += new
            self.tap(x)
        for k in range(levels):
            x = _beside(x, skips[-1 - k], self.config.static_widths[-1 - k])
            kept.append(self._to_keep(x, levels + k))
            if k < levels - 1:
                place = levels + len(self.stages) + k
                (x,) = self._block(place, self._conv(levels + k), gates, x, past[levels + k])
                self.tap(x)
        shared = gates if self.thin else True  # the last block has no dynamic outputs, and no gate of its own
        mask = self.tap(bounded(self.decoder[-1](x, past[-1], shared)))
        return mask, torch.cat([frame.flatten(1) for frame in kept], dim=1), *after

    def _conv(self, place: int) -> Run:
        """An encoder block, or after all of them a decoder block."""
        layer = [*self.encoder, *self.decoder][place]
        assert isinstance(layer, SlimConv | SlimConvTranspose)

        def run(gate: Gate, x: Tensor, past: Tensor) -> tuple[Tensor, ...]:
            x = self.activation(layer(x, past, gate))
            return (self._whole(masked(x, gate, layer.static_out), layer.out_channels),)

        return run

    def _rest(self, part: Stage) -> Run:
        def run(gate: Gate, x: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
            x, *after = part(x, gate, *memory)
            return self._whole(x, self.config.widths[-1]), *after

        return run

    def _remembered(self, state: State) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """How many frames came before (batch, 1), the memories of all layers, and both of the policy."""
        policy = (0, 0) if self.policy is None else (self.policy.hidden, self.policy.memory)
        sizes = [1, *self._memories[: -self._alone], *policy]
        count, *small, heard, judged = state.tra_cache.split(sizes, dim=1)
        large = self._memories[-self._alone :]
        rest = [state.inter_cache] if len(large) == 1 else state.inter_cache.split(large, dim=1)
        return count, [*small, *rest], heard, judged


def _beside(x: Tensor, skip: Tensor, static: int) -> Tensor:
    """Both as channels, static ones first."""
    if x.shape[1] == static:
        return torch.cat([x, skip], dim=1)
    return torch.cat([x[:, :static], skip[:, :static], x[:, static:], skip[:, static:]], dim=1)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _expanded(compressed: Tensor) -> Tensor:
    """The spectrum ``(batch, freq, frame, 2)`` of a compressed one."""
    power = compressed.square().sum(1, keepdim=True)
    return (compressed * power.pow((1 / COMPRESSION - 1) / 2)).permute(0, 3, 2, 1)
