"""Facts of an exported graph, read from its file: operators, MACs, weights, activations, identity."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from search.graphs.rules import COUNTED, FREE, attribute, name_of
from search.graphs.shapes import TensorType, types_of, with_shapes
from sekd.config import Frozen
from sekd.errors import InputError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


class GraphFacts(Frozen):
    """Of one call of a graph, that is of one frame.

    ``nodes`` are those that run: what depends on weights alone is computed once, when the file is loaded.
    ``macs`` is a lower bound where ``uncounted`` names anything; ``coverage`` is the share of nodes that a rule counts
    or that are known to be free. Of an ``If`` the branch with most MACs counts: the worst case.
    """

    nodes: int
    operators: dict[str, int]
    macs: int
    macs_by_operator: dict[str, int]
    coverage: float
    uncounted: dict[str, int]
    weight_bytes: int
    activation_bytes: int | None  # see search.graphs.arena; None where a shape is not static
    hop_ms: float | None
    graph_hash: str  # see search.graphs.identity


class NodeFacts(NamedTuple):
    """Of one node that runs; ``macs`` is None where no rule counts it, ``elements`` are the values it gives."""

    operator: str
    macs: int | None
    elements: int
    weight_bytes: int  # of the constants that it reads


class Graph:
    """A graph, or a branch of one, with its constants told apart from what runs."""

    def __init__(self, proto: GraphProto, parent: Graph | None = None) -> None:
        self.types: dict[str, TensorType] = (parent.types if parent else {}) | types_of(proto)
        self.weights: dict[str, TensorProto] = (parent.weights if parent else {}) | _weights(proto)
        self.constants: set[str] = (parent.constants if parent else set()) | self.weights.keys()
        self.folded: dict[str, NodeProto] = dict(parent.folded) if parent else {}  # by what they give
        self.described: dict[str, Any] = {}  # what graph_hash said of each of them
        self.nodes: list[NodeProto] = []
        for node in proto.node:
            if node.op_type == "Constant" or _folds(node, self.constants):
                self.constants.update(node.output)
                self.folded |= dict.fromkeys(node.output, node)
                self.types |= {weight.name: _type(weight) for weight in _weights_of_node(node)}
            else:
                self.nodes.append(node)
        self.inputs = [each.name for each in proto.input if each.name not in self.weights]
        self.outputs = [each.name for each in proto.output]

    def branches(self, node: NodeProto) -> list[Graph]:
        """Of an ``If``."""
        return [Graph(found.g, self) for found in node.attribute if found.HasField("g")]

    @cached_property
    def node_facts(self) -> list[NodeFacts]:
        """Of all nodes that run, in their order, the dearest branch of each ``If`` after it."""
        found: list[NodeFacts] = []
        for node in self.nodes:
            found.append(self._facts(node))
            if node.op_type == "If":
                dearest: list[NodeFacts] = max((branch.node_facts for branch in self.branches(node)), key=_dearness)
                found += dearest
        return found

    def _facts(self, node: NodeProto) -> NodeFacts:
        read = [self.types[name] for name in node.input if name in self.constants and name in self.types]
        given = [self.types[name].elements for name in node.output if name in self.types]
        return NodeFacts(name_of(node), self._macs(node), sum(given), sum(kind.stored_bytes for kind in read))

    def _macs(self, node: NodeProto) -> int | None:
        name = name_of(node)
        if name in FREE:
            return 0
        try:
            return COUNTED[name](node, lambda tensor: list(self.types[tensor].shape))
        except (KeyError, IndexError):  # no rule, or a shape that is not static
            return None


def _type(weight: TensorProto) -> TensorType:
    return TensorType(weight.data_type, tuple(weight.dims))


def _weights(proto: GraphProto) -> dict[str, TensorProto]:
    """Initialisers and values of Constant nodes, by the name that others read them under."""
    from onnx import TensorProto

    found = {weight.name: weight for weight in proto.initializer}
    for node in proto.node:
        for weight in _weights_of_node(node):
            named = TensorProto()
            named.CopyFrom(weight)
            named.name = node.output[0]
            found[named.name] = named
    return found


def _weights_of_node(node: NodeProto) -> list[TensorProto]:
    value = attribute(node, "value", None) if node.op_type == "Constant" else None
    return [] if value is None else [value]


def _folds(node: NodeProto, constants: set[str]) -> bool:
    """Whether ``node`` depends on constants alone, and so runs when the file is loaded and never again."""
    if node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial"):
        return False
    if any(found.HasField("g") for found in node.attribute):
        return False
    return all(name in constants for name in node.input if name)


def _dearness(facts: list[NodeFacts]) -> tuple[int, int]:
    return total_macs(facts), len(facts)


def total_macs(facts: list[NodeFacts]) -> int:
    return sum(each.macs or 0 for each in facts)


def load_graph(path: Path) -> ModelProto:
    """The model at ``path`` with the types of its tensors; weights in other files are not read.

    Raises:
        InputError: no such file, or no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise InputError(f"{path}: not a whole ONNX file") from error
    if not model.HasField("graph") or not model.opset_import:
        raise InputError(f"{path}: not an ONNX file")
    return with_shapes(model)


def graph_facts(path: Path) -> GraphFacts:
    """What the file at ``path`` costs, without running it.

    Raises:
        InputError: no such file, or no ONNX file.
    """
    from search.graphs.arena import peak_bytes
    from search.graphs.identity import graph_hash

    model = load_graph(path)
    graph = Graph(model.graph)
    nodes = graph.node_facts
    operators = Counter(node.operator for node in nodes)
    uncounted = Counter(node.operator for node in nodes if node.macs is None)
    macs: Counter[str] = Counter()
    for node in nodes:
        if node.macs:
            macs[node.operator] += node.macs
    return GraphFacts(
        nodes=len(nodes),
        operators=dict(sorted(operators.items())),
        macs=total_macs(nodes),
        macs_by_operator=dict(sorted(macs.items())),
        coverage=1 - uncounted.total() / len(nodes) if nodes else 1.0,
        uncounted=dict(sorted(uncounted.items())),
        weight_bytes=_weight_bytes(model.graph),
        activation_bytes=peak_bytes(graph),
        hop_ms=graph_hop_ms(model),
        graph_hash=graph_hash(model, graph),
    )


def _weight_bytes(proto: GraphProto) -> int:
    """Of all weights that the file holds, branches included: whichever runs, they are stored."""
    own = sum(_type(weight).stored_bytes for weight in _weights(proto).values())
    inner = [found.g for node in proto.node for found in node.attribute if found.HasField("g")]
    return own + sum(_weight_bytes(branch) for branch in inner)


def graph_hop_ms(model: ModelProto) -> float | None:
    """Time between frames that the metadata say."""
    said = {entry.key: entry.value for entry in model.metadata_props}
    try:
        return 1000 * int(said["hop_length"]) / int(said["sample_rate"])
    except (KeyError, ValueError, ZeroDivisionError):
        return None
