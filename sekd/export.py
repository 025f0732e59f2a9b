"""A student as a streaming ONNX for onnxruntime and, where it takes STFT frames, sherpa-onnx (DESIGN section 7)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from torch import Tensor, nn

from sekd.branch_export import traced_with_branches
from sekd.export_check import export_error
from sekd.hops import INPUT_NAMES
from sekd.models.base import SAMPLE_RATE, STATE_NAMES, Contract, Enhancer, State, require_causal
from sekd.models.policy import policy_of
from sekd.models.settled import settled
from sekd.onnx_file import save_onnx
from sekd.onnx_gates import GATE_STATE, THRESHOLD
from sekd.onnx_graph import branches, constants_of, running, stored
from sekd.onnx_trace import traced

__all__ = ["Export", "describe", "export_error", "export_onnx"]

FORMAT_VERSION = 1


class Export(NamedTuple):
    """What a device meets: operator types and how many nodes, which cost time whatever their MACs."""

    path: Path
    nodes: int
    operators: tuple[str, ...]
    weight_bytes: int
    branches: tuple[tuple[int, int], ...] = ()  # nodes of each ``If`` with its gate open and shut; dearest in ``nodes``


class _Step(nn.Module):
    """One step with its states as separate inputs and outputs."""

    def __init__(self, model: Enhancer) -> None:
        super().__init__()
        self.model = model
        policy = policy_of(model)
        if policy is not None:  # makes it an initializer of this name; as it is, it would be a constant
            self.register_buffer(THRESHOLD, policy.threshold)

    def forward(self, noisy: Tensor, conv_cache: Tensor, tra_cache: Tensor, inter_cache: Tensor):
        enhanced, state = self.model.step(noisy, State(conv_cache, tra_cache, inter_cache))
        return enhanced, *state


def export_onnx(model: Enhancer, path: Path, *, notes: dict[str, str] | None = None) -> Export:
    """Writes ``path``, whole or not at all; ``notes`` join the metadata.

    Raises:
        InputError: the network cannot stream.
    """
    require_causal(model.config)
    model = model.eval()
    state = model.initial_state(1)
    graph = _graph(model, state)
    onnx.helper.set_model_props(graph, {**_metadata(model, state), **(notes or {})})
    onnx.checker.check_model(graph)
    save_onnx(graph, path)
    return describe(path)


def _graph(model: Enhancer, state: State) -> onnx.ModelProto:
    inputs = [INPUT_NAMES[model.contract], *STATE_NAMES]
    outputs = ["enh", *(f"{name}_out" for name in STATE_NAMES)]
    step = _Step(settled(model)).eval()
    trace = traced if policy_of(model) is None else traced_with_branches
    return trace(step, (model.example(), *state), inputs, outputs)


def _metadata(model: Enhancer, state: State) -> dict[str, str]:
    shapes = {f"{name}_shape": ",".join(map(str, part.shape)) for name, part in zip(STATE_NAMES, state, strict=True)}
    return {
        "sample_rate": str(SAMPLE_RATE),
        "hop_length": str(model.hop),
        "version": str(FORMAT_VERSION),
        **_OWN_METADATA[model.contract](model),
        **_gate_metadata(model),
        **shapes,
    }


def _spectrum_metadata(model: Any) -> dict[str, str]:
    """The keys that sherpa-onnx reads; it knows the contract by the name of the first network that had it.

    Its streams (2.0.1) run over the end of their buffers where the window is shorter than ``n_fft``, and its files
    come out distorted: such a file takes another name, and it is refused.
    """
    lengths = {"n_fft": str(model.n_fft), "window_length": str(model.window_length)}
    known = "gtcrn" if model.window_length == model.n_fft else "sekd"
    return {"model_type": known, "window_type": "hann_sqrt", **lengths}


def _wave_metadata(model: Any) -> dict[str, str]:
    return {"contract": "wave", "delay": str(model.delay)}


def _gate_metadata(model: Enhancer) -> dict[str, str]:
    """How many gates there are, what each rules, and the state whose last values are those of the newest frame."""
    gate, policy = model.config.gate, policy_of(model)
    if gate is None or policy is None:
        return {}
    return {"gates": str(policy.gates), "gate_scope": gate.scope, "gate_state": GATE_STATE}


_OWN_METADATA: dict[Contract, Callable[[Any], dict[str, str]]] = {
    "spectrum": _spectrum_metadata,
    "wave": _wave_metadata,
}


def describe(path: Path) -> Export:
    """Counts of an ONNX file."""
    graph = onnx.load(path).graph
    choices = [node for node in graph.node if node.op_type == "If"]
    known = constants_of(graph)
    forms = [[running(branch, known) for branch in branches(node)] for node in choices]
    outer = running(graph) if choices else list(graph.node)
    operators = {node.op_type for nodes in (outer, *itertools.chain(*forms)) for node in nodes}
    pairs = tuple((len(opened), len(shut)) for opened, shut in forms)
    return Export(
        path,
        len(outer) + sum(map(max, pairs)),
        tuple(sorted(operators)),
        sum(onnx.numpy_helper.to_array(weight).nbytes for weight in stored(graph)),
        pairs,
    )
