"""Conv-TasNet: the contract of a family, torchaudio's own network where nothing streams, sizes and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_contract import FamilyContract, assert_recorded_as_configured, untrained
from tiny_models import speech_like
from torchaudio.models import ConvTasNet as Published

from search.cost import cost_of
from sekd.checkpoint import load_model, save_model
from sekd.config import parse
from sekd.errors import InputError
from sekd.export import describe, export_onnx
from sekd.models import ConvTasNetConfig, build
from sekd.torch_enhancer import TorchEnhancer

SMALL = {"filters": 12, "bottleneck": 6, "hidden": 8}
CONFIGS = {
    "horizon passed": ConvTasNetConfig(**SMALL, layers=3, hop=64, norm_horizon_s=0.2),
    "one frame a hop": ConvTasNetConfig(**SMALL, layers=2, hop=8, norm_horizon_s=None),
    "wide kernels": ConvTasNetConfig(**SMALL, layers=2, kernel=32, conv_kernel=4, stacks=1, mask="relu", hop=160),
}
OFFLINE = ConvTasNetConfig(**SMALL, layers=2, causal=False)


class TestContract(FamilyContract):
    longest = 150

    @pytest.fixture(scope="class", params=CONFIGS)
    @classmethod
    def config(cls, request):
        return CONFIGS[request.param]

    def latency_by_hand(self, config):
        return config.hop + config.kernel // 2

    def macs_by_hand(self, config):
        frames = config.hop // (config.kernel // 2)
        blocks = config.layers * config.stacks
        block = 3 * config.bottleneck * config.hidden + config.conv_kernel * config.hidden
        heard_by_nothing = config.bottleneck * config.hidden  # the residual of the last block, which torchaudio omits
        inside = blocks * block - heard_by_nothing + 2 * config.filters * config.bottleneck
        return {
            "conv": frames * (inside + config.filters * config.kernel),
            "conv_transpose": frames * config.filters * config.kernel,
            "matmul": 2 * (1 + 2 * blocks) * frames**2,  # mean and variance of each norm after each frame of a hop
        }


def parameters_by_hand(config: ConvTasNetConfig) -> int:
    """Encoder, decoder; norm and convolution into the blocks; blocks; one PReLU and convolution into the mask."""
    n, b, h = config.filters, config.bottleneck, config.hidden
    block = (b * h + h) + (config.conv_kernel * h + h) + 2 * (1 + 2 * h) + 2 * (h * b + b)
    ends = 2 * n * config.kernel + 2 * n + (n * b + b) + 1 + (b * n + n)
    return ends + config.stacks * config.layers * block - (h * b + b)


PUBLISHED = ConvTasNetConfig(filters=512, bottleneck=128, hidden=512, layers=8, stacks=3, causal=False)


@pytest.mark.parametrize("config, parameters", [(PUBLISHED, 4_918_833), (ConvTasNetConfig(), 322_969)])
def test_sizes(config, parameters):
    assert sum(parameter.numel() for parameter in build(config).parameters()) == parameters
    assert parameters_by_hand(config) == parameters


def test_asteroid_counts_one_convolution_more_that_nothing_hears():
    h, b = PUBLISHED.hidden, PUBLISHED.bottleneck
    assert parameters_by_hand(PUBLISHED) + h * b + b == 4_984_497


def test_without_causality_it_is_torchaudios_network(tmp_path):
    published = Published(num_sources=1, **{"enc_num_feats": 12, "msk_num_feats": 6, "msk_num_hidden_feats": 8},
                          msk_num_layers=2, msk_num_stacks=2)  # fmt: skip
    network = build(OFFLINE)
    network.net.load_state_dict(published.state_dict())
    save_model(network, tmp_path / "model.safetensors")
    network = load_model(tmp_path / "model.safetensors")
    with torch.no_grad():
        for samples in (1, 8, 1001):
            noisy = torch.from_numpy(speech_like(0.5))[None, -samples:]
            assert torch.equal(network(noisy), published(noisy[None])[0])


@torch.no_grad()
def test_without_causality_the_blocks_are_the_same():
    assert_recorded_as_configured(untrained(OFFLINE))
    assert OFFLINE.blocks == OFFLINE.model_copy(update={"causal": True}).blocks


@pytest.mark.parametrize("use", [TorchEnhancer, cost_of, lambda network: export_onnx(network, None)])
def test_without_causality_nothing_streams(use):
    with pytest.raises(InputError, match=r"^student\.causal = false: .* cannot stream") as error:
        use(build(OFFLINE))
    assert "\n" not in str(error.value)


def test_gradients_of_the_published_form_stay_finite_on_silence():
    network = untrained(OFFLINE).train()
    rows = np.stack([speech_like(0.5), np.zeros(8000, np.float32)])
    network(torch.from_numpy(rows)).square().mean().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in network.parameters())


def test_the_default_student_is_few_nodes(tmp_path):
    network = untrained(ConvTasNetConfig())
    export = export_onnx(network, tmp_path / "model.onnx")
    assert export == describe(export.path) and export.nodes < 650
    # Each of 25 norms takes 18 nodes, each of 12 blocks 4 convolutions and 2 activations.
    assert network.weight_bytes() <= export.weight_bytes < network.weight_bytes() + 8192


@pytest.mark.parametrize(
    "document, message",
    [
        ({"filters": 0}, "filters = 0 must be at least 1"),
        ({"layers": 0}, "layers = 0 must be at least 1"),
        ({"stacks": -1}, "stacks = -1 must be at least 1"),
        ({"kernel": 15}, "kernel = 15 must be even"),
        ({"kernel": 0}, "kernel = 0 must be even"),
        ({"hop": 0}, "hop = 0 must be a multiple of half of kernel = 16"),
        ({"hop": 100}, "hop = 100 must be a multiple of half of kernel = 16"),
        ({"conv_kernel": 1}, "conv_kernel = 1 must be at least 2"),
        ({"conv_kernel": 5, "causal": False}, "conv_kernel = 5 must be 3 where causal = false"),
        ({"norm_horizon_s": 0.1}, "norm_horizon_s = 0.1 must be at least 0.256 s"),
        ({"norm_horizon_s": float("inf")}, "norm_horizon_s = inf"),
        ({"mask": "softmax"}, "'mask' = 'softmax'"),
        ({"causel": False}, "unknown key 'causel'; did you mean 'causal'?"),
    ],
)
def test_nonsense_is_one_line(document, message):
    with pytest.raises(InputError) as error:
        parse(ConvTasNetConfig, document, "study.toml: student")
    assert str(error.value).startswith("study.toml: student: ")
    assert message in str(error.value) and "\n" not in str(error.value)
