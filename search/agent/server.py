"""The agent as a server: connections within limits, TLS where it is wanted, one line of log for each request."""

from __future__ import annotations

import os
import socket
import socketserver
import ssl
import sys
import threading
from argparse import Namespace
from typing import Any

from .admission import admit
from .api import Api, Settings
from .errors import Refused, UsageError
from .http_wire import HEAD_S, HttpError, Wire
from .jobs import Job, Jobs
from .sandbox import Limits, run_child, wipe_leftovers
from .secret import hide_environment, is_loopback, read_token

MAX_CONNECTIONS = 16


class Agent(socketserver.ThreadingTCPServer):
    """Listens at ``address`` and serves until :meth:`close`."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(
        self, address: tuple[str, int], settings: Settings, limits: Limits, context: ssl.SSLContext | None = None
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._context, self._max_model_bytes = context, settings.max_model_bytes
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, Handler)
        self.jobs = Jobs(lambda job: run_job(job, limits))
        self.api = Api(self.jobs, settings)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)  # whoever it is comes again
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread is to be had
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log(client_address, f"- {type(sys.exc_info()[1]).__name__}")

    def secured(self, connection: socket.socket) -> socket.socket:
        """The handshake is made here, in the connection's own thread: a slow one delays nobody."""
        if self._context is None:
            return connection
        connection.settimeout(HEAD_S)
        return self._context.wrap_socket(connection, server_side=True)

    def close(self) -> None:
        self.jobs.close()
        self.server_close()


class Handler(socketserver.BaseRequestHandler):
    """One connection, one request, one answer."""

    server: Agent

    def handle(self) -> None:
        try:
            connection = self.server.secured(self.request)
        except OSError as error:  # no TLS, a bad one, or gone
            return log(self.client_address, f"- {type(error).__name__}")
        try:
            self._exchange(Wire(connection))
        except OSError:
            log(self.client_address, "- gone")
        finally:
            connection.close()

    def _exchange(self, wire: Wire) -> None:
        method, headers = "-", {}
        try:
            request = wire.read_head()
            method = request.method
            status, document = self.server.api.answer(request, wire)
        except HttpError as error:
            status, document, headers = error.status, {"error": error.message}, dict(error.headers)
        except OSError:
            raise
        except Exception as error:  # of ours: the other side learns no more than that
            log(self.client_address, f"{method} {type(error).__name__}")
            status, document = 500, {"error": "the agent failed"}
        # Neither path nor headers: a token may be in both.
        log(self.client_address, f"{method} {status} {document.get('state') or document.get('error') or ''}".strip())
        wire.send(status, document, headers)
        wire.linger(self.server._max_model_bytes)


def run_job(job: Job, limits: Limits) -> dict[str, Any]:
    """The reply of a measuring process; raises Refused."""
    request = admit(job.order)

    def started(child: Any) -> None:
        job.stop = child.kill
        if job.stopped:  # meanwhile
            child.kill()

    return run_child("time", request, limits, job.order.model, started)


def log(client: Any, text: str) -> None:
    print(f"{client[0]} {text}", file=sys.stderr, flush=True)


def serve(options: Namespace) -> int:
    """Until Ctrl-C, which comes out as KeyboardInterrupt.

    Raises:
        UsageError: it cannot start like this.
    """
    context = _tls(options)
    if not (context or options.insecure or is_loopback(options.host)):
        raise UsageError(f"{options.host} is not this machine alone: give --cert and --key, or --insecure")
    token = read_token(os.environ, options.token_file)
    hide_environment()
    wipe_leftovers()
    limits = Limits(memory_bytes=options.memory_mib * 2**20)
    try:
        fingerprint = run_child("fingerprint", {}, limits)
    except Refused as error:
        raise UsageError(f"nothing can be measured here: {error}") from None
    settings = Settings(token, options.max_model_mib * 2**20, fingerprint)
    try:
        agent = Agent((options.host, options.port), settings, limits, context)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {options.host} port {options.port}: {error}") from None
    _announce(agent, context)
    try:
        agent.serve_forever(poll_interval=3600)  # nothing that wakes up while something is measured
    finally:
        agent.close()
    return 0


def _tls(options: Namespace) -> ssl.SSLContext | None:
    if bool(options.cert) != bool(options.key):
        raise UsageError("--cert and --key go together")
    if not options.cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.cert, options.key, password="")  # never asks at a terminal
    except (OSError, ValueError) as error:
        raise UsageError(f"{options.cert}, {options.key}: {getattr(error, 'strerror', None) or error}") from None
    return context


def _announce(agent: Agent, context: ssl.SSLContext | None) -> None:
    host, port = str(agent.server_address[0]), int(agent.server_address[1])
    shown = f"[{host}]" if ":" in host else host
    say(f"listening at {'https' if context else 'http'}://{shown}:{port}")
    if not (context or is_loopback(host)):
        say("without TLS: whoever can listen on the way learns the token")
    if os.getuid() == 0:
        say("running as root, whom the limit on processes does not bind")


def say(text: str) -> None:
    print(f"sekd agent: {text}", file=sys.stderr, flush=True)
