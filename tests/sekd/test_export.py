"""The streaming ONNX: its contract, other runtimes, and mistakes that the check must notice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from family_contract import untrained
from tiny_models import noise, speech_like

from sekd.checkpoint import save_model
from sekd.errors import InputError
from sekd.export import Export, describe, export_error, export_onnx
from sekd.models import FAMILIES, CruseConfig, DccrnConfig, Enhancer, FtfConfig, SpectralEnhancer
from sekd.models.base import STATE_NAMES, State
from sekd.streaming import OnnxEnhancer
from sekd.torch_enhancer import TorchEnhancer, load_enhancer

SHORT = CruseConfig(n_fft=128, hop=64, bands=32)


@pytest.fixture(scope="module")
def network() -> Enhancer:
    return untrained(CruseConfig())


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory) -> Export:
    return export_onnx(network, tmp_path_factory.mktemp("export") / "model.onnx", notes={"trial": "7"})


def test_file_follows_the_contract(network, exported):
    model = onnx.load(exported.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version <= 8
    assert [value.name for value in model.graph.input] == ["mix", *STATE_NAMES]
    assert [value.name for value in model.graph.output] == ["enh", *(f"{name}_out" for name in STATE_NAMES)]
    sizes = {name: f"1,{size}" for name, size in zip(STATE_NAMES, network.state_sizes(), strict=True)}
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "model_type": "gtcrn",
        "sample_rate": "16000",
        "n_fft": "512",
        "hop_length": "256",
        "window_length": "512",
        "window_type": "hann_sqrt",
        "version": "1",
        "trial": "7",
        **{f"{name}_shape": size for name, size in sizes.items()},
    }


def test_shapes_are_static_floats(exported):
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    tensors = [*session.get_inputs(), *session.get_outputs()]
    assert tensors[0].shape == [1, 257, 1, 2] and session.get_outputs()[0].shape == [1, 257, 1, 2]
    assert all(tensor.type == "tensor(float)" for tensor in tensors)
    assert all(isinstance(size, int) and size > 0 for tensor in tensors for size in tensor.shape)


def test_description_counts_what_the_file_holds(network, exported):
    assert describe(exported.path) == exported
    assert "Constant" not in exported.operators and "GRU" in exported.operators
    assert len(exported.operators) <= exported.nodes < 300
    # Besides the network's own weights the file holds a few shapes and indices.
    assert network.weight_bytes() <= exported.weight_bytes < network.weight_bytes() + 4096


def test_a_failed_export_leaves_nothing(network, tmp_path, monkeypatch):
    def refuse(model):
        raise onnx.checker.ValidationError("no")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(onnx.checker.ValidationError):
        export_onnx(network, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


SHERPA = """
import sys
import numpy as np
import sherpa_onnx as so

model, signal, out, online = sys.argv[1:]
noisy = np.load(signal)
network = so.OfflineSpeechDenoiserModelConfig(gtcrn=so.OfflineSpeechDenoiserGtcrnModelConfig(model=model))
offline = so.OfflineSpeechDenoiser(so.OfflineSpeechDenoiserConfig(model=network))
done = offline.run(noisy, 16000)
found = {"offline": np.array(done.samples, np.float32), "rates": [offline.sample_rate, done.sample_rate]}
if online == "online" and hasattr(so, "OnlineSpeechDenoiser"):
    online = so.OnlineSpeechDenoiser(so.OnlineSpeechDenoiserConfig(model=network))
    hop = online.frame_shift_in_samples
    parts = [online.run(noisy[at : at + hop], 16000).samples for at in range(0, len(noisy), hop)]
    found["online"] = np.concatenate([*parts, online.flush().samples]).astype(np.float32)
    found["rates"] += [online.sample_rate]
np.savez(out, **found)
"""


def run_in_sherpa(model: Path, noisy: np.ndarray, folder: Path, *, online: bool) -> dict[str, np.ndarray]:
    """What sherpa-onnx makes of ``noisy``; in a process of its own, which a bad file brings down."""
    done = sherpa(model, noisy, folder, online=online)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "out.npz") as file:
        return dict(file)


def sherpa(model: Path, noisy: np.ndarray, folder: Path, *, online: bool) -> subprocess.CompletedProcess[str]:
    np.save(folder / "noisy.npy", noisy)
    files = [str(model), str(folder / "noisy.npy"), str(folder / "out.npz")]
    command = [sys.executable, "-c", SHERPA, *files, "online" if online else "offline"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def after_its_reflection(enhancer: OnnxEnhancer, noisy: np.ndarray) -> np.ndarray:
    """As sherpa-onnx cuts a file: its first frame reflects the start, where a stream has heard only zeros."""
    stft, enhancer = enhancer.fork().stream, enhancer.fork()
    before = noisy[stft.n_fft // 2 : 0 : -1]
    lead = -stft.n_fft % stft.hop + len(before)  # a stream feeds whole hops
    signal = np.concatenate([np.zeros(lead - len(before), np.float32), before, noisy])
    hops = signal[: len(signal) // stft.hop * stft.hop].reshape(-1, stft.hop)
    first = -(-stft.n_fft // stft.hop) - 1
    for hop in hops[:first]:
        stft.analyse(hop)
    done = [stft.synthesise(enhancer.step(stft.analyse(hop))) for hop in hops[first:]]
    return np.concatenate(done)[stft.delay + lead - first * stft.hop :]


# Both classes: each hop half a window (the online class never divides by the windows' sum, and drops one hop only).
BOTH = {
    "CRUSE": CruseConfig(),
    "8 ms window": SHORT,
    "DCCRN": DccrnConfig(window_length=512, hop=256),
    "FTF-Net": FtfConfig(),
    "HyST-Net": FtfConfig(order="hyst"),
}
OFFLINE = {"DCCRN of four hops": DccrnConfig(window_length=512, hop=128)}


@pytest.mark.parametrize("name", [*BOTH, *OFFLINE])
def test_every_family_on_spectra_runs_in_sherpa_onnx(name, tmp_path):
    pytest.importorskip("sherpa_onnx")
    config = {**BOTH, **OFFLINE}[name]
    path = export_onnx(untrained(config), tmp_path / "model.onnx").path
    noisy = speech_like(1.024) + noise(16_384, 0.003)
    found = run_in_sherpa(path, noisy, tmp_path, online=name in BOTH)
    assert set(found["rates"]) == {16_000}
    ours = OnnxEnhancer(path)
    # The same onnxruntime kernels on the same frames: what differs is the FFT, both in float32.
    tolerance = 1e-4 * np.sqrt(np.mean(noisy**2))
    inside = slice(config.n_fft, 16_000 - config.n_fft)
    assert np.abs(found["offline"][inside] - after_its_reflection(ours, noisy)[inside]).max() < tolerance
    if "online" in found:
        assert len(found["online"]) == len(noisy)
        assert np.abs(found["online"][inside] - ours.enhance(noisy)[inside]).max() < tolerance


def test_a_window_shorter_than_n_fft_is_refused_by_sherpa_onnx(tmp_path):
    """It would write over the end of its buffers."""
    pytest.importorskip("sherpa_onnx")
    path = export_onnx(untrained(DccrnConfig()), tmp_path / "model.onnx").path
    done = sherpa(path, speech_like(1.0), tmp_path, online=False)
    assert done.returncode == 255 and "Expect model type 'gtcrn'. Given: 'sekd'" in done.stderr


def test_every_family_is_tried_in_sherpa_onnx():
    spectral = {config for config, family in FAMILIES.items() if issubclass(family, SpectralEnhancer)}
    assert {type(config) for config in BOTH.values()} == spectral


class Mistaken(torch.nn.Module):
    """A network whose step was exported with a mistake, while the network itself is right."""

    def __init__(self, network: Enhancer, mistake) -> None:
        super().__init__()
        self.network, self.mistake = network, mistake

    def __getattr__(self, name: str):
        return super().__getattr__(name) if name in ("network", "mistake") else getattr(self.network, name)

    def step(self, frame, state):
        return self.mistake(self.network, frame, state)


def swapped_context(network, frame, state):
    """Two states of equal size change places."""
    first = network._context[0][0] * network._context[0][1]
    cache = torch.cat([state.conv_cache[:, first:], state.conv_cache[:, :first]], 1)
    return network.step(frame, state._replace(conv_cache=cache))


def forgotten_count(network, frame, state):
    """The number of frames behind the running mean is one too many."""
    return network.step(frame, state._replace(tra_cache=state.tra_cache + torch.eye(1, state.tra_cache.shape[1])))


def shifted_state(network, frame, state):
    out, after = network.step(frame, state)
    return out, after._replace(inter_cache=after.inter_cache.roll(1, dims=1))


def state_of_the_frame_before(network, frame, state):
    out, after = network.step(frame, state)
    return out, State(after.conv_cache, state.tra_cache, after.inter_cache)


def neighbouring_bins(network, frame, state):
    out, after = network.step(frame, state)
    return out.roll(1, dims=1), after


@pytest.mark.parametrize(
    "mistake", [swapped_context, forgotten_count, shifted_state, state_of_the_frame_before, neighbouring_bins]
)
def test_mistakes_of_an_export_are_noticed(network, tmp_path, mistake):
    path = export_onnx(Mistaken(network, mistake), tmp_path / "model.onnx").path
    assert export_error(network, path) > 1e-3


def test_a_model_is_a_package_an_onnx_or_weights(network, exported, tmp_path):
    save_model(network, tmp_path / "model.safetensors")
    noisy = speech_like(0.5)
    results = [load_enhancer(path).enhance(noisy) for path in (exported.path, exported.path.parent)]
    results.append(load_enhancer(str(tmp_path / "model.safetensors")).enhance(noisy))
    assert isinstance(load_enhancer(tmp_path / "model.safetensors"), TorchEnhancer)
    assert np.array_equal(results[0], results[1])
    assert np.allclose(results[0], results[2], atol=1e-5)
    with torch.no_grad():
        assert np.allclose(results[2], network(torch.from_numpy(noisy)[None])[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "name, message", [("none", "no such file"), ("", "holds no model.onnx"), ("a.wav", "not a model")]
)
def test_what_is_no_model_is_told_what_one_is(tmp_path, name, message):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError) as error:
        load_enhancer(tmp_path / name)
    assert message in str(error.value) and "an .onnx or a .safetensors" in str(error.value)
    assert "\n" not in str(error.value)
