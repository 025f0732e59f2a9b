"""One HTTP request from a socket and the answer to it, strictly: what is unusual is refused, what is slow is ended.

The standard library's handler has no deadline over a whole request and takes what proxies disagree on (folded
lines, repeated lengths); the agent needs three methods and bodies of known length.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

HEAD_S = 10.0
BODY_S = 10.0  # and a second for each BYTES_PER_S
BYTES_PER_S = 64 * 1024
SEND_S = 30.0
LINGER_S = 2.0
MAX_HEAD_BYTES = 8 * 1024
MAX_FIELDS = 32
REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]{0,255}) HTTP/1\.[01]")
FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
FIELD_VALUE = re.compile(rb"[\t\x20-\x7e]*")
REASONS = {
    200: "OK", 202: "Accepted", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 411: "Length Required", 413: "Content Too Large", 415: "Unsupported Media Type",
    417: "Expectation Failed", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}  # fmt: skip


class HttpError(Exception):
    """An answer that ends the request: its status, one line, and headers of its own."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class Request(NamedTuple):
    method: str
    path: str
    query: str
    fields: dict[str, str]  # by name in lower case

    def length(self) -> int | None:
        """Bytes of the body that the request announces; raises HttpError for any other way to send one."""
        if "transfer-encoding" in self.fields:
            raise HttpError(411, "Transfer-Encoding is not taken: give Content-Length")
        if self.fields.get("content-encoding", "identity") != "identity":
            raise HttpError(415, "a compressed body is not taken")
        if "expect" in self.fields:
            raise HttpError(417, "Expect is not taken: send the body at once")
        text = self.fields.get("content-length")
        if text is not None and not re.fullmatch("[0-9]{1,12}", text):
            raise HttpError(400, "Content-Length is not a number of bytes")
        return None if text is None else int(text)


class Wire:
    """One connection, which carries one request."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._buffer = connection, bytearray()

    def read_head(self) -> Request:
        """Raises HttpError, or ConnectionError when the other side is gone."""
        deadline = time.monotonic() + HEAD_S
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise HttpError(431, "the header is too large")
            self._receive(4096, deadline)
        if end > MAX_HEAD_BYTES:
            raise HttpError(431, "the header is too large")
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return parse_head(head)

    def read_body(self, length: int) -> bytes:
        """Raises HttpError, or ConnectionError when the other side is gone."""
        deadline = time.monotonic() + BODY_S + length / BYTES_PER_S
        while len(self._buffer) < length:
            self._receive(min(64 * 1024, length - len(self._buffer)), deadline)
        return bytes(self._buffer[:length])

    def send(self, status: int, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(document).encode() + b"\n"
        fields = {
            "Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close",
            "Cache-Control": "no-store", **(headers or {}),
        }  # fmt: skip
        lines = [f"HTTP/1.1 {status} {REASONS[status]}", *(f"{name}: {value}" for name, value in fields.items())]
        self._socket.settimeout(SEND_S)
        self._socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def linger(self, most: int) -> None:
        """Takes in what is still coming, within limits: closing on unread bytes would destroy the answer sent."""
        deadline = time.monotonic() + LINGER_S
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while most > 0:
                self._buffer.clear()
                self._receive(64 * 1024, deadline)
                most -= len(self._buffer)
        except (OSError, HttpError):
            pass

    def _receive(self, most: int, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise HttpError(408, "the request came too slowly")
        self._socket.settimeout(left)
        try:
            chunk = self._socket.recv(most)
        except socket.timeout:  # not yet TimeoutError in Python 3.9
            raise HttpError(408, "the request came too slowly") from None
        if not chunk:
            raise ConnectionError("closed by the other side")
        self._buffer += chunk


def parse_head(head: bytes) -> Request:
    """Raises HttpError for a request line or a field that is not plain HTTP/1."""
    first, *rest = head.split(b"\r\n")
    line = REQUEST_LINE.fullmatch(first)
    if line is None:
        raise HttpError(400, "not an HTTP/1 request")
    if len(rest) > MAX_FIELDS:
        raise HttpError(431, "too many header fields")
    fields: dict[str, str] = {}
    for text in rest:
        name, colon, value = text.partition(b":")
        if not colon or not FIELD_NAME.fullmatch(name) or not FIELD_VALUE.fullmatch(value):
            raise HttpError(400, "a header field is malformed")
        key = name.decode().lower()
        if key in fields:
            raise HttpError(400, "a header field is given twice")
        fields[key] = value.decode().strip()
    path, _, query = line[2].decode().partition("?")
    return Request(line[1].decode(), path, query, fields)
