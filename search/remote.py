"""Latency from an agent on the device itself: one order is one process there. What stays away is not measured here."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.agent.protocol import ENDED, Order, order_of, pack_order
from search.agent_link import CONTACT_S, LONGEST_PAUSE_S, Away, Link, line
from search.device import DeviceProfile
from search.latency import MeasurementFailed
from sekd.errors import InputError

BUSY_S = 1800.0  # how long others may keep the device
WAIT_S = 10  # that the agent holds an answer back: asking again and again would disturb what is measured
REPLY = ("session_ms", "first_call_ms", "hop_ms", "burst", "burst_us", "paced", "paced_us", "paced_reason") + (
    "canary_ms",
    "memory_bytes",
    "temperature_c",
    "environment",
)  # what becomes a latency, hence what an agent of another age may lack
OTHER_AGE = "pack the agent again with sekd agent --pack"
POSTS = 3  # of one order; a model that takes the whole agent down must not do so for ever


def run_on_agent(device: DeviceProfile, model: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The reply of one fresh process of the device.

    Raises:
        InputError: address, certificate or token are wrong.
        MeasurementFailed: the model failed there, or the device stays away.
    """
    link = Link(device)
    order = order_of(json.loads(json.dumps(request)), Path(model).read_bytes(), secrets.token_hex(16))
    try:
        job = _ended(link, order)
    except BaseException:  # Ctrl-C too: nobody waits for it any more
        with suppress(Away, InputError):
            link.ask("DELETE", f"/v1/jobs/{order.id}", timeout_s=2.0)
        raise
    if job["state"] == "failed":
        error = line(job.get("error"))
        raise MeasurementFailed(f"{model}: {error}{f'; {OTHER_AGE}' if 'unknown key' in error else ''}")
    return _whole(link, job.get("reply"))


def _whole(link: Link, reply: Any) -> dict[str, Any]:
    if isinstance(reply, dict) and "slow_canary_ms" in reply:
        return reply
    lacking = [key for key in REPLY if key not in reply] if isinstance(reply, dict) else ["reply"]
    if lacking:
        raise link.failed(f"{link.url} answers without '{lacking[0]}': {OTHER_AGE}")
    return reply


def require_agent(device: DeviceProfile) -> None:
    """Asks the agent of a device once whether it is there; nothing for a device without one.

    Raises:
        InputError: it is not, or says no.
    """
    if device.latency != "agent":
        return
    link = Link(device)
    try:
        answer = link.ask("GET", "/v1/health")
    except Away as error:
        raise InputError(f"device '{device.name}': no agent at {device.url}: {error}") from error
    if answer.status != 200:
        raise InputError(f"device '{device.name}': {device.url} answers {answer.said()}")


def _ended(link: Link, order: Order) -> dict[str, Any]:
    """The job of ``order``, ended; the order is sent again where the agent has started anew meanwhile."""
    until = time.monotonic() + BUSY_S
    body = pack_order(order)
    for _ in range(POSTS):
        _send(link, body, until)
        job = _await(link, order, until)
        if job is not None:
            return job
    raise link.failed(f"the agent at {link.url} lost the order {POSTS} times")


def _send(link: Link, body: bytes, until: float) -> None:
    """Safe to repeat: the order has its id."""
    while (answer := link.persist("POST", "/v1/jobs", body)).status == 429:
        _require_time(link, until)
        time.sleep(LONGEST_PAUSE_S)
    if answer.status != 202:
        raise link.failed(f"{link.url} answers {answer.said()}")


def _await(link: Link, order: Order, until: float) -> dict[str, Any] | None:
    """The job once it has ended; None if the agent knows nothing of it."""
    path = f"/v1/jobs/{order.id}?wait_s={WAIT_S}"
    while (answer := link.persist("GET", path, timeout_s=CONTACT_S + WAIT_S)).status == 200:
        if answer.document.get("state") in ENDED:
            return answer.document
        _require_time(link, until)
    if answer.status != 404:
        raise link.failed(f"{link.url} answers {answer.said()}")
    return None


def _require_time(link: Link, until: float) -> None:
    if time.monotonic() > until:
        raise link.away(f"the agent at {link.url} was busy for {BUSY_S:g} s")
