"""Conv-TasNet (Luo and Mesgarani 2019) for one source: torchaudio's network, and its causal form for streams."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.models import conv_tasnet

from sekd.models.base import SAMPLE_RATE, Block, NetworkConfig, State, WaveEnhancer, require_causal
from sekd.models.norm import MIN_HORIZON, CumulativeNorm, Stats, advance, frame_shares

EPSILON = 1e-8  # torchaudio's; waves of -60 dBFS have variances that norm.EPSILON would swallow
FIRST_NORM, DEPTHWISE, SECOND_NORM = 2, 3, 5  # places in torchaudio's ConvBlock.conv_layers


class ConvTasNetConfig(NetworkConfig):
    """Letters are those of the paper, table I. The published network is N 512, L 16, B and Sc 128, H 512, P 3, X 8,
    R 3, ``causal = false``: 4,918,833 parameters here and in torchaudio, 4,984,497 in asteroid, which also holds the
    residual convolution of the last block (B (H + 1) = 65,664), whose output nothing hears."""

    family: Literal["conv_tasnet"] = "conv_tasnet"
    filters: int = 128  # N: of encoder and decoder
    kernel: int = 16  # L: samples of a filter, which moves by half of them
    bottleneck: int = 64  # B and, in torchaudio, Sc: channels between blocks
    hidden: int = 128  # H: channels inside a block
    conv_kernel: int = 3  # P: taps of a block's depthwise convolution
    layers: int = 6  # X: blocks of a stack, each dilated twice as far as the one before
    stacks: int = 2  # R
    mask: Literal["sigmoid", "relu"] = "sigmoid"
    causal: bool = True  # false: the published gLN and symmetric padding, for teachers
    hop: int = 128  # samples of one step
    norm_horizon_s: float | None = 10.0  # None: the published cLN, which never forgets

    @property
    def streams(self) -> bool:
        return self.causal

    @property
    def stride(self) -> int:
        """Samples between the encoder's frames."""
        return self.kernel // 2

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The encoder, what each stack adds up to, and the mask."""
        return (Block(self.stride, 1),) * (self.stacks + 2)

    @property
    def horizon_frames(self) -> int | None:
        return None if self.norm_horizon_s is None else round(self.norm_horizon_s * SAMPLE_RATE / self.stride)

    @property
    def contexts(self) -> list[int]:
        """Past frames that the depthwise convolution of each block hears."""
        return [(self.conv_kernel - 1) * 2**layer for layer in range(self.layers)] * self.stacks

    @model_validator(mode="after")
    def _consistent(self) -> ConvTasNetConfig:
        for key in ("filters", "bottleneck", "hidden", "layers", "stacks"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} = {getattr(self, key)} must be at least 1")
        if self.kernel < 2 or self.kernel % 2:
            raise ValueError(f"kernel = {self.kernel} must be even")
        if self.hop < 1 or self.hop % self.stride:
            raise ValueError(f"hop = {self.hop} must be a multiple of half of kernel = {self.kernel}")
        if self.conv_kernel < 2:
            raise ValueError(f"conv_kernel = {self.conv_kernel} must be at least 2")
        if not self.causal and self.conv_kernel != 3:
            raise ValueError(f"conv_kernel = {self.conv_kernel} must be 3 where causal = false")  # torchaudio pads so
        shortest_s = MIN_HORIZON * self.hop / SAMPLE_RATE
        if self.norm_horizon_s is not None and not shortest_s <= self.norm_horizon_s < math.inf:
            raise ValueError(f"norm_horizon_s = {self.norm_horizon_s} must be at least {shortest_s:g} s")
        return self


class ConvTasNet(WaveEnhancer):
    """A mask on learned frames of the wave; frames are ``(batch, channel, frame, 1)`` inside the causal form.

    Causal: every convolution hears the past alone, and every norm is cumulative (section II-D). The decoder finishes
    half a kernel when the next frame is there, hence the delay.
    """

    config: ConvTasNetConfig

    def __init__(self, config: ConvTasNetConfig) -> None:
        super().__init__()
        self.config, self.hop = config, config.hop
        self.net = conv_tasnet.ConvTasNet(
            num_sources=1,
            enc_kernel_size=config.kernel,
            enc_num_feats=config.filters,
            msk_kernel_size=config.conv_kernel,
            msk_num_feats=config.bottleneck,
            msk_num_hidden_feats=config.hidden,
            msk_num_layers=config.layers,
            msk_num_stacks=config.stacks,
            msk_activate=config.mask,
        )
        if config.causal:
            self._make_norms_cumulative()

    def _make_norms_cumulative(self) -> None:
        generator = self.net.mask_generator
        horizon = self.config.horizon_frames
        generator.input_norm = CumulativeNorm(self.config.filters, horizon, EPSILON)
        for block in generator.conv_layers:
            for place in (FIRST_NORM, SECOND_NORM):
                block.conv_layers[place] = CumulativeNorm(self.config.hidden, horizon, EPSILON)

    @property
    def delay(self) -> int:
        return self.config.kernel - self.config.stride

    def state_sizes(self) -> tuple[int, int, int]:
        config = self.config
        norms = 1 + 2 * config.layers * config.stacks
        return config.hidden * sum(config.contexts), 1 + 2 * norms, 2 * config.stride

    def forward(self, noisy: Tensor) -> Tensor:
        return super().forward(noisy) if self.config.causal else self._offline(noisy)

    def _offline(self, noisy: Tensor) -> Tensor:
        """torchaudio's own forward, step by step so that blocks can be tapped."""
        padded, spare = self.net._align_num_frames_with_strides(noisy.unsqueeze(1))
        feats = self.net.encoder(padded)
        mask = self._mask(feats, lambda norm, x: norm(x), lambda block, x: block(x))
        return self.net.decoder(mask * feats)[:, 0, : padded.shape[2] - spare]

    def hops(self, wave: Tensor, state: State) -> tuple[Tensor, State]:
        require_causal(self.config)
        stride, samples = self.config.stride, int(wave.shape[1])  # int: a constant in the ONNX
        heard, unfinished = state.inter_cache.split(stride, dim=1)
        heard = torch.cat([heard, wave], dim=1)
        feats = functional.conv1d(heard.unsqueeze(1), self.net.encoder.weight, stride=stride).unsqueeze(-1)
        past = Past(state, self.config, feats.shape[2], one_step=samples == self.hop)
        masked = self._mask(feats, past.norm, past.block) * feats
        made = functional.conv_transpose1d(masked.squeeze(-1), self.net.decoder.weight, stride=stride).squeeze(1)
        first, rest = made.split([stride, samples], dim=1)
        enhanced, unfinished = torch.cat([first + unfinished, rest], dim=1).split([samples, stride], dim=1)
        overlap = torch.cat([heard[:, -stride:], unfinished], dim=1)
        return enhanced, State(past.next_contexts(), past.next_statistics(), overlap)

    def _mask(
        self,
        feats: Tensor,
        norm: Callable[[nn.Module, Tensor], Tensor],
        run: Callable[[nn.Module, Tensor], tuple[Tensor | None, Tensor]],
    ) -> Tensor:
        """torchaudio's mask generator with its norms and blocks run by ``norm`` and ``run``."""
        generator = self.net.mask_generator
        x = convolve(generator.input_conv, norm(generator.input_norm, self._tap(feats)))
        total: Any = 0.0
        for number, block in enumerate(generator.conv_layers, start=1):
            residual, skip = run(block, x)
            total = skip if number == 1 else total + skip
            x = x if residual is None else x + residual
            if number % self.config.layers == 0:
                self._tap(total)
        return self._tap(generator.mask_activate(convolve(generator.output_conv, generator.output_prelu(total))))

    def _tap(self, x: Tensor) -> Tensor:
        self.tap(x if x.dim() == 4 else x.unsqueeze(-1))
        return x


class Past:
    """What the norms and convolutions of one pass know of earlier frames, taken and given back in their order."""

    def __init__(self, state: State, config: ConvTasNetConfig, frames: int, *, one_step: bool) -> None:
        contexts = state.conv_cache.reshape(-1, config.hidden, sum(config.contexts), 1)
        self._contexts = iter(contexts.split(config.contexts, dim=2))
        self._count, *parts = state.tra_cache[:, :, None, None].split(1, dim=1)
        self._statistics = iter([Stats(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)])
        self._kept: list[Tensor] = []
        self._after: list[Tensor] = []
        self._next_count = advance(self._count, frames, config.horizon_frames)
        self._shares = frame_shares(self._count, frames, config.horizon_frames) if one_step else None

    def norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(norm, CumulativeNorm)
        before = next(self._statistics)
        if self._shares is None:
            out, after = norm(x, before, self._count)
        else:
            out, after = norm.few(x, before, self._shares)
        self._after.extend(after)
        return out

    def block(self, block: nn.Module, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """torchaudio's ConvBlock on the past alone."""
        assert isinstance(block, conv_tasnet.ConvBlock)
        widen, prelu, norm, depthwise, second_prelu, second_norm = block.conv_layers
        x = self.norm(norm, prelu(convolve(widen, x)))
        context = next(self._contexts)
        x = torch.cat([context, x], dim=2)
        self._kept.append(x[:, :, -context.shape[2] :])
        x = self.norm(second_norm, second_prelu(convolve(depthwise, x)))
        return None if block.res_out is None else convolve(block.res_out, x), convolve(block.skip_out, x)

    def next_contexts(self) -> Tensor:
        return torch.cat(self._kept, dim=2).flatten(1)

    def next_statistics(self) -> Tensor:
        last = torch.cat(self._after, dim=1)[:, :, -1:]
        return torch.cat([self._next_count, last], dim=1).flatten(1)


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """As built, on ``(batch, channel, frame)``; without padding on ``(batch, channel, frame, 1)``.

    onnxruntime is faster on two dimensions; torch trains depthwise convolutions five times faster on one.
    """
    assert isinstance(conv, nn.Conv1d)
    if x.dim() == 3:
        return conv(x)
    if torch.onnx.is_in_onnx_export():
        weight, dilation = conv.weight.unsqueeze(-1), (*conv.dilation, 1)
        return functional.conv2d(x, weight, conv.bias, dilation=dilation, groups=conv.groups)
    x = x.squeeze(-1)
    return functional.conv1d(x, conv.weight, conv.bias, dilation=conv.dilation, groups=conv.groups).unsqueeze(-1)
