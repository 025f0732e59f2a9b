"""Streaming ONNX of networks on waves: the file, the stream, and foreign files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from tiny_models import noise, speech_like

from sekd.errors import InputError
from sekd.export import export_error, export_onnx
from sekd.models import NetworkConfig, State, WaveEnhancer
from sekd.models.base import STATE_NAMES
from sekd.streaming import OnnxEnhancer
from sekd.torch_enhancer import TorchEnhancer, load_enhancer

HOP, DELAY = 64, 16


class LateGain(WaveEnhancer):
    """Half of the input, ``DELAY`` samples late; adds ``hum`` to everything."""

    delay = DELAY

    def __init__(self, hum: float = 0.0) -> None:
        super().__init__()
        self.hop, self.config = HOP, NetworkConfig()
        self.gain, self.hum = torch.nn.Parameter(torch.tensor(0.5)), hum

    def hops(self, wave, state):
        heard = torch.cat([state.inter_cache, wave], dim=1)
        out = self.gain * heard[:, : wave.shape[1]] + self.hum
        return out, State(state.conv_cache * 1.0, state.tra_cache * 1.0, heard[:, -DELAY:])

    def state_sizes(self):
        return 1, 1, DELAY


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return export_onnx(LateGain(), tmp_path_factory.mktemp("wave") / "model.onnx", notes={"trial": "7"}).path


def test_file_follows_the_contract(path):
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert [value.name for value in model.graph.input] == ["wave", *STATE_NAMES]
    assert [value.name for value in model.graph.output] == ["enh", *(f"{name}_out" for name in STATE_NAMES)]
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "contract": "wave",
        "sample_rate": "16000",
        "hop_length": "64",
        "delay": "16",
        "version": "1",
        "trial": "7",
        "conv_cache_shape": "1,1",
        "tra_cache_shape": "1,1",
        "inter_cache_shape": "1,16",
    }
    assert export_error(LateGain(), path) == 0


@pytest.mark.parametrize("samples", [0, 1, 63, 64, 65, 5000])
def test_enhance_is_aligned_and_keeps_the_length(path, samples):
    noisy = noise(samples, 0.2)
    for enhancer in (load_enhancer(path), TorchEnhancer(LateGain())):
        assert (enhancer.sample_rate, enhancer.hop, enhancer.delay) == (16_000, HOP, DELAY)
        assert np.array_equal(enhancer.enhance(noisy), 0.5 * noisy)


def test_process_trails_by_the_delay_and_forks_share_nothing(path):
    enhancer = OnnxEnhancer(path)
    noisy = speech_like(0.512)
    out = []
    for hop in noisy.reshape(-1, HOP):
        out.append(enhancer.process(hop))
        enhancer.fork().process(noise(HOP))
    assert np.array_equal(np.concatenate(out)[DELAY:], 0.5 * noisy[:-DELAY])
    with pytest.raises(ValueError, match="expected 64 samples"):
        enhancer.process(noisy[:1])


def test_silence_stays_silent_whatever_the_network_adds(tmp_path):
    humming = OnnxEnhancer(export_onnx(LateGain(hum=0.3), tmp_path / "hum.onnx").path)
    assert not humming.enhance(np.zeros(1000, np.float32)).any()
    out = humming.enhance(np.concatenate([noise(2000), np.zeros(2000, np.float32)]))
    assert out[:2000].all() and not out[2000 + 2 * HOP + DELAY :].any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"contract": "waves"}, "unknown contract 'waves'; did you mean 'wave'?"),
        ({"contract": "spectrum"}, "its metadata lack n_fft, window_length, window_type"),
        ({"delay": None}, "its metadata lack delay"),
        ({"delay": "-1"}, "not a number of samples: delay = '-1'"),
        ({"hop_length": "0"}, "sample_rate 16000 and hop_length 0 must be above 0"),
        ({"hop_length": "32"}, "'wave' is [1, 64], not [1, 32]"),
    ],
)
def test_foreign_files_are_refused_in_one_line(path, tmp_path, changes, message):
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props} | changes
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: value for key, value in metadata.items() if value is not None})
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(InputError) as error:
        OnnxEnhancer(tmp_path / "foreign.onnx")
    assert str(error.value) == f"{tmp_path / 'foreign.onnx'}: not a streaming enhancer: {message}"
