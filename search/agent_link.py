"""The way to the agent of one device: one request, one answer, over an address that keeps the token secret."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from search.agent.errors import UsageError
from search.agent.options import PORT
from search.agent.protocol import PROTOCOL
from search.agent.secret import TOKEN, TOKEN_FILE, is_loopback, read_token
from search.device import DeviceProfile
from search.latency import DeviceAway, MeasurementFailed
from sekd.errors import InputError

AWAY_S = 60.0  # how long a device may stay away; it starts anew with every answer
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
CONTACT_S = 15.0
MAX_ANSWER_BYTES = 16 * 2**20
INSECURE = "SEKD_AGENT_INSECURE"


class Away(Exception):
    """No answer this time."""


class Answer(NamedTuple):
    status: int
    document: dict[str, Any]

    def said(self) -> str:
        return f"{self.status}: {line(self.document.get('error') or 'not an agent of ours')}"


class Link:
    """The way to the agent of one device."""

    def __init__(self, device: DeviceProfile) -> None:
        self.name, self.url = device.name, device.url or ""
        address = _address(device)
        self._secure, self._host, self._port = address.scheme == "https", address.hostname, address.port or PORT
        self._context = _context(device) if self._secure else None
        try:
            self._token = read_token(os.environ)
        except UsageError as error:
            raise InputError(f"device '{device.name}': {error}") from error

    def ask(self, method: str, path: str, body: bytes | None = None, timeout_s: float = CONTACT_S) -> Answer:
        """One request, one answer.

        Raises:
            Away: there was none.
            InputError: certificate or token are wrong.
        """
        try:
            answer = self._exchange(method, path, body, timeout_s)
        except ssl.SSLCertVerificationError as error:
            raise InputError(
                f"device '{self.name}': {self.url}: certificate not trusted: {error.verify_message}; give ca_file"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise Away(line(getattr(error, "strerror", None) or error or type(error).__name__)) from error
        if answer.status == 401:
            raise InputError(f"device '{self.name}': {self.url} does not take the token of {TOKEN} or {TOKEN_FILE}")
        if answer.status < 400 and answer.document.get("protocol") != PROTOCOL:
            raise InputError(
                f"device '{self.name}': {self.url} is no agent of protocol {PROTOCOL}; "
                "pack it again with sekd agent --pack"
            )
        return answer

    def persist(self, method: str, path: str, body: bytes | None = None, timeout_s: float = CONTACT_S) -> Answer:
        """An answer, asked for again and again for AWAY_S; raises DeviceAway when there is none."""
        began, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                answer = self.ask(method, path, body, timeout_s)
                if answer.status not in (408, 500, 502, 503, 504):
                    return answer
                reason = answer.said()
            except Away as error:
                reason = str(error)
            if time.monotonic() - began + pause > AWAY_S:
                raise self.away(f"no agent at {self.url} for {AWAY_S:g} s: {reason}")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _exchange(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer:
        if self._context is None:
            connection = http.client.HTTPConnection(self._host or "", self._port, timeout=timeout_s)
        else:
            connection = http.client.HTTPSConnection(
                self._host or "", self._port, timeout=timeout_s, context=self._context
            )
        try:
            connection.connect()
            # An agent that refuses an order says so before it has read all of it.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, {"Authorization": f"Bearer {self._token}"})
            response = connection.getresponse()
            text = response.read(MAX_ANSWER_BYTES + 1)
            # http.client takes a header or a body that was cut off for the whole of it.
            if response.length != 0 and len(text) <= MAX_ANSWER_BYTES:
                raise http.client.HTTPException("not a whole answer")
        finally:
            connection.close()
        return Answer(response.status, _document(text))

    def away(self, reason: str) -> DeviceAway:
        return DeviceAway(f"device '{self.name}': {reason}")

    def failed(self, reason: str) -> MeasurementFailed:
        return MeasurementFailed(f"device '{self.name}': {reason}")


def _address(device: DeviceProfile) -> Any:
    where = f"device '{device.name}': url"  # not shown: what is too much in it may be a secret
    try:
        address = urlsplit(device.url or "")
        port = address.port
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if address.scheme not in ("http", "https") or not address.hostname or port == 0:
        raise InputError(f"{where}: write http://HOST:PORT or https://HOST:PORT")
    if address.username or address.password or address.query or address.fragment or address.path not in ("", "/"):
        raise InputError(f"{where}: scheme, host and port alone; the token comes from {TOKEN}")
    if address.scheme == "http" and not is_loopback(address.hostname) and os.environ.get(INSECURE) != "1":
        raise InputError(f"{where}: the token would travel in the clear; use https, or set {INSECURE}=1")
    return address


def _context(device: DeviceProfile) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=device.ca_file)
    except OSError as error:
        raise InputError(f"device '{device.name}': ca_file {device.ca_file}: {error.strerror or error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _document(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text) if len(text) <= MAX_ANSWER_BYTES else None
    except (ValueError, RecursionError):
        document = None
    return document if isinstance(document, dict) else {}


def line(text: Any) -> str:
    """What another machine said, as a piece of one line."""
    return " ".join(str(text).split())[:500]
