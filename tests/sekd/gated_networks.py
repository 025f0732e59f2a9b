"""What every network with gates must hold beside the contract of its family."""

from __future__ import annotations

import numpy as np
import torch
from family_contract import untrained

from search.cost import count_macs
from sekd.models import NetworkConfig, SpectralEnhancer, build
from sekd.models.gates import GateConfig


def policy_macs(gate: GateConfig, freqs: int, gates: int) -> dict[str, int]:
    """Averages, a fully connected layer, a GRU and two logits for each gate."""
    averages = freqs // (freqs // gate.bands)
    return {
        "linear": averages * gate.width + 2 * gates * gate.hidden,
        "gru": 3 * gate.hidden * (gate.width + gate.hidden),
    }


def total_macs(config: NetworkConfig) -> int:
    network = build(config)
    return count_macs(network, network.example(), network.initial_state(), method="step").total


def assert_policy_is_cheap(config: NetworkConfig) -> None:
    """With as many gates as it may have, against the network without any, which makes the same products otherwise."""
    plain = total_macs(config)
    gated = total_macs(config.model_copy(update={"gate": GateConfig(scope="module")}))
    assert 0 < gated - plain < 0.01 * plain


@torch.no_grad()
def open_half_the_time(network: SpectralEnhancer, spectrum: torch.Tensor) -> None:
    """Moves what each gate adds to its logits, so that it is open at half of the frames: as weights are drawn, it may
    be open at all of them, or at none."""
    logits = []
    hook = network.policy.register_forward_hook(lambda module, inputs, out: logits.append(out[0]))
    network.frames(spectrum, network.initial_state())
    hook.remove()
    apart = (logits[0][..., 0] - logits[0][..., 1])[0].median(-1).values
    network.policy.head.bias.view(-1, 2)[:, 0].sub_(apart)


@torch.no_grad()
def assert_gates_switch(config: NetworkConfig, signal: np.ndarray) -> None:
    """Frame by frame, in the form that the gates of the frame choose, as an exported file runs: equal to all at once
    under masks. Gates held open or shut: equal to masks of ones and zeros."""
    network = untrained(config)
    assert isinstance(network, SpectralEnhancer)
    spectrum = network.analyse(torch.from_numpy(signal[:16000])[None])
    tolerance = 1e-4 * float(spectrum.square().mean().sqrt())
    open_half_the_time(network, spectrum)
    with network.watched() as watched:
        whole, _ = network.frames(spectrum, network.initial_state())
    gates = watched[0][0]  # (gate, frame)
    shares = gates.mean(1)
    assert 0.2 < float(shares.min()) <= float(shares.max()) < 0.8
    state, parts = network.initial_state(), []
    for frame, now in zip(spectrum.split(1, 2), gates.T, strict=True):
        own = [bool(gate) for gate in now]
        with network.held(own[0] if len(own) == 1 else own):
            out, state = network.step(frame, state)
        parts.append(out)
    assert float((torch.cat(parts, 2) - whole).abs().max()) < tolerance
    for is_open, threshold in ((True, 0.0), (False, 2.0)):  # of a probability
        network.policy.threshold.fill_(threshold)
        masked, masked_state = network.frames(spectrum, network.initial_state())
        with network.held(is_open):
            held, held_state = network.frames(spectrum, network.initial_state())
        assert float((held - masked).abs().max()) < tolerance
        assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(held_state, masked_state, strict=True))
        assert bool((held_state.tra_cache[:, -len(gates) :] == is_open).all())
