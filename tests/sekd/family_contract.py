"""What every student family must hold. A test file per family derives from it and adds what is its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import RATE, at_level
from tiny_models import noise, speech_like

from search.cost import cost_of, count_macs
from sekd.checkpoint import load_model, save_model
from sekd.export import export_error, export_onnx
from sekd.models import Enhancer, NetworkConfig, SpectralEnhancer, State, StudentConfig, WaveEnhancer, build
from sekd.models.gates import Gating
from sekd.models.settled import settled
from sekd.streaming import HopEnhancer, OnnxEnhancer
from sekd.torch_enhancer import TorchEnhancer

_exported: dict[NetworkConfig, Path] = {}
TOLERANCE = 1e-4  # of the RMS of the signal
# Hops of each signal: the long one, 20 s at a hop of 16 ms, shows what drifts.
SIGNALS = {
    "recording at -40 dBFS": 1250,
    "recording at -10 dBFS": 200,
    "synthetic at -10 dBFS": 100,
    "noise": 100,
    "noise before silence": 50,
    "silence": 50,
}


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def untrained(config: StudentConfig) -> Enhancer:
    """A network whose biases and gains are no longer those that hide mistakes (zeros and ones)."""
    torch.manual_seed(0)
    network = build(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.3).add_(0.05 * torch.randn_like(parameter))
    return network


class Steps(NamedTuple):
    """All steps of a signal as one tensor, and the method of the network that takes any number of them."""

    whole: torch.Tensor
    axis: int
    size: int  # of one step along the axis
    run: Callable[[torch.Tensor, State], tuple[torch.Tensor, State]]

    def each(self) -> tuple[torch.Tensor, ...]:
        return self.whole.split(self.size, self.axis)

    def cut(self, at: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first ``at`` steps and the others."""
        length = self.whole.shape[self.axis]
        return self.whole.split([at * self.size, length - at * self.size], self.axis)


def steps_of(network: Enhancer, signal: np.ndarray) -> Steps:
    row = torch.from_numpy(signal)[None]
    if isinstance(network, SpectralEnhancer):
        return Steps(network.analyse(row), 2, 1, network.frames)
    assert isinstance(network, WaveEnhancer)
    whole_hops = torch.nn.functional.pad(row, (0, -len(signal) % network.hop))
    return Steps(whole_hops, 1, network.hop, network.hops)


def reach_of(network: Enhancer) -> int:
    """Samples that wait for the newest one: how far back a change of the input moves the output."""
    return network.hop + network.delay


def wave_errors(stream: HopEnhancer, network: Enhancer, signal: np.ndarray) -> dict[str, float]:
    """The stream, hop by hop and as late as it says, against the whole signal; by part of the signal."""
    stream = stream.fork()
    late = len(signal) + stream.delay
    hops = np.pad(signal, (0, stream.delay + -late % stream.hop)).reshape(-1, stream.hop)
    streamed = np.concatenate([stream.process(hop) for hop in hops])
    with torch.no_grad():
        whole = network(torch.from_numpy(signal)[None])[0].numpy()
    reach = reach_of(network)
    difference = np.abs(streamed[stream.delay : stream.delay + len(signal)] - whole)
    parts = {
        "first window": difference[:reach],
        "last window": difference[-reach:],
        "between": difference[reach:-reach],
    }
    return {name: float(part.max()) / max(rms(signal), 1e-12) for name, part in parts.items()}


def assert_recorded_as_configured(network: Enhancer) -> None:
    samples = 5000
    with network.recorded() as taps:
        network(torch.ones(2, samples))
    for tap, block in zip(taps, network.config.blocks, strict=True):
        assert (tap.shape[0], tap.shape[3]) == (2, block.freqs)
        assert 0 <= tap.shape[2] * block.hop - samples <= 2 * reach_of(network)


class FamilyContract(ABC):
    """A subclass names its configurations in ``config`` and counts its products in ``macs_by_hand``."""

    longest = max(SIGNALS.values())  # hops; a family with short hops needs no more of them

    @abstractmethod
    def macs_by_hand(self, config: StudentConfig) -> dict[str, int]:
        """Operator to MACs of one step."""

    def latency_by_hand(self, config: StudentConfig) -> int:
        """Samples of the algorithmic latency; an STFT waits for its whole window."""
        return config.n_fft

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls, config: StudentConfig) -> Enhancer:
        return untrained(config)

    @pytest.fixture(scope="class")
    @classmethod
    def onnx_path(cls, network: Enhancer, tmp_path_factory):
        """Once for each configuration: pytest asks anew for every signal."""
        if network.config not in _exported:
            path = tmp_path_factory.mktemp("export") / "model.onnx"
            _exported[network.config] = export_onnx(network, path).path
        return _exported[network.config]

    @pytest.fixture(scope="class", params=SIGNALS)
    @classmethod
    def signal(cls, request, network: Enhancer) -> np.ndarray:
        kind, samples = request.param, min(SIGNALS[request.param], cls.longest) * network.hop
        if kind == "silence":
            return np.zeros(samples, np.float32)
        if kind.startswith("noise"):
            heard = samples if kind == "noise" else samples // 2 + 1
            return np.pad(noise(heard, 0.1), (0, samples - heard))
        source, level = kind.split(" at ")
        return at_level(request.getfixturevalue(source)[:samples], float(level.split()[0]))

    @torch.no_grad()
    def test_steps_at_once_equal_step_by_step(self, network: Enhancer, signal):
        steps = steps_of(network, signal)
        state = network.initial_state()
        whole, after = steps.run(steps.whole, state)
        single = []
        for step in steps.each():
            out, state = network.step(step, state)
            single.append(out)
        difference = (torch.cat(single, steps.axis) - whole).abs().max()
        assert float(difference) <= TOLERANCE * rms(steps.whole.numpy())
        for name, one, other in zip(State._fields, state, after, strict=True):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-3), name

    def test_waves_hop_by_hop_equal_the_whole_signal(self, network: Enhancer, signal):
        errors = wave_errors(TorchEnhancer(network), network, signal)
        assert all(error <= TOLERANCE for error in errors.values()), errors
        if not signal.any():
            assert set(errors.values()) == {0.0}

    def test_export_equals_torch(self, network: Enhancer, onnx_path, signal):
        errors = wave_errors(OnnxEnhancer(onnx_path), network, signal)
        assert all(error <= TOLERANCE for error in errors.values()), errors
        if not signal.any():
            assert set(errors.values()) == {0.0}

    def test_export_error_of_a_true_export_is_rounding(self, network: Enhancer, onnx_path, monkeypatch):
        monkeypatch.setattr("sekd.export_check.GATED_STEPS", 0)  # test_gated_export.py takes them all
        assert export_error(network, onnx_path) < TOLERANCE

    @torch.no_grad()
    @pytest.mark.parametrize("samples", [1, 255, 256, 257, 5000])
    def test_length_is_kept(self, network: Enhancer, samples):
        assert network(torch.ones(2, samples)).shape == (2, samples)

    @torch.no_grad()
    def test_output_does_not_depend_on_what_comes_later(self, network: Enhancer, config):
        """A sample reaches back as far as the algorithmic latency and no further."""
        reach = self.latency_by_hand(config)
        assert reach == reach_of(network)
        assert network.algorithmic_latency_ms == 1000 * reach / RATE
        signal = torch.from_numpy(speech_like(1.0))[None]
        before = network(signal)
        for at in (5000, 8191, 8192):
            changed = signal.clone()
            changed[:, at:] = torch.rand(1, RATE - at, generator=torch.Generator().manual_seed(at)) - 0.5
            moved = (network(changed) - before).abs()[0]
            assert float(moved[: at - reach + 1].max()) < 1e-6 * rms(before.numpy())
            assert float(moved[at - reach + 1 : at].max()) > 1e-6 * rms(before.numpy())

    @torch.no_grad()
    def test_state_round_trips_through_files_and_other_arrays(self, network: Enhancer, tmp_path):
        steps = steps_of(network, speech_like(1.0) + noise(RATE, 0.01))
        early, late = steps.cut(20)
        whole, _ = steps.run(steps.whole, network.initial_state())
        first, state = steps.run(early, network.initial_state())
        np.savez(tmp_path / "state.npz", *state)
        with np.load(tmp_path / "state.npz") as file:
            state = State(*(torch.from_numpy(file[f"arr_{k}"]) for k in range(3)))
        assert [part.shape[1] for part in state] == list(network.state_sizes())
        second, _ = steps.run(late, state)
        atol = TOLERANCE * rms(steps.whole.numpy())
        assert torch.allclose(torch.cat([first, second], steps.axis), whole, atol=atol)

    @torch.no_grad()
    def test_signals_of_a_batch_do_not_hear_each_other(self, network: Enhancer):
        rows = torch.from_numpy(np.stack([speech_like(0.5), noise(8000, 0.3)]))
        together = network(rows)
        for row, out in zip(rows, together, strict=True):
            alone = network(row[None])[0]
            assert float((alone - out).abs().max()) < TOLERANCE * rms(row.numpy())

    def test_training_mode_computes_the_same(self, network: Enhancer):
        rows = torch.from_numpy(np.stack([speech_like(0.5), noise(8000, 0.3)]))
        with torch.no_grad():
            in_use = network.eval()(rows)
            in_training = network.train()(rows)
        network.eval()
        assert float((in_use - in_training).abs().max()) < TOLERANCE * rms(rows.numpy())

    def test_gradients_reach_every_parameter_and_stay_finite_on_silence(self, config):
        network = untrained(config).train()
        network.gating = Gating("gumbel")  # with noise, gates have a gradient
        rows = np.stack([speech_like(0.5), np.zeros(8000, np.float32)])
        network(torch.from_numpy(rows)).square().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
            assert bool(parameter.grad.any()), name

    def test_macs_equal_the_count_by_hand(self, network: Enhancer, config):
        counted = count_macs(settled(network), network.example(), network.initial_state(), method="step")
        assert counted.by_operator == self.macs_by_hand(config)
        assert cost_of(network).macs_per_s == counted.total * RATE / network.hop

    @torch.no_grad()
    def test_blocks_are_recorded_on_the_grids_of_the_configuration(self, network: Enhancer, config):
        assert_recorded_as_configured(network)

    def test_weights_and_configuration_survive_a_file(self, network: Enhancer, config, tmp_path):
        save_model(network, tmp_path / "model.safetensors")
        again = load_model(tmp_path / "model.safetensors")
        assert again.config == config
        rows = torch.from_numpy(speech_like(0.5))[None]
        with torch.no_grad():
            assert torch.equal(again(rows), network(rows))
