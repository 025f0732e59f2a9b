"""Agents for tests: real ones on a free port of this machine, and what is said to them over raw sockets."""

import contextlib
import socket
import threading

from search.agent.api import Settings
from search.agent.sandbox import Limits
from search.agent.server import Agent
from search.device import DeviceProfile

TOKEN = "a-token-of-the-test-suite"
AUTHORISED = f"Authorization: Bearer {TOKEN}\r\n"
MEBI = 2**20
QUICK = {"burst_frames": 30, "paced_frames": 5, "warmup_s": 0.02, "limit_s": 2.0}


@contextlib.contextmanager
def agent(*, port=0, limits=None, max_model_bytes=MEBI, context=None, token=TOKEN, host="127.0.0.1"):
    """A running agent; its ``port`` is an attribute."""
    settings = Settings(token, max_model_bytes, {"cpu": "of a test"})
    server = Agent((host, port), settings, limits or Limits(memory_bytes=512 * MEBI, startup_s=20.0), context)
    server.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.close()


def board(port, **changes):
    """A profile whose latency comes from the agent at ``port``."""
    return DeviceProfile(**{
        "name": "board", "description": "x", "latency": "agent", "url": f"http://127.0.0.1:{port}", **changes,
    })  # fmt: skip


def say(port, *parts, end=False):
    """What comes back for raw bytes until the other side closes; with ``end`` no more of them can follow."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part.encode() if isinstance(part, str) else part)
            if end:
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(65536):
                answer += chunk
        return answer.decode()


def status(answer):
    return int(answer.split(" ")[1]) if answer else None
