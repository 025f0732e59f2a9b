"""Exported networks with gates: their threshold, either of their forms alone, and how often their gates open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from sekd.errors import InputError
from sekd.onnx_file import read_onnx, save_onnx
from sekd.onnx_graph import branches, rename, replace
from sekd.streaming import OnnxEnhancer

THRESHOLD = "gate_threshold"  # the initializer
GATE_STATE = "tra_cache"  # its last values are the gates of the newest frame
ALWAYS_OPEN, ALWAYS_SHUT = 0.0, 2.0  # thresholds that a probability never, or always, stays below


def threshold_of(path: Path) -> float | None:
    """Probability from which a gate opens; None of a file without gates.

    Raises:
        InputError: no such file, or no ONNX file.
    """
    weight = _threshold(_read(path).graph)
    return None if weight is None else float(numpy_helper.to_array(weight))


def with_threshold(source: Path, target: Path, threshold: float) -> None:
    """Writes ``target``, whole or not at all: ``source`` with another threshold.

    Args:
        threshold: 0 to 1, or ``ALWAYS_SHUT``.

    Raises:
        InputError: no such file, no ONNX file, or one without gates.
    """
    model = _read(source)
    weight = _threshold(model.graph)
    if weight is None:
        raise _without_gates(source)
    weight.CopyFrom(numpy_helper.from_array(np.array(threshold, np.float32), THRESHOLD))
    save_onnx(model, target)


def one_branch(source: Path, target: Path, open: bool) -> None:
    """Writes ``target``, whole or not at all: ``source`` with all gates open, or shut, and without a choice. It still
    decides, as ``source`` does, so that it costs what one of its frames costs.

    Raises:
        InputError: no such file, no ONNX file, or one without gates.
    """
    model = _read(source)
    graph = model.graph
    if _threshold(graph) is None:
        raise _without_gates(source)
    for place in reversed(range(len(graph.node))):
        if graph.node[place].op_type == "If":
            _inline(graph, place, open)
    save_onnx(model, target)


def measured_load(path: Path, signals: Iterable[np.ndarray]) -> list[list[float]]:
    """For each signal of 16 kHz (sample,) the share of its frames at which each gate was open.

    Raises:
        InputError: no such file, no streaming enhancer, or one without gates.
    """
    enhancer = OnnxEnhancer(path)
    gates = int(enhancer.metadata.get("gates", 0))
    if not gates:
        raise _without_gates(path)
    return [_load(enhancer, signal, gates) for signal in signals]


def gates_of(states: Mapping[str, np.ndarray], gates: int) -> np.ndarray:
    """What was decided at the newest frame, zeros and ones (gate,)."""
    values = states[GATE_STATE][0]
    return values[len(values) - gates :]


def _load(enhancer: OnnxEnhancer, signal: np.ndarray, gates: int) -> list[float]:
    enhancer.reset()
    padded = np.pad(signal.astype(np.float32), (0, -len(signal) % enhancer.hop))
    opened = []
    for hop in padded.reshape(-1, enhancer.hop):
        enhancer.process(hop)
        opened.append(gates_of(enhancer.states, gates))
    return [float(share) for share in np.mean(opened, axis=0)] if opened else [0.0] * gates


def _read(path: Path) -> ModelProto:
    return ModelProto.FromString(read_onnx(path))


def _threshold(graph: GraphProto) -> TensorProto | None:
    return next((weight for weight in graph.initializer if weight.name == THRESHOLD), None)


def _without_gates(path: Path) -> InputError:
    return InputError(f"{path}: a network without gates")


def _inline(graph: GraphProto, place: int, open: bool) -> None:
    """Puts one branch of the ``If`` at ``place`` where it was, and takes away the question."""
    choice: NodeProto = graph.node[place]
    branch = GraphProto.FromString(branches(choice)[0 if open else 1].SerializeToString())
    rename(branch, {own.name: name for own, name in zip(branch.output, choice.output, strict=True)})
    graph.initializer.extend(branch.initializer)
    asked = choice.input[0]
    replace(graph, place, list(branch.node))
    replace(graph, next(k for k, node in enumerate(graph.node) if asked in node.output), [])
