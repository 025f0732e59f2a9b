"""What driver and agent say to each other; docs/devices.md tells it in words."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from typing import Any, NamedTuple

from .errors import Refused

PROTOCOL = 1
ENDED = ("done", "failed")
MAX_HEADER_BYTES = 16 * 1024
ID = re.compile(r"[0-9a-f]{64}")
_LENGTH = struct.Struct(">I")


class Order(NamedTuple):
    """One measurement that is asked for; the same ``id`` again is the same order, not another."""

    id: str
    request: dict[str, Any]
    model: bytes


def order_of(request: dict[str, Any], model: bytes, nonce: str) -> Order:
    """The order whose id says all that it is about."""
    text = json.dumps([hashlib.sha256(model).hexdigest(), request, nonce], sort_keys=True)
    return Order(hashlib.sha256(text.encode()).hexdigest(), request, model)


def pack_order(order: Order) -> bytes:
    """Four bytes of length, most significant first; so many bytes of JSON; the model."""
    header = json.dumps({"protocol": PROTOCOL, "id": order.id, "request": order.request}).encode()
    return _LENGTH.pack(len(header)) + header + order.model


def unpack_order(body: bytes) -> Order:
    """Raises Refused unless ``body`` is what :func:`pack_order` writes."""
    if len(body) < _LENGTH.size or _LENGTH.unpack_from(body)[0] > min(MAX_HEADER_BYTES, len(body) - _LENGTH.size):
        raise Refused("the body is not a length, a JSON object of that length, and a model")
    end = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    header = read_json(body[_LENGTH.size : end])
    if header.get("protocol") != PROTOCOL:
        raise Refused(f"this agent speaks protocol {PROTOCOL}: pack it again with the sekd that drives it")
    if set(header) != {"protocol", "id", "request"} or not isinstance(header["request"], dict):
        raise Refused("the JSON of an order has the keys protocol, id and request")
    if not isinstance(header["id"], str) or not ID.fullmatch(header["id"]):
        raise Refused("the id of an order is 64 hexadecimal digits")
    return Order(header["id"], header["request"], body[end:])


def read_json(text: bytes) -> dict[str, Any]:
    """An object of standard JSON; raises Refused for anything else."""
    try:
        document = json.loads(text.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refused("not valid JSON") from None
    if not isinstance(document, dict):
        raise Refused("not a JSON object")
    return document


def _no_number(name: str) -> None:
    raise ValueError(name)
