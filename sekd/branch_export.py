"""Networks with gates as ONNX: work that has two forms becomes an ``If``, of which a runtime runs one branch.

A tracer sees one form only. So the network runs once to learn what has two (``sekd.models.branches``), is traced with a
node that stands in for each, and each form is traced alone. Branches hold no weights: both read those of the main
graph, where also stands what they make of weights alone (slices, most of all), which runs when the file is loaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import GraphProto, ModelProto, helper, numpy_helper
from torch import Tensor, nn

from sekd.models.branches import Collector, Run, collecting
from sekd.onnx_gates import THRESHOLD
from sekd.onnx_graph import identity, rename, replace
from sekd.onnx_trace import traced
from sekd.shared_weights import Shared

STAND_INS = "sekd"  # the domain of nodes that no file holds

Shapes = tuple[tuple[int, ...], ...]


class Call(NamedTuple):
    """Work of two forms, as it was called for."""

    run: Run
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def traced_with_branches(
    step: nn.Module, examples: tuple[Tensor, ...], inputs: list[str], outputs: list[str]
) -> ModelProto:
    """As ``traced``; each call of ``branched`` is an ``If``."""
    calls: list[Call] = []
    with _collected_by(_Listener(calls)), torch.no_grad():
        step(*examples)
    with _collected_by(_StandIns(calls)):
        model = traced(step, examples, inputs, outputs, domain=STAND_INS)
    shared = Shared(model.graph, apart=(THRESHOLD,))
    for index, call in enumerate(calls):
        forms = [_form(step, call, gate, f"branch_{index}_{name}/") for gate, name in ((True, "open"), (False, "shut"))]
        _put(model.graph, index, forms, shared)
    shared.write()
    opset = [entry for entry in model.opset_import if entry.domain != STAND_INS]
    del model.opset_import[:]
    model.opset_import.extend(opset)
    return model


@contextmanager
def _collected_by(collector: Collector) -> Iterator[None]:
    token = collecting.set(collector)
    try:
        yield
    finally:
        collecting.reset(token)


class _Listener:
    """Runs what it is asked for and writes it down."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls

    def __call__(self, run: Run, gate: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        opened, shut = run(True, *inputs), run(False, *inputs)
        if [(out.shape, out.dtype) for out in opened] != [(out.shape, out.dtype) for out in shut]:
            raise AssertionError("both forms of a branch must give tensors of the same shapes")
        self.calls.append(Call(run, inputs, opened))
        return opened


class _StandIns:
    """For every call, in the order in which they were written down, one node."""

    def __init__(self, calls: list[Call]) -> None:
        self.turns = itertools.cycle(enumerate(calls))

    def __call__(self, run: Run, gate: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        index, call = next(self.turns)
        return _StandIn.apply(index, tuple(tuple(out.shape) for out in call.outputs), gate, *inputs)


class _StandIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, index: int, shapes: Shapes, gate: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(shape) for shape in shapes)

    @staticmethod
    def symbolic(graph: Any, index: int, shapes: Shapes, gate: Any, *inputs: Any) -> Any:
        made = graph.op(f"{STAND_INS}::Branches", gate, *inputs, index_i=index, outputs=len(shapes))
        for value, shape in zip([made] if len(shapes) == 1 else made, shapes, strict=True):
            value.setType(gate.type().with_sizes(list(shape)))  # or sizes would be computed for every frame
        return made


class _Form(nn.Module):
    """One form of a call; it holds the network, whose weights keep their names."""

    def __init__(self, step: nn.Module, run: Run, gate: bool) -> None:
        super().__init__()
        self.step, self.run, self.gate = step, run, gate

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.run(self.gate, *inputs)


def _form(step: nn.Module, call: Call, gate: bool, prefix: str) -> GraphProto:
    """A graph whose names all begin with ``prefix``, but for inputs ``in_0``, ``in_1``, ..."""
    inputs = [f"in_{place}" for place in range(len(call.inputs))]
    outputs = [f"out_{place}" for place in range(len(call.outputs))]
    graph = traced(_Form(step, call.run, gate), call.inputs, inputs, outputs, fold=False).graph
    made = [weight.name for weight in graph.initializer] + [name for node in graph.node for name in node.output if name]
    rename(graph, {name: f"{prefix}{place}" for place, name in enumerate(made)})
    graph.name = prefix.rstrip("/")
    for node in graph.node:
        node.name = prefix + node.name.lstrip("/")
    return graph


def _put(graph: GraphProto, index: int, forms: list[GraphProto], shared: Shared) -> None:
    """An ``If`` where the ``index``-th stand-in is."""
    found = ((place, node) for place, node in enumerate(graph.node) if node.domain == STAND_INS)
    place, stand_in = next((place, node) for place, node in found if node.attribute[0].i == index)
    gate, *inputs = stand_in.input
    for form in forms:
        _capture(form, inputs, shared)
    half = numpy_helper.from_array(np.array(0.5, np.float32), "gate_open")
    condition = f"branch_{index}_open"
    asked = helper.make_node("GreaterOrEqual", [gate, shared.weight(half)], [condition], name=condition)
    made = helper.make_node(
        "If", [condition], stand_in.output, f"branch_{index}", then_branch=forms[0], else_branch=forms[1]
    )
    replace(graph, place, [asked, made])


def _capture(form: GraphProto, inputs: list[str], shared: Shared) -> None:
    """Makes of a graph a branch, that reads ``inputs`` and all weights from around it."""
    moved = shared.take(form)
    rename(form, {**moved, **{f"in_{place}": name for place, name in enumerate(inputs)}})
    del form.input[:], form.value_info[:]
    made = {name for node in form.node for name in node.output}
    for place, output in enumerate(form.output):
        if output.name in made:
            made.remove(output.name)
        else:  # a branch must give what is its own, and nothing twice
            own = f"{form.name}/copy_{place}"
            form.node.append(identity(output.name, own))
            output.name = own
