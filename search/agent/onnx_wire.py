"""Looks into the bytes of an ONNX file before anything else reads them, and says why one is not run.

A walk over the protobuf wire format with field numbers from onnx.proto3: a target has no onnx package. It is
strict where protobuf is lenient, because what it lets through is parsed again, by onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .errors import Refused

MAX_DEPTH = 64  # messages within messages; a subgraph is three of them
MAX_FIELDS = 250_000  # a second of walking; weights lie in few, long fields
STANDARD = (b"", b"ai.onnx")
MICROSOFT = b"com.microsoft"
# What onnxruntime's own quantiser writes. The domain also holds operators that open files (EPContext).
QUANTISED = frozenset(
    (b"DynamicQuantizeLSTM", b"DynamicQuantizeMatMul", b"MatMulIntegerToFloat", b"MatMulNBits", b"QGemm")
    + (b"QLinearAdd", b"QLinearMul", b"QLinearSigmoid", b"QLinearConcat", b"QLinearLeakyRelu", b"QLinearConv")
    + (b"DequantizeLinear", b"QuantizeLinear")
)
RESERVED = (b"ai.onnx", b"com.microsoft", b"com.ms", b"org.pytorch")  # no function may pass for a built-in operator
# message: {field: message in it}; every other field is passed over.
PARTS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 11: "input", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "subgraph", 10: "tensor", 11: "subgraph", 22: "sparse tensor", 23: "sparse tensor"},
    "subgraph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
    "input": {2: "type"},
    "type": {1: "tensor type"},
    "tensor type": {2: "shape"},
    "shape": {1: "dimension"},
    "dimension": {},
}
NAME, DOMAIN = {"node": 4, "function": 1}, {"node": 7, "function": 10}
NEEDED = {"input": "type", "type": "tensor type", "tensor type": "shape"}  # without these an input has no shape
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field: ``value`` of a varint, else the bytes from ``start`` to ``end``."""

    number: int
    wire: int
    value: int
    start: int
    end: int


class Message(NamedTuple):
    kind: str
    start: int
    end: int
    depth: int


def check_model(data: bytes) -> None:
    """Raises Refused unless all that the model says it does is within itself and standard."""
    if data[4:8] == b"ORTM":
        raise Refused("the model is in the format of onnxruntime, not ONNX")
    whole = Message("model", 0, len(data), 0)
    walk = _Walk(data)
    own = {walk.check_function(message) for message in walk.within(whole) if message.kind == "function"}
    if not any(message.kind == "graph" for message in walk.within(whole)):
        raise Refused("not an ONNX model: no graph in it")
    waiting = [whole]
    while waiting:
        message = waiting.pop()
        parts = list(walk.within(message))
        walk.check(message, {part.kind for part in parts}, own)
        waiting.extend(parts)


class _Walk:
    """Over one file, with a bound on all that is looked at."""

    def __init__(self, data: bytes) -> None:
        self._data, self._left = data, 4 * MAX_FIELDS  # each field is looked at up to four times

    def within(self, message: Message) -> Iterator[Message]:
        """The messages in ``message`` that matter."""
        parts = PARTS[message.kind]
        if message.depth >= MAX_DEPTH:
            raise Refused(f"the model is nested more than {MAX_DEPTH} deep")
        for field in self._fields(message):
            if field.wire == BYTES and field.number in parts:
                yield Message(parts[field.number], field.start, field.end, message.depth + 1)

    def check(self, message: Message, parts: set[str], own: set[tuple[bytes, bytes]]) -> None:
        if message.kind == "node":
            self._check_node(message, own)
        elif message.kind == "tensor":
            self._check_tensor(message)
        elif message.kind == "dimension":
            self._check_dimension(message)
        elif message.kind == "model" and any(field.number == 20 for field in self._fields(message)):
            raise Refused("the model brings graphs for training")
        elif message.kind in NEEDED and NEEDED[message.kind] not in parts:
            raise Refused("an input of the model has no shape, or is no tensor")

    def check_function(self, message: Message) -> tuple[bytes, bytes]:
        """Domain and name of a function of the model's own; it may not pass for an operator of the runtime."""
        names, domains = self._texts(message, NAME["function"]), self._texts(message, DOMAIN["function"])
        if len(names) != 1 or len(domains) != 1 or domains[0].startswith(RESERVED) or not domains[0]:
            raise Refused("the model defines a function without a name or domain of its own")
        return domains[0], names[0]

    def _check_node(self, message: Message, own: set[tuple[bytes, bytes]]) -> None:
        operators, domains = self._texts(message, NAME["node"]), self._texts(message, DOMAIN["node"]) or [b""]
        if len(operators) != 1 or len(domains) != 1:
            raise Refused("a node of the model has no operator, or two")
        domain, operator = domains[0], operators[0]
        if domain in STANDARD or (domain, operator) in own or (domain == MICROSOFT and operator in QUANTISED):
            return
        raise Refused(f"operator {_shown(operator)} of the domain {_shown(domain)} is not standard ONNX")

    def _check_tensor(self, message: Message) -> None:
        for field in self._fields(message):
            if field.number == 13 or (field.number == 14 and (field.wire != VARINT or field.value != 0)):
                raise Refused("the model keeps weights in another file")

    def _check_dimension(self, message: Message) -> None:
        fields = [field for field in self._fields(message) if field.number in (1, 2)]
        if len(fields) != 1 or fields[0].number != 1 or not 0 < fields[0].value < 2**31:
            raise Refused("an input of the model has a dynamic shape")

    def _texts(self, message: Message, number: int) -> list[bytes]:
        found = [field for field in self._fields(message) if field.number == number and field.wire == BYTES]
        return [self._data[field.start : field.end] for field in found]

    def _fields(self, message: Message) -> Iterator[Field]:
        at = message.start
        while at < message.end:
            self._left -= 1
            if self._left < 0:
                raise Refused("the model has too many parts")
            tag, at = self._varint(at, message.end)
            number, wire = tag >> 3, tag & 7
            value = start = at
            if wire == VARINT:
                value, at = self._varint(at, message.end)
            elif wire == BYTES:
                length, start = self._varint(at, message.end)
                at = start + length
            elif wire in (FIXED64, FIXED32):
                at += 8 if wire == FIXED64 else 4
            else:
                raise Refused("not an ONNX model, or a damaged one")
            if number == 0 or at > message.end:
                raise Refused("not an ONNX model, or not a whole one")
            yield Field(number, wire, value, start, at)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise Refused("not an ONNX model, or not a whole one")
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), at
        raise Refused("not an ONNX model, or a damaged one")


def _shown(text: bytes) -> str:
    return repr(text[:64].decode("ascii", "replace").encode("ascii", "replace").decode())
