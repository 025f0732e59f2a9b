"""Whether an exported file computes what its network does, gates and all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor

from sekd.hops import INPUT_NAMES
from sekd.models.base import STATE_NAMES, Enhancer
from sekd.models.policy import policy_of
from sekd.onnx_gates import THRESHOLD, gates_of
from sekd.onnx_graph import replace

GATED_STEPS = 1000  # at least, while gates switch
MARGIN = 1e-3  # probabilities closer to the threshold may be taken either way: float32 is rounded

FORCED = "forced_gates"


class Agreement(NamedTuple):
    """Of one stream. ``error``: largest difference relative to the RMS of the output; ``switches``: how often a gate
    was another than at the frame before; ``misjudged``: frames at which torch clearly decided otherwise."""

    error: float
    switches: int = 0
    misjudged: int = 0


def export_error(model: Enhancer, path: Path, *, steps: int = 120, seed: int = 0, by_lot: bool = True) -> float:
    """Largest difference between ONNX and torch over a stream, relative to the RMS of the output.

    The stream is noise whose level moves over 40 dB, so that states matter. With gates there are two: one of at least
    1,000 steps in which gates are drawn by lot, and one in which the file decides; it is infinite where torch would
    clearly have decided otherwise.

    Args:
        by_lot: whether the first is run; files that differ in the threshold alone need it once.
    """
    judged = decided(model, path, steps=steps, seed=seed)
    if judged.misjudged:
        return float("inf")
    if policy_of(model) is None or not by_lot:
        return judged.error
    return max(judged.error, forced(model, path, steps=max(steps, GATED_STEPS), seed=seed).error)


def forced(model: Enhancer, path: Path, *, steps: int = GATED_STEPS, seed: int = 0) -> Agreement:
    """Both get the same gates, drawn by lot for every frame; the file is given an input for them."""
    policy = policy_of(model)
    assert policy is not None
    lots = np.random.default_rng(seed).random((steps, policy.gates)) < 0.5
    session = _session(_with_gates_as_input(path, policy.gates))
    return _compared(model, session, steps, seed, policy.gates, lambda step: lots[step])


def decided(model: Enhancer, path: Path, *, steps: int = 120, seed: int = 0) -> Agreement:
    """The file decides, and torch follows it, so that one rounded probability does not part them for good."""
    policy = policy_of(model)
    return _compared(model, _session(path.read_bytes()), steps, seed, policy.gates if policy else 0)


@torch.no_grad()
def _compared(
    model: Enhancer,
    session: Any,
    steps: int,
    seed: int,
    gates: int,
    lot: Callable[[int], np.ndarray] | None = None,
) -> Agreement:
    generator = torch.Generator().manual_seed(seed)
    levels = 10 ** (-2 * torch.sin(torch.linspace(0, 6, steps)).square())
    state = model.initial_state(1)
    states = {name: part.numpy() for name, part in zip(STATE_NAMES, state, strict=True)}
    ours, theirs, opened, misjudged = [], [], [], 0
    with _judgements(model) as judgements:
        for step, level in enumerate(levels):
            noisy = level * torch.randn(model.example().shape, generator=generator)
            fed = {INPUT_NAMES[model.contract]: noisy.numpy(), **states}
            if lot is not None:
                fed[FORCED] = lot(step).reshape(1, gates, 1)
            output, *after = session.run(None, fed)
            states = dict(zip(STATE_NAMES, after, strict=True))
            opened.append(gates_of(states, gates) > 0)
            with _held(model, opened[-1]):
                enhanced, state = model.step(noisy, state)
            if gates and lot is None:
                misjudged += _clearly_other(*judgements.pop(), opened[-1])
            ours.append(enhanced.numpy())
            theirs.append(output)
    ours_all, theirs_all = np.stack(ours), np.stack(theirs)
    scale = max(float(np.sqrt(np.mean(np.square(ours_all)))), 1e-12)
    switches = int(np.abs(np.diff(np.stack(opened).astype(int), axis=0)).sum()) if gates else 0
    return Agreement(float(np.abs(ours_all - theirs_all).max()) / scale, switches, misjudged)


def _held(model: Enhancer, gates: np.ndarray) -> Any:
    if not len(gates):
        return nullcontext()
    return model.held(bool(gates[0]) if len(gates) == 1 else [bool(gate) for gate in gates])


@contextmanager
def _judgements(model: Enhancer) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects probabilities (gate,) of an open gate and their threshold, whatever gates are held."""
    seen: list[tuple[Tensor, Tensor]] = []
    policy = policy_of(model)
    if policy is None:
        yield seen
        return

    def look(module: torch.nn.Module, inputs: Any, outputs: tuple[Tensor, ...]) -> None:
        logits = outputs[0][0, :, -1]
        seen.append((torch.sigmoid(logits[:, 0] - logits[:, 1]), policy.threshold))

    hook = policy.register_forward_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


def _clearly_other(probability: Tensor, threshold: Tensor, opened: np.ndarray) -> bool:
    other = (probability >= threshold).numpy() != opened
    return bool((other & ((probability - threshold).abs() > MARGIN).numpy()).any())


def _with_gates_as_input(path: Path, gates: int) -> bytes:
    """The file with a further input in the place of what compares with the threshold."""
    model = onnx.load(path)
    graph = model.graph
    place = next(place for place, node in enumerate(graph.node) if THRESHOLD in node.input)
    (name,) = graph.node[place].output
    replace(graph, place, [onnx.helper.make_node("Identity", [FORCED], [name])])
    graph.input.append(onnx.helper.make_tensor_value_info(FORCED, onnx.TensorProto.BOOL, [1, gates, 1]))
    return model.SerializeToString()


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # it would tell of a threshold that nobody reads
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
