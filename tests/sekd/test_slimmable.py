"""Layers of which a part can rest: open, shut and switching gates must agree, at once and step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from sekd.models.attention import FrequencyAttention, TimeAttention
from sekd.models.context import last_frame
from sekd.models.gates import Gate, masked, widened
from sekd.models.grouped_gru import FrequencyGru, GroupedGru, TimeGru
from sekd.models.norm import SlimLayerNorm, SlimNorm, advance
from sekd.models.slimmable import SlimConv, SlimConvTranspose, SlimLinear

WIDTH, STATIC, FREQS, WINDOW = 8, 4, 5, 7
Run = Callable[[Tensor, Tensor, Gate], tuple[Tensor, Tensor]]


class Layer(NamedTuple):
    """A layer as ``run(x, memory, gate)``, with a memory of ``(batch, value)`` of which the last ``held`` values
    must not change while the gate is shut."""

    module: nn.Module
    run: Run
    memory: int = 1
    held: int = 0


def stateless(layer: nn.Module) -> Layer:
    return Layer(layer, lambda x, memory, gate: (layer(x, gate), memory))


def recurrent(layer: nn.Module, memory: int, held: int) -> Layer:
    return Layer(layer, layer, memory, held)


def convolution(layer: SlimConv | SlimConvTranspose) -> Layer:
    def run(x: Tensor, memory: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
        out = layer(x, memory.reshape(-1, WIDTH, 1, FREQS), gate)
        return out, widened(last_frame(x), WIDTH).flatten(1)

    return Layer(layer, run, WIDTH * FREQS)


def fully_connected() -> Layer:
    layer = SlimLinear(WIDTH, WIDTH, static=(STATIC, STATIC))
    return Layer(layer, lambda x, memory, gate: (layer(x.transpose(1, 3), gate).transpose(1, 3), memory))


def cumulative_norm() -> Layer:
    layer = SlimNorm(WIDTH, 32, STATIC)

    def run(x: Tensor, memory: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
        count, *numbers = memory[:, :, None, None].split(1, dim=1)
        out, after = layer.run(x, numbers, count, gate)
        return out, torch.cat([advance(count, x.shape[2], layer.horizon), *after], dim=1).flatten(1)

    return Layer(layer, run, 1 + layer.memory, held=3)


def time_gru() -> Layer:
    layer = TimeGru(WIDTH, 4, FREQS, 2)
    return recurrent(layer, layer.memory, 0)


def time_attention() -> Layer:
    layer = TimeAttention(WIDTH, 4, FREQS, WINDOW, 2)
    return recurrent(layer, layer.memory, layer.sizes[1])


LAYERS: dict[str, Callable[[], Layer]] = {
    "conv": lambda: convolution(SlimConv(WIDTH, WIDTH, (2, 3), static=(STATIC, STATIC))),
    "strided conv": lambda: convolution(SlimConv(WIDTH, WIDTH, (2, 3), static=(STATIC, STATIC), stride=2)),
    "transposed conv": lambda: convolution(SlimConvTranspose(WIDTH, WIDTH, static=(STATIC, STATIC))),
    "linear": fully_connected,
    "grouped gru": lambda: recurrent(GroupedGru(WIDTH * FREQS, 4, 2), WIDTH * FREQS, WIDTH * FREQS // 2),
    "gru at each frequency": time_gru,
    "gru along frequency": lambda: stateless(FrequencyGru(WIDTH, 4, 2)),
    "attention along frequency": lambda: stateless(FrequencyAttention(WIDTH, 4, 2)),
    "attention along time": time_attention,
    "cumulative norm": cumulative_norm,
    "layer norm": lambda: stateless(SlimLayerNorm(WIDTH, STATIC)),
}
everywhere = pytest.mark.parametrize("training", [False, True])


@pytest.fixture(params=LAYERS)
def layer(request) -> Layer:
    torch.manual_seed(0)
    made = LAYERS[request.param]()
    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def signal(frames: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, WIDTH, frames, FREQS, generator=torch.Generator().manual_seed(1))


def switching(frames: int, share: float = 0.5, batch: int = 2) -> Tensor:
    """Gates of their own for each signal."""
    coins = torch.rand(batch, 1, frames, 1, generator=torch.Generator().manual_seed(2))
    return (coins < share).float()


def begun(layer: Layer) -> Tensor:
    """What is remembered of some frames, some of them open."""
    gate = switching(9)
    return layer.run(masked(signal(9), gate, STATIC), torch.zeros(2, layer.memory), gate)[1].detach()


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5)


@everywhere
@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 20])
def test_a_gate_of_ones_is_open(layer, frames, training):
    layer.module.train(training)
    x, memory = signal(frames), begun(layer)
    with_ones = layer.run(x, memory, torch.ones(2, 1, frames, 1))
    assert all(close(one, other) for one, other in zip(with_ones, layer.run(x, memory, True), strict=True))


@everywhere
@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 20])
def test_a_gate_of_zeros_is_the_static_slice_alone(layer, frames, training):
    layer.module.train(training)
    gate = torch.zeros(2, 1, frames, 1)
    x, memory = masked(signal(frames), gate, STATIC), begun(layer)
    out, after = layer.run(x, memory, gate)
    thin, after_thin = layer.run(x[:, :STATIC], memory, False)
    assert thin.shape[1] == STATIC
    assert close(masked(out, gate, STATIC), widened(thin, WIDTH)) and close(after, after_thin)


@everywhere
@torch.no_grad()
def test_step_by_step_equals_at_once_while_gates_switch(layer, training):
    layer.module.train(training)
    gate, memory = switching(40), torch.zeros(2, layer.memory)
    x = masked(signal(40), gate, STATIC)
    whole, after = layer.run(x, memory, gate)
    for size in (1, 11):
        parts, step_memory = [], memory
        for part, own in zip(x.split(size, 2), gate.split(size, 2), strict=True):
            out, step_memory = layer.run(part, step_memory, own)
            parts.append(masked(out, own, STATIC))
        assert close(torch.cat(parts, 2), masked(whole, gate, STATIC)), size
        assert close(step_memory, after), size


@torch.no_grad()
def test_single_frames_take_either_form(layer):
    """As an exported file does: the form of each frame is chosen by its gate."""
    gate, memory = switching(40, batch=1), torch.zeros(1, layer.memory)
    x = masked(signal(40, batch=1), gate, STATIC)
    whole, _ = layer.run(x, memory, gate)
    parts = []
    for part, own in zip(x.split(1, 2), gate.split(1, 2), strict=True):
        is_open = bool(own)
        out, memory = layer.run(part if is_open else part[:, :STATIC], memory, is_open)
        parts.append(widened(out, WIDTH))
    assert close(torch.cat(parts, 2), masked(whole, gate, STATIC))


@torch.no_grad()
def test_what_rests_is_held_while_the_gate_is_shut(layer):
    memory = begun(layer)
    kept = memory[:, layer.memory - layer.held :]
    for frames in (1, 20):
        gate = torch.zeros(2, 1, frames, 1)
        x = masked(signal(frames), gate, STATIC)
        for _, after in (layer.run(x, memory, gate), layer.run(x[:, :STATIC], memory, False)):
            assert torch.equal(after[:, layer.memory - layer.held :], kept)
    assert bool(kept.any()) == bool(layer.held)


def test_gradients_reach_gates_and_weights(layer):
    gate = switching(20).requires_grad_()
    out, _ = layer.run(masked(signal(20), gate, STATIC), torch.zeros(2, layer.memory), gate)
    masked(out, gate, STATIC).square().sum().backward()
    gradients = [gate.grad, *(parameter.grad for parameter in layer.module.parameters())]
    for found in gradients:
        assert found is not None and bool(found.isfinite().all()) and bool(found.any())


@torch.no_grad()
def test_each_frequency_keeps_its_own_gru_while_the_gate_is_shut():
    layer = TimeGru(WIDTH, 4, FREQS, 2)
    memory = torch.randn(2, layer.memory)
    _, after = layer(signal(3)[:, :STATIC], memory, False)
    before, after = (part.reshape(2, FREQS, WIDTH) for part in (memory, after))
    assert torch.equal(before[..., STATIC:], after[..., STATIC:])
    assert not torch.isclose(before[..., :STATIC], after[..., :STATIC]).any()


def attention_by_hand(layer: TimeAttention, x: Tensor, gate: Tensor) -> Tensor:
    """Frame by frame from the definition: of one signal (channel, frame, freq) and gates (frame)."""
    query, key, value = (part.reshape(x.shape[1], FREQS, 4, 2) for part in layer._projected(x[None], True))
    heads = torch.zeros_like(query)
    for t in range(x.shape[1]):
        for head in range(4):
            active = [s for s in range(t + 1) if head < 2 or gate[s] > 0][-layer.window :]
            if head < 2 or gate[t] > 0:
                scores = (query[t, :, head, None] * key[active, :, head].transpose(0, 1)).sum(-1)
                weights = torch.softmax(scores, dim=-1)[..., None]
                heads[t, :, head] = (weights * value[active, :, head].transpose(0, 1)).sum(1)
    return layer.out(heads.flatten(2)).permute(2, 0, 1)


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 7, 62])
def test_heads_that_rest_hear_the_last_frames_in_which_they_ran(window):
    torch.manual_seed(0)
    layer, gate = TimeAttention(WIDTH, 4, FREQS, window, 2), switching(100, 0.6)
    x = masked(signal(100), gate, STATIC)
    found, _ = layer(x, torch.zeros(2, layer.memory), gate)
    for row, own, out in zip(x, gate[:, 0, :, 0], found, strict=True):
        wanted = masked(attention_by_hand(layer, row, own)[None], own[None, None, :, None], STATIC)
        assert close(masked(out[None], own[None, None, :, None], STATIC), wanted)


@torch.no_grad()
def test_attention_streams_as_it_runs_at_once_over_1000_frames():
    torch.manual_seed(0)
    layer, gate = TimeAttention(WIDTH, 4, FREQS, 62, 2), switching(1000, 0.6, batch=1)
    gate[:, :, 300:500] = 0
    assert 200 <= int((gate == 0).sum()) <= 700
    x = masked(signal(1000, batch=1), gate, STATIC)
    whole, after = layer(x, torch.zeros(1, layer.memory), gate)
    memory, parts = torch.zeros(1, layer.memory), []
    for frame, own in zip(x.split(1, 2), gate.flatten(), strict=True):
        out, memory = layer(frame if own else frame[:, :STATIC], memory, bool(own))
        parts.append(widened(out, WIDTH))
    assert close(torch.cat(parts, 2), masked(whole, gate, STATIC)) and close(memory, after)
