"""FTF-Net and HyST-Net: published sizes, the contract of a family, their gates."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from family_contract import FamilyContract, untrained
from gated_networks import assert_gates_switch, assert_policy_is_cheap, policy_macs

from search.cost import count_macs
from sekd.config import parse
from sekd.errors import InputError
from sekd.models import FtfConfig, build
from sekd.models.gates import GateConfig

SMALL = {"width": 3, "heads": 2, "gru_groups": 4, "attention_frames": 9, "n_fft": 128, "hop": 64}
CONFIGS = {
    "ftf": FtfConfig(**SMALL),
    "hyst": FtfConfig(**{**SMALL, "order": "hyst", "channels": (5, 8), "hop": 32}),
    "gated ftf": FtfConfig(**SMALL, gate=GateConfig()),
    "hyst, gate of a block": FtfConfig(
        **{**SMALL, "heads": 4, "channels": (5, 8)}, order="hyst", gate=GateConfig(scope="module", static_share=0.3)
    ),
}
GATED = {
    "gated ftf": CONFIGS["gated ftf"],
    "gated hyst": FtfConfig(**SMALL, order="hyst", gate=GateConfig()),
    "ftf, gate of a block": FtfConfig(**SMALL, gate=GateConfig(scope="module")),
    "hyst, gate of a block": CONFIGS["hyst, gate of a block"],
}
PUBLISHED = {"ftf": (131_298, 318.756, 0.14, 318.2), "hyst": (107_874, 264.636, 0.11, 266.4)}


def layer_macs(kind: str, config: FtfConfig) -> dict[str, int]:
    """One layer of the bottleneck: matrices of the groups between all gates of a GRU, four projections, and the
    products of queries with keys and of weights with values."""
    width, freqs = config.widths[-1], config.freqs[-1]
    heard = {"attention frequency": freqs, "attention time": config.attention_frames}
    if kind in heard:
        return {"linear": 4 * freqs * width**2, "matmul": 2 * freqs * heard[kind] * width}
    one_way = {"gru": 6 * freqs * width**2 // config.gru_groups}
    both = {"gru": 2 * one_way["gru"], "linear": 2 * freqs * width**2}
    return one_way if kind == "gru time" else both


def network_macs(config: FtfConfig) -> Counter[str]:
    """Convolutions over two frames and three frequencies, of two inputs each in the decoder, and the bottleneck."""
    steps = list(zip((2, *config.widths), config.widths, config.freqs[1:], strict=False))
    macs = Counter(
        conv=sum(6 * i * o * freqs for i, o, freqs in steps),
        conv_transpose=sum(6 * 2 * o * i * freqs for i, o, freqs in steps),
    )
    for kinds in config.kinds:
        for kind in kinds:
            macs.update(layer_macs(kind, config))
    return macs


class TestContract(FamilyContract):
    longest = 20

    @pytest.fixture(
        scope="class",
        params=[pytest.param(name, marks=[pytest.mark.slow] if name == "gated ftf" else []) for name in CONFIGS],
    )
    @classmethod
    def config(cls, request):
        return CONFIGS[request.param]

    def macs_by_hand(self, config):
        macs = network_macs(config)
        if config.gate is not None:
            gates = 1 if config.gate.scope == "frame" else len(config.blocks) - 1
            macs.update(policy_macs(config.gate, config.freqs[0], gates))
        return dict(macs)


@pytest.mark.slow
class TestPublishedContract(TestContract):
    longest = 1250

    @pytest.fixture(scope="class", params=["ftf", "hyst"])
    @classmethod
    def config(cls, request):
        return FtfConfig(order=request.param)


@pytest.mark.slow
class TestPublishedGatedContract(TestContract):
    longest = 300

    @pytest.fixture(scope="class", params=["frame", "module"])
    @classmethod
    def config(cls, request):
        return FtfConfig(gate=GateConfig(scope=request.param))


@pytest.mark.parametrize("order", PUBLISHED)
def test_published_sizes(order):
    """The papers give two and four digits; parameters fit to 7 %, MACs to 0.7 %."""
    parameters, mmacs_per_s, published_m, published_mmacs_per_s = PUBLISHED[order]
    network = build(FtfConfig(order=order))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    counted = count_macs(network, network.example(), network.initial_state(), method="step")
    assert counted.by_operator == dict(network_macs(network.config))
    assert counted.total * 62.5e-6 == pytest.approx(mmacs_per_s, abs=1e-3)
    assert parameters == pytest.approx(1e6 * published_m, rel=0.07)
    assert mmacs_per_s == pytest.approx(published_mmacs_per_s, rel=0.007)


@pytest.mark.parametrize("order", PUBLISHED)
def test_the_policy_costs_under_a_hundredth(order):
    assert_policy_is_cheap(FtfConfig(order=order))


@pytest.mark.parametrize("config", GATED.values(), ids=GATED)
def test_gates_switch_what_they_say(config, synthetic):
    assert_gates_switch(config, synthetic)


@torch.no_grad()
def test_pieces_of_1000_frames_equal_one_run(synthetic):
    network = untrained(CONFIGS["gated ftf"])
    signal = torch.from_numpy(synthetic[: 1100 * 64])[None]
    whole, _ = network.frames(network.analyse(signal), network.initial_state())
    wave = network.synthesise(whole, signal.shape[1])
    assert float((wave - network(signal)).abs().max()) < 1e-4 * float(signal.square().mean().sqrt())


@torch.no_grad()
@pytest.mark.parametrize("order", PUBLISHED)
def test_untrained_it_lets_signals_through(order, synthetic):
    torch.manual_seed(0)
    signal = torch.from_numpy(synthetic[:16000])[None]
    ratio = build(FtfConfig(order=order))(signal).square().mean() / signal.square().mean()
    assert 0.01 < float(ratio) < 1


@pytest.mark.parametrize("order", PUBLISHED)
def test_what_attention_remembers_lies_alone_in_its_cache(order):
    sizes = build(FtfConfig(**{**SMALL, "order": order})).state_sizes()
    width, freqs = 12, 9
    ring = SMALL["attention_frames"] * (2 * width * freqs + 1)
    wanted = (1 + width * freqs, ring) if order == "ftf" else (1, 3 * width * freqs)
    assert sizes[1:] == wanted


@pytest.mark.parametrize(
    "document, message",
    [
        ({"width": 0}, "widths of at least 1"),
        ({"hop": 300}, "n_fft = 512 must be an even multiple of hop = 300"),
        ({"n_fft": 72, "hop": 36}, "n_fft = 72 does not halve 4 times"),
        ({"heads": 5}, "heads = 5 does not divide the 64 channels"),
        ({"gru_groups": 0}, "gru_groups = 0 does not divide"),
        ({"attention_frames": 0}, "attention_frames = 0"),
        ({"order": "fft"}, "'order' = 'fft'"),
        ({"channels": [1, 8], "gate": {}}, "a width of 1 has no dynamic part"),
        ({"heads": 1, "gate": {}}, "heads = 1 must be at least 2"),
        ({"gru_groups": 2, "gate": {"static_share": 0.25}}, "gru_groups = 2 must divide as heads = 4 do"),
    ],
)
def test_nonsense_is_one_line(document, message):
    with pytest.raises(InputError) as error:
        parse(FtfConfig, {"family": "ftf", **document}, "study.toml: student")
    assert message in str(error.value) and "\n" not in str(error.value)
