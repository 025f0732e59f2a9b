"""CRUSE as a network that knows a time: its sizes and products by hand, where time enters, and its export."""

from __future__ import annotations

from itertools import pairwise

import onnx
import pytest
import torch
from family_contract import untrained

from search.cost import count_macs
from sekd.config import parse
from sekd.errors import InputError
from sekd.export import export_error, export_onnx
from sekd.models import ConsistencyNetConfig
from sekd.models.timed_cruse import CruseBackboneConfig, TimedCruse

CHANNELS = 4
CONFIGS = {
    "four halvings": CruseBackboneConfig(width=4),
    "default": CruseBackboneConfig(),
    "shallow": CruseBackboneConfig(width=6, depth=1, gru_groups=3, freqs=32),
    "few frequencies": CruseBackboneConfig(width=5, depth=3, gru_groups=1, freqs=64),
}


@pytest.fixture(params=CONFIGS)
def config(request) -> CruseBackboneConfig:
    return CONFIGS[request.param]


@pytest.fixture
def network(config) -> TimedCruse:
    torch.manual_seed(0)
    return TimedCruse(config, CHANNELS).eval()


def spectra(config: CruseBackboneConfig, batch: int = 2, frames: int = 7) -> torch.Tensor:
    return torch.randn(batch, CHANNELS, config.freqs, frames, generator=torch.Generator().manual_seed(1))


def levels(config: CruseBackboneConfig) -> list[tuple[int, int, int]]:
    """Channels above and below each level of the encoder, and the frequencies below it."""
    steps = pairwise((CHANNELS, *config.widths))
    return [(above, below, config.freqs // 2 ** (k + 1)) for k, (above, below) in enumerate(steps)]


def parameters_by_hand(config: CruseBackboneConfig) -> dict[str, int]:
    size = config.gru_width // config.gru_groups
    widths = config.widths
    back = [*widths[-2::-1], 2]
    return {
        "embedding": (32 * 64 + 64) + (64 * 64 + 64),
        "encoder": sum(6 * i * o + 3 * o for i, o, _ in levels(config)),
        "skips": sum(o * o + o for o in widths),
        "gru": config.gru_groups * 6 * (size * size + size),
        "decoder": sum(6 * i * o + 3 * o for i, o in zip(widths[::-1], back, strict=True)) - 2 * 2,  # the last: no norm
        "times": 65 * (sum(widths) + widths[-1] + sum(back)),
    }


def macs_by_hand(config: CruseBackboneConfig, frames: int) -> dict[str, int]:
    """Of one signal: kernels of two frames and three frequencies; a transposed one counts at each of its inputs."""
    outputs = [2, *config.widths]
    return {
        "conv": frames * sum(6 * i * o * f + o * o * f for i, o, f in levels(config)),
        "conv_transpose": frames * sum(6 * outputs[k] * o * f for k, (_, o, f) in enumerate(levels(config))),
        "gru": frames * 6 * config.gru_width**2 // config.gru_groups,
    }


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_two_channels_of_every_bin_come_out(network, config, frames):
    out = network(spectra(config, frames=frames), network.biases(torch.tensor([0.1, 0.9])))
    assert out.shape == (2, 2, config.freqs, frames) and bool(out.isfinite().all())
    assert (network.freq_stride, network.frame_stride) == (2**config.depth, 1)


def test_parameters_equal_the_count_by_hand(network, config):
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert counts == parameters_by_hand(config)


def test_eight_channels_are_half_a_million_parameters():
    assert sum(parameters_by_hand(CONFIGS["four halvings"]).values()) == 117_952
    assert sum(parameters_by_hand(CONFIGS["default"]).values()) == 437_276


def test_macs_equal_the_count_by_hand(network, config):
    counted = count_macs(network, spectra(config, batch=1), network.biases(torch.ones(1)))
    assert counted.by_operator == macs_by_hand(config, frames=7)


def test_macs_a_second():
    for name, macs in {"four halvings": 16_128_000, "default": 62_208_000}.items():
        assert 62.5 * sum(macs_by_hand(CONFIGS[name], frames=1).values()) == macs


@torch.no_grad()
def test_time_reaches_every_block(network, config):
    early, late = network.biases(torch.tensor([0.05])), network.biases(torch.tensor([0.8]))
    widths = config.widths
    assert [bias.shape[1] for bias in early] == [*widths, *widths[::-1], 2]
    x = spectra(config)
    before = network(x, early)
    for place, bias in enumerate(late):
        moved = network(x, [*early[:place], bias, *early[place + 1 :]]) - before
        assert float(moved.abs().max()) > 1e-4, place
    assert torch.allclose(moved, (late[-1] - early[-1]).expand_as(moved), atol=1e-5)  # the last block is linear


@torch.no_grad()
def test_a_bias_does_what_that_of_the_norm_would(network, config):
    x, given = spectra(config), network.biases(torch.tensor([0.3]))
    expected = network(x, given)
    inside = [*network.encoder, None, *network.decoder]
    for block, bias in zip(inside[:-1], given, strict=False):
        if block is not None:
            block.norm.bias += bias.flatten()
    for gru, bias in zip(network.gru.parts, _spread(given[config.depth], config), strict=True):
        gru.bias_ih_l0 += gru.weight_ih_l0 @ bias
    network.decoder[-1].convolution.bias += given[-1].flatten()
    assert torch.allclose(network(x, [torch.zeros_like(bias) for bias in given]), expected, atol=1e-5)


def _spread(bias: torch.Tensor, config: CruseBackboneConfig) -> tuple[torch.Tensor, ...]:
    """A bias of channels for all their frequencies, cut into the groups of the GRU."""
    return bias.flatten().repeat_interleave(config.freqs // 2**config.depth).chunk(config.gru_groups)


@torch.no_grad()
def test_signals_of_a_batch_have_their_own_times(network, config):
    x, times = spectra(config), torch.tensor([0.1, 0.9])
    together = network(x, network.biases(times))
    for k in range(2):
        alone = network(x[k : k + 1], network.biases(times[k : k + 1]))
        assert torch.allclose(together[k : k + 1], alone, atol=1e-5)


def test_gradients_reach_every_parameter_even_on_silence(network, config):
    x = torch.cat([spectra(config, batch=1), torch.zeros(1, CHANNELS, config.freqs, 7)])
    network.train()(x, network.biases(torch.tensor([0.1, 0.9]))).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert bool(parameter.grad.isfinite().all()) and bool(parameter.grad.any()), name


@pytest.mark.parametrize("steps", [1, 2])
def test_the_export_of_a_consistency_function_equals_torch(steps, tmp_path):
    config = ConsistencyNetConfig(backbone={"kind": "cruse", "width": 8}, steps=steps)
    assert config.backbone == CONFIGS["default"]
    model = untrained(config)
    export = export_onnx(model, tmp_path / "model.onnx")
    assert export_error(model, export.path, steps=12) < 1e-4
    graph = onnx.load(export.path).graph
    starts = [_constant(graph, node.input[5]) for node in graph.node if node.op_type == "GRU"]
    assert len(starts) == 4 * steps and not any(start.any() for start in starts)


def _constant(graph: onnx.GraphProto, name: str):
    """The initializer of that name, or the one that a node cuts it from."""
    cut_from = {output: node.input[0] for node in graph.node if node.op_type == "Split" for output in node.output}
    (found,) = (weight for weight in graph.initializer if weight.name == cut_from.get(name, name))
    return onnx.numpy_helper.to_array(found)


def test_spectra_of_other_sizes_are_refused():
    network = TimedCruse(CruseBackboneConfig(width=4), CHANNELS)
    with pytest.raises(InputError, match=r"^backbone\.freqs = 256, but the spectra have 512 bins$"):
        network(torch.zeros(1, CHANNELS, 512, 3), network.biases(torch.ones(1)))


@pytest.mark.parametrize(
    "document, message",
    [
        ({"width": 3}, "'backbone': width = 3 must be at least 4"),
        ({"depth": 0}, "'backbone': depth = 0 must be 1 to 4"),
        ({"depth": 5}, "'backbone': depth = 5 must be 1 to 4"),
        ({"freqs": 0}, "'backbone': freqs = 0 does not halve 4 times"),
        ({"freqs": 200}, "'backbone': freqs = 200 does not halve 4 times"),
        ({"gru_groups": 0}, "'backbone': gru_groups = 0 does not divide the GRU width 512"),
        ({"gru_groups": 3}, "'backbone': gru_groups = 3 does not divide the GRU width 512"),
        ({"fourier_scale": 0}, "'backbone.fourier_scale' = 0: Input should be greater than 0"),
        ({"widht": 8}, "unknown key 'backbone.widht'; did you mean 'width'?"),
        ({"kind": "crus"}, "'backbone': unknown kind 'crus'; did you mean 'cruse'?"),
    ],
)
def test_nonsense_is_one_line(document, message):
    with pytest.raises(InputError) as error:
        parse(ConsistencyNetConfig, {"backbone": {"kind": "cruse", **document}}, "study.toml: student")
    assert str(error.value).startswith(f"study.toml: student: {message}")
    assert "\n" not in str(error.value)
