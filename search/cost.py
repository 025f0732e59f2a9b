"""What is known of a student without training or running it: MACs, parameters, bytes, algorithmic latency."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from search.graphs.graph import GraphFacts
from search.record import Cost
from sekd.config import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sekd.models.base import Enhancer

__all__ = ["Cost", "MacCount", "UncountedOperator", "cost_of", "count_macs", "with_graph", "with_loads"]


class MacCount(Frozen):
    """Multiply-accumulates of one call, never FLOPs (one MAC is two of them).

    ``uncounted`` names the operators that no rule covers with how often they occurred: where it is not
    empty, ``total`` is only a lower bound.
    """

    total: int
    by_operator: dict[str, int]
    uncounted: dict[str, int]


class UncountedOperator(Exception):
    """The module runs operators that no rule counts and that are not known to be free."""

    def __init__(self, operators: dict[str, int]) -> None:
        self.operators = operators
        named = ", ".join(f"{name} ({times}x)" for name, times in sorted(operators.items()))
        super().__init__(f"no MAC rule for {named}: add one to search/mac_rules.py, or list it there as free")


def count_macs(module: nn.Module, *inputs: Any, strict: bool = True, method: str = "forward") -> MacCount:
    """MACs of ``module.method(*inputs)`` as it runs when deployed; rules in :mod:`search.mac_rules`.

    A copy is traced in eval mode without gradients, hence the count does not depend on the caller's mode
    and the module, its buffers and the random state stay as they were.

    Args:
        inputs: tensors, or tuples, lists and dictionaries of tensors; shapes decide the count.
        method: another method than ``forward``, such as a streaming ``step``.

    Raises:
        UncountedOperator: ``strict`` and an operator is neither counted nor free.
    """
    from search.mac_rules import COUNTED, FREE

    analysis_type = _fvcore_analysis()
    with _undisturbed(module):
        call, tensors = _flat_call(module, inputs, method)
        analysis = analysis_type(call, tensors)
        analysis.set_op_handle(**{name: _as_counter(rule) for name, rule in COUNTED.items()})
        analysis.set_op_handle(**dict.fromkeys(FREE))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counts = {name: int(macs) for name, macs in sorted(analysis.by_operator().items()) if macs}
        uncounted = {name: int(times) for name, times in sorted(analysis.unsupported_ops().items())}
    if uncounted and strict:
        raise UncountedOperator(uncounted)
    return MacCount(total=sum(counts.values()), by_operator=counts, uncounted=uncounted)


def cost_of(student: Enhancer) -> Cost:
    """Cost of ``student`` streaming one frame per hop: the network alone, as the exported ONNX holds it.

    The STFT before it and the inverse after it are not counted, as in publications. Of a network with gates it is the
    worst frame, all open; how often they are is not known of an untrained one.

    Raises:
        UncountedOperator: the student runs an operator without a MAC rule.
    """
    from sekd.models.base import SAMPLE_RATE
    from sekd.models.settled import settled

    student = settled(student)

    def macs_per_s(gates: bool | list[bool]) -> float:
        with student.held(gates):
            macs = count_macs(student, student.example(), student.initial_state(), method="step").total
        return macs * SAMPLE_RATE / student.hop

    return Cost(
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        macs_per_s=macs_per_s(True),
        **_of_gates(student, macs_per_s),
        weight_bytes=student.weight_bytes(),
        state_bytes=student.state_bytes(),
        algorithmic_latency_ms=student.algorithmic_latency_ms,
        segment_ms=student.segment_ms,
    )


def _of_gates(student: Enhancer, macs_per_s: Callable[[bool | list[bool]], float]) -> dict[str, Any]:
    """What the gates of a network are worth, nothing of one that has none."""
    gate = student.config.gate
    if gate is None:
        return {}
    most, least = macs_per_s(True), macs_per_s(False)
    if gate.scope == "frame":
        return {"macs_shut_per_s": least, "gate_macs_per_s": (most - least,)}
    gates = range(student.get_submodule("policy").gates)  # type: ignore[arg-type]
    each = tuple(most - macs_per_s([other != one for other in gates]) for one in gates)
    return {"macs_shut_per_s": least, "gate_macs_per_s": each}


def with_loads(cost: Cost, loads: Sequence[float], *, threshold: float, mix: str) -> Cost:
    """``cost`` of a network whose gates, in order, are open in ``loads`` of the frames of ``mix``."""
    assert cost.gate_macs_per_s is not None
    saved = sum((1 - load) * macs for load, macs in zip(loads, cost.gate_macs_per_s, strict=True))
    return cost.model_copy(
        update={
            "gate_threshold": threshold,
            "load": sum(loads) / len(loads),
            "loads": tuple(loads),
            "load_mix": mix,
            "expected_macs_per_s": cost.macs_per_s - saved,
        }
    )


def with_graph(cost: Cost, graph: GraphFacts) -> Cost:
    """``cost`` with what the exported graph tells besides."""
    return cost.model_copy(
        update={
            "graph_nodes": graph.nodes,
            "activation_bytes": graph.activation_bytes,
            "mac_coverage": graph.coverage,
        }
    )


def _fvcore_analysis() -> type[Any]:
    """fvcore's trace analysis; imported late (it brings torch) and without its deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn.jit_analysis import JitModelAnalysis

    class Analysis(JitModelAnalysis):
        def _should_ignore_node(self, node: Any) -> bool:
            # fvcore skips every prim:: operator, hence also loops and branches of scripted code with all
            # the work inside them.
            return not list(node.blocks()) and super()._should_ignore_node(node)

    return Analysis


def _as_counter(rule: Any) -> Any:
    return lambda inputs, outputs: Counter(rule(inputs, outputs))


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Trace settings inside, and the caller's random state, fast-path switch and log level afterwards."""
    import torch

    devices = sorted({p.device.index or 0 for p in module.parameters() if p.is_cuda})
    fast_path = torch.backends.mha.get_fastpath_enabled()
    logger = logging.getLogger("fvcore")
    level = logger.level
    logger.setLevel(logging.ERROR)
    # Unfused attention is counted by its parts, the same whether or not a layer qualifies for fusion.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        logger.setLevel(level)


def _flat_call(module: nn.Module, inputs: tuple[Any, ...], method: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A module from tensors to tensors, which is all that tracing takes, around a copy of ``module``."""
    import torch
    from torch.utils import _pytree as tree

    leaves, structure = tree.tree_flatten(inputs)
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    class Call(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = _copy_of(module)

        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            filled = list(leaves)
            for position, tensor in zip(where, tensors, strict=True):
                filled[position] = tensor
            results = getattr(self.module, method)(*tree.tree_unflatten(filled, structure))
            return tuple(leaf for leaf in tree.tree_leaves(results) if isinstance(leaf, torch.Tensor))

    return Call().eval(), tuple(leaves[i].detach().clone() for i in where)


def _copy_of(module: nn.Module) -> nn.Module:
    """A deep copy that also takes tensors computed from parameters (weight_norm keeps one), detached."""
    import torch

    computed = (
        value
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    )
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in computed}
    return copy.deepcopy(module, memo)
