"""DCCRN-CL: published sizes, the contract of a family, and its layers against arithmetic of complex numbers."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from family_contract import TOLERANCE, FamilyContract, rms, untrained
from tiny_models import noise, speech_like
from torch.nn.functional import conv2d, conv_transpose2d, pad

from sekd.checkpoint import hash_of_weights
from sekd.config import parse
from sekd.distillation import DistillConfig, distill
from sekd.errors import InputError
from sekd.export import describe
from sekd.models import CruseConfig, DccrnConfig, build
from sekd.models.complex_layers import ComplexConv, ComplexTransposed, NormedPrelu
from sekd.models.complex_lstm import ComplexLstm
from sekd.models.dccrn import bounded, masked

STUDENT = DccrnConfig()
TEACHER = DccrnConfig(width=32, rnn_width=128)
CONFIGS = {
    "student": STUDENT,
    "8 ms window": DccrnConfig(channels=(4, 6, 4), rnn_width=5, n_fft=128, window_length=128, hop=64),
}


@contextmanager
def every_batch_counts_alone():
    """The running statistics of norms are those of the last batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sekd.models.complex_layers.MOMENTUM", 1.0)
        yield


class TestContract(FamilyContract):
    @pytest.fixture(scope="class", params=CONFIGS)
    @classmethod
    def config(cls, request):
        return CONFIGS[request.param]

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls, config):
        """With the statistics of a signal in its norms, as after training: without, it amplifies rounding too."""
        network = untrained(config).train()
        with every_batch_counts_alone(), torch.no_grad():
            network(torch.from_numpy(np.stack([speech_like(0.5), noise(8000, 0.1)])))
        return network.eval()

    def macs_by_hand(self, config):
        """Kernel of two frames and five frequencies; two products of complex numbers are eight of real ones."""
        levels = list(zip(pairwise((2, *config.widths)), config.freqs[1:], strict=True))
        width, hidden = config.widths[-1] // 2 * config.freqs[-1], config.rnn_width
        return {
            "conv": sum(10 * outer * inner * freqs for (outer, inner), freqs in levels),
            "conv_transpose": sum(20 * outer * inner * freqs for (outer, inner), freqs in levels),
            "lstm": 4 * 4 * hidden * (width + 3 * hidden),
            "linear": 4 * hidden * width,
        }

    def test_training_mode_computes_the_same(self, network):
        """Not so while the batch norm learns; but once its statistics are those of the batch."""
        network = copy.deepcopy(network).train()
        rows = torch.from_numpy(np.stack([speech_like(0.5), noise(8000, 0.3)]))
        with every_batch_counts_alone(), torch.no_grad():
            in_training = network(rows)
            in_use = network.eval()(rows)
        # The running variance is without bias, that of the batch with it.
        assert float((in_use - in_training).abs().max()) < 1e-2 * rms(rows.numpy())

    def test_an_export_holds_what_the_cost_says(self, network, onnx_path):
        assert network.weight_bytes() <= describe(onnx_path).weight_bytes < network.weight_bytes() + 4096

    @torch.no_grad()
    def test_blocks_are_recorded_on_the_grids_of_the_configuration(self, network, config):
        with network.recorded() as blocks:
            network(torch.ones(2, 10 * config.hop))
        frames = network.analyse(torch.ones(2, 10 * config.hop)).shape[2]
        assert [tuple(block.shape[2:]) for block in blocks] == [(frames, block.freqs) for block in config.blocks]
        widths = config.widths
        assert [block.shape[1] for block in blocks] == [*widths, widths[-1], *widths[-2::-1], 2]


@pytest.mark.parametrize("config, parameters", [(STUDENT, 231_144), (TEACHER, 3_669_336)])
def test_published_sizes(config, parameters):
    assert sum(parameter.numel() for parameter in build(config).parameters()) == parameters


def test_teacher_and_student_can_be_compared_block_by_block():
    assert STUDENT.blocks == TEACHER.blocks
    assert [block.freqs for block in STUDENT.blocks] == [128, 64, 32, 16, 8, 4, 4, 8, 16, 32, 64, 128, 256]


@pytest.mark.parametrize(
    "document, message",
    [
        ({"depth": 7}, "depth = 7 must be 1 to 6"),
        ({"width": 0}, "widths must be even"),
        ({"channels": [8, 5]}, "widths must be even"),
        ({"rnn_width": 0}, "rnn_width = 0 must be at least 1"),
        ({"n_fft": 320}, "n_fft = 320 does not halve 7 times"),
        ({"n_fft": 256}, "window_length = 400 must be even and at most n_fft = 256"),
        ({"hop": 0}, "hop = 0"),
        ({"hop": 128}, "window_length = 400 must be a multiple of hop = 128, not equal"),
        ({"hop": 400}, "window_length = 400 must be a multiple of hop = 400, not equal"),
    ],
)
def test_nonsense_is_one_line(document, message):
    with pytest.raises(InputError) as error:
        parse(DccrnConfig, document, "study.toml: student")
    assert str(error.value).startswith("study.toml: student: ")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("samples", [1, 99, 100, 999])
@pytest.mark.parametrize("sizes", [(512, 400, 100), (512, 480, 120), (512, 384, 128), (128, 64, 16)])
def test_an_unchanged_spectrum_gives_the_signal_back(sizes, samples):
    n_fft, window_length, hop = sizes
    network = build(DccrnConfig(width=2, depth=1, rnn_width=1, n_fft=n_fft, window_length=window_length, hop=hop))
    signal = torch.from_numpy(noise(samples, 0.1))[None]
    assert torch.allclose(network.synthesise(network.analyse(signal), samples), signal, atol=1e-6)


def test_a_window_of_all_n_fft_is_as_before():
    window = build(CruseConfig()).window
    assert torch.equal(window, torch.hann_window(512).sqrt())
    assert torch.equal(build(STUDENT).window, pad(torch.hann_window(400).sqrt(), (56, 56)))


def as_complex(x: torch.Tensor) -> torch.Tensor:
    return torch.complex(*x.chunk(2, dim=1))


@torch.no_grad()
def test_a_convolution_is_the_complex_one():
    layer, x = ComplexConv(2, 3), torch.randn(2, 4, 6, 8)
    found = layer((torch.zeros(2, 4, 1, 8),), (x,), layer.kernel(), None)
    kernel = torch.complex(layer.real.weight, layer.imag.weight)
    wanted = conv2d(pad(as_complex(x), (2, 2, 1, 0)), kernel, stride=(1, 2))
    assert torch.allclose(as_complex(found), wanted, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 6])
def test_a_transposed_convolution_is_the_complex_one(frames):
    layer = ComplexTransposed(2, 3)
    x, skip = torch.randn(2, 2, 4, frames, 8)
    past = (torch.zeros(2, 4, 1, 8),) * 2
    found = layer(past, (x, skip), layer.kernel(), None)
    kernel = torch.complex(layer.real.weight, layer.imag.weight)
    both = torch.cat([as_complex(x), as_complex(skip)], 1)
    wanted = conv_transpose2d(both, kernel, stride=(1, 2), padding=(0, 2), output_padding=(0, 1))[:, :, :frames]
    assert torch.allclose(as_complex(found), wanted, atol=1e-5)


@torch.no_grad()
def test_the_lstm_is_that_of_equation_5():
    layer, x = ComplexLstm(6, 4), torch.randn(2, 4, 5, 3)
    found, _ = layer(x, torch.zeros(2, layer.state_size))
    real, imag = (part.permute(2, 0, 1, 3).reshape(5, 2, 6) for part in x.chunk(2, dim=1))

    def through(lstms, values):
        for lstm in lstms:
            values, _ = lstm(values)
        return values

    output_real = through(layer.real, real) - through(layer.imag, imag)
    output_imag = through(layer.real, imag) + through(layer.imag, real)
    out = layer.out
    wanted = [
        out.real(output_real) - out.imag(output_imag),
        out.real(output_imag) + out.imag(output_real),
    ]
    grid = torch.stack(wanted, dim=2).reshape(5, 2, 4, 3).permute(1, 2, 0, 3)
    assert torch.allclose(found, grid, atol=1e-5)


def test_the_mask_keeps_its_phase_and_its_magnitude_below_one():
    values = 3 * torch.randn(2, 2, 5, 4)
    mask, limited = as_complex(values), as_complex(bounded(values))
    assert torch.allclose(limited.abs(), torch.tanh(mask.abs()), atol=1e-5)
    assert torch.allclose(limited / limited.abs(), mask / mask.abs(), atol=1e-5)
    assert float(TOLERANCE) > float(bounded(torch.zeros(1, 2, 1, 1)).abs().max()) == 0
    spectrum = torch.randn(2, 2, 5, 4)
    assert torch.allclose(as_complex(masked(spectrum, values)), as_complex(spectrum) * mask, atol=1e-5)


def test_it_trains_and_its_running_mean_takes_in_the_statistics(corpus, tmp_path):
    source = {"manifest": str(corpus), "segment_s": 0.5}
    document = {
        "student": {"family": "dccrn", "channels": [4, 4], "rnn_width": 2},
        "train": {"steps": 3, "batch": 2, "ema": 0.5},
        "data": {"train": {**source, "pool_minutes": 0.1}, "valid": {**source, "count": 2}},
        "distill": {"schedule": {"kind": "supervised"}},
    }
    config = parse(DistillConfig, document, "distil.toml")
    students = [distill(config, cache=tmp_path).model for _ in range(2)]
    assert len({hash_of_weights(student) for student in students}) == 1
    assert all(layer.mean.any() for layer in students[0].modules() if isinstance(layer, NormedPrelu))
