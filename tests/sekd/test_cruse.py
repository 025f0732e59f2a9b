"""CRUSE: published sizes, the contract of a family, its norm and its mel matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_contract import FamilyContract, untrained
from gated_networks import assert_gates_switch, assert_policy_is_cheap, policy_macs

from search.cost import count_macs
from sekd.config import parse
from sekd.errors import InputError
from sekd.models import CruseConfig, build
from sekd.models.gates import GateConfig
from sekd.models.mel import band_gains, mel_matrix
from sekd.models.norm import EPSILON, MIN_HORIZON, CumulativeNorm, Stats, advance, frame_shares

STUDENT = CruseConfig()
TEACHER = CruseConfig(channels=(32, 64, 128, 192))
CONFIGS = {
    "student": STUDENT,
    "8 ms window": CruseConfig(n_fft=128, hop=64, bands=32, width=6, norm_horizon_s=None),
    "shallow": CruseConfig(width=5, depth=2, gru_groups=1, hop=128),
}
GATED = {
    "gate of a frame": CruseConfig(width=4, gate=GateConfig()),
    "gate of a block": CruseConfig(width=5, depth=3, gru_groups=5, gate=GateConfig(scope="module", static_share=0.3)),
}


def blocks(config: CruseConfig) -> list[tuple[int, int, int]]:
    """Channels in, channels out and frequencies out of each encoder block."""
    inputs = (1, *config.widths[:-1])
    return [(i, o, config.bands // 2 ** (k + 1)) for k, (i, o) in enumerate(zip(inputs, config.widths, strict=True))]


def network_macs(config: CruseConfig) -> dict[str, int]:
    """Without the mel matrices: kernel of two frames and three frequencies, stride two in frequency."""
    width = config.widths[-1] * config.bottleneck[1]
    return {
        "conv": sum(6 * i * o * f + o * o * f for i, o, f in blocks(config)),
        "conv_transpose": sum(6 * i * o * f for i, o, f in blocks(config)),
        "gru": 6 * width * width // config.gru_groups,
    }


class TestContract(FamilyContract):
    @pytest.fixture(scope="class", params=CONFIGS)
    @classmethod
    def config(cls, request):
        return CONFIGS[request.param]

    def macs_by_hand(self, config):
        return {**network_macs(config), "matmul": 2 * config.bands * (config.n_fft // 2 + 1)}


class TestGatedContract(FamilyContract):
    longest = 30

    @pytest.fixture(scope="class", params=GATED)
    @classmethod
    def config(cls, request):
        return GATED[request.param]

    def macs_by_hand(self, config):
        gates = 1 if config.gate.scope == "frame" else 2 * len(config.widths)
        added = policy_macs(config.gate, config.bands, gates)
        macs = network_macs(config)
        return {
            **macs,
            "gru": macs["gru"] + added["gru"],
            "linear": added["linear"],
            "matmul": 2 * config.bands * (config.n_fft // 2 + 1),
        }


@pytest.mark.parametrize("width", [8, 16])
def test_the_policy_costs_under_a_hundredth(width):
    assert_policy_is_cheap(CruseConfig(width=width))


@pytest.mark.parametrize("config", GATED.values(), ids=GATED)
def test_gates_switch_what_they_say(config, synthetic):
    assert_gates_switch(config, synthetic)


@pytest.mark.parametrize(
    "config, parameters, published_macs", [(STUDENT, 62_313, 297_600), (TEACHER, 1_867_041, 6_300_160)]
)
def test_published_sizes(config, parameters, published_macs):
    network = build(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    counted = count_macs(network, torch.zeros(1, 257, 1, 2), network.initial_state(), method="step")
    operators = dict(counted.by_operator)
    assert operators.pop("matmul") == 41_120  # between 257 bins and 80 bands, and back
    assert operators == network_macs(config)
    # The publication counts a transposed convolution by output bin, twice the products really made.
    assert sum(operators.values()) + operators["conv_transpose"] == published_macs


@pytest.mark.parametrize(
    "channels, parameters",
    [((8, 8, 16, 24), 30_609), ((8, 32, 64, 64), 242_681), ((16, 32, 64, 64), 246_097), ((16, 32, 64, 80), 347_633)],
)
def test_sizes_that_fit_the_other_published_students(channels, parameters):
    """Of 0.03, 0.24 (two candidates) and 0.35 M parameters; their widths were not published."""
    assert sum(parameter.numel() for parameter in build(CruseConfig(channels=channels)).parameters()) == parameters


def test_the_teacher_streams_as_it_runs_at_once(synthetic):
    network = untrained(TEACHER)
    with torch.no_grad():
        spectrum = network.analyse(torch.from_numpy(synthetic[:8000])[None])
        whole, _ = network.frames(spectrum, network.initial_state())
        state, single = network.initial_state(), []
        for frame in spectrum.split(1, dim=2):
            out, state = network.step(frame, state)
            single.append(out)
    assert float((torch.cat(single, 2) - whole).abs().max()) < 1e-4 * float(spectrum.square().mean().sqrt())


@pytest.mark.parametrize(
    "document, message",
    [
        ({"depth": 0}, "depth of 1 to 4"),
        ({"width": 0}, "widths of at least 1"),
        ({"channels": [8, 0]}, "widths of at least 1"),
        ({"bands": 0}, "bands = 0"),
        ({"bands": 81}, "does not halve 4 times"),
        ({"n_fft": 128, "hop": 64}, "bands = 80 must be 1 to half of n_fft = 128"),
        ({"n_fft": 0}, "n_fft = 0"),
        ({"hop": 0}, "hop = 0"),
        ({"hop": 300}, "n_fft = 512 must be an even multiple of hop = 300"),
        ({"gru_groups": 7}, "gru_groups = 7 does not divide the GRU width 160"),
        ({"norm_horizon_s": 0.1}, "norm_horizon_s = 0.1 must be at least 0.512 s"),
        ({"norm_horizon_s": float("nan")}, "norm_horizon_s = nan"),
        ({"widht": 8}, "unknown key 'widht'; did you mean 'width'?"),
        ({"width": "wide"}, "'width' = 'wide'"),
    ],
)
def test_nonsense_is_one_line(document, message):
    with pytest.raises(InputError) as error:
        parse(CruseConfig, document, "study.toml: student")
    assert str(error.value).startswith("study.toml: student: ")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("groups", [1, 2, 4, 5])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_width_depth_and_groups_are_free(depth, groups):
    network = build(CruseConfig(width=4, depth=depth, gru_groups=groups))
    with torch.no_grad():
        assert network(torch.ones(1, 1000)).isfinite().all()


@pytest.mark.parametrize("bands, n_fft", [(80, 512), (32, 128), (16, 256)])
def test_each_bin_takes_its_gain_from_bands_that_sum_to_one(bands, n_fft):
    mel = mel_matrix(bands, n_fft)
    gains = band_gains(mel)
    assert torch.allclose(gains.sum(0), torch.ones(n_fft // 2 + 1), atol=1e-6)
    assert float(gains[-1, -1]) == 1  # no triangle covers the Nyquist bin
    below = torch.arange(n_fft // 2 + 1) * 16000 / n_fft < 50
    assert bool((gains[0, below] == 1).all())
    assert float(mel.max()) <= 1 and float(mel.min()) == 0


def reference_norm(x: np.ndarray, horizon: int | None) -> np.ndarray:
    """The recursion in float64, frame by frame: (frame, value) normalised by what has been heard so far."""
    count, mean, square = 0.0, 0.0, 0.0
    out = np.empty_like(x)
    for t, frame in enumerate(x):
        count = count + 1 if horizon is None else min(count + 1, horizon)
        mean += (frame.mean() - mean) / count
        square += (np.square(frame).mean() - square) / count
        out[t] = (frame - mean) / np.sqrt(square - mean**2 + EPSILON)
    return out


@pytest.fixture(scope="module")
def long_input() -> np.ndarray:
    """20,000 frames (320 s) whose level moves over 60 dB, on an offset: (frame, 10) float64."""
    rng = np.random.default_rng(0)
    level = 10 ** (-1.5 + 1.5 * np.sin(np.arange(20_000) / 700))
    values = level[:, None] * rng.standard_normal((20_000, 10)) + 2.0
    return values.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("horizon", [625, MIN_HORIZON, None])
@pytest.mark.parametrize("piece", [1, 16, 1000])
@torch.no_grad()
def test_norm_keeps_its_precision_over_20000_frames(long_input, horizon, piece):
    norm = CumulativeNorm(2, horizon)
    x = torch.from_numpy(long_input).float().reshape(1, -1, 2, 5).transpose(1, 2)
    stats, count = Stats(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)), torch.zeros(1, 1, 1, 1)
    parts = []
    for part in x.split(piece, dim=2):
        if piece == 16:  # as networks do whose steps are several frames
            out, every = norm.few(part, stats, frame_shares(count, piece, horizon))
            stats = Stats(*(value[:, :, -1:] for value in every))
        else:
            out, stats = norm(part, stats, count)
        count = advance(count, part.shape[2], horizon)
        parts.append(out)
    found = torch.cat(parts, dim=2).transpose(1, 2).reshape(-1, 10).numpy()
    wanted = reference_norm(long_input, horizon)
    tolerance = 2e-3 if piece == 16 else 1e-3  # the first step of several frames knows no mean to lie near
    assert np.abs(found - wanted).max() < tolerance * np.sqrt(np.square(wanted).mean())


def test_norm_without_horizon_is_the_mean_over_all_the_past():
    x = torch.randn(1, 3, 50, 4, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(1, 1, 1, 1)
    out, _ = CumulativeNorm(3, None)(x, Stats(zero, zero), zero)
    past = x[:, :, :31].double()
    wanted = (x[:, :, 30].double() - past.mean()) / (past.var(correction=0) + EPSILON).sqrt()
    assert torch.allclose(out[:, :, 30].double(), wanted, atol=1e-5)
