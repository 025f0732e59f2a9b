"""What can be asked of an agent, and what it answers."""

from __future__ import annotations

import re
import threading
from typing import Any, NamedTuple

from .errors import Refused
from .http_wire import HttpError, Request, Wire
from .jobs import Full, Job, Jobs
from .protocol import ID, MAX_HEADER_BYTES, PROTOCOL, unpack_order
from .secret import same_token

MAX_WAIT_S = 20.0
UPLOADS = 2  # bodies that are read at the same time
BUSY_S = "2"


class Settings(NamedTuple):
    token: str
    max_model_bytes: int
    fingerprint: dict[str, Any]


class Api:
    """Routes; raises HttpError for what is not answered otherwise."""

    def __init__(self, jobs: Jobs, settings: Settings) -> None:
        self._jobs, self._settings = jobs, settings
        self._uploads = threading.BoundedSemaphore(UPLOADS)

    def answer(self, request: Request, wire: Wire) -> tuple[int, dict[str, Any]]:
        self._require_token(request)
        if request.path == "/v1/health":
            _require_method(request, "GET")
            return 200, {"protocol": PROTOCOL, "fingerprint": self._settings.fingerprint}
        if request.path == "/v1/jobs":
            _require_method(request, "POST")
            return self._post(request, wire)
        top, _, job_id = request.path.rpartition("/")
        if top != "/v1/jobs" or not ID.fullmatch(job_id):
            raise HttpError(404, "no such path")
        _require_method(request, "GET", "DELETE")
        return self._delete(job_id) if request.method == "DELETE" else self._get(job_id, _wait_s(request))

    def _require_token(self, request: Request) -> None:
        scheme, _, given = request.fields.get("authorization", "").partition(" ")
        if not same_token(given, self._settings.token) or scheme.lower() != "bearer":
            raise HttpError(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    def _post(self, request: Request, wire: Wire) -> tuple[int, dict[str, Any]]:
        length = request.length()
        if length is None:
            raise HttpError(411, "Content-Length is missing")
        if length > self._settings.max_model_bytes + MAX_HEADER_BYTES:
            raise HttpError(413, f"the model is above {self._settings.max_model_bytes // 2**20} MiB")
        if not self._uploads.acquire(blocking=False):
            raise HttpError(429, "too many uploads", {"Retry-After": BUSY_S})
        try:
            order = unpack_order(wire.read_body(length))
            if len(order.model) > self._settings.max_model_bytes:
                raise HttpError(413, f"the model is above {self._settings.max_model_bytes // 2**20} MiB")
            return 202, _document(self._jobs.submit(order))
        except Refused as error:
            raise HttpError(400, str(error)) from None
        except Full:
            raise HttpError(429, "too many orders wait", {"Retry-After": BUSY_S}) from None
        finally:
            self._uploads.release()

    def _get(self, job_id: str, wait_s: float) -> tuple[int, dict[str, Any]]:
        job = self._jobs.find(job_id, wait_s)
        if job is None:
            raise HttpError(404, "no such job")
        return 200, _document(job)

    def _delete(self, job_id: str) -> tuple[int, dict[str, Any]]:
        if not self._jobs.remove(job_id):
            raise HttpError(404, "no such job")
        return 200, {"protocol": PROTOCOL, "id": job_id, "state": "removed"}


def _document(job: Job) -> dict[str, Any]:
    return {"protocol": PROTOCOL, **job.document()}


def _require_method(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise HttpError(405, f"only {' and '.join(methods)} here", {"Allow": ", ".join(methods)})
    if request.method != "POST" and request.length():
        raise HttpError(400, f"{request.method} takes no body")


def _wait_s(request: Request) -> float:
    found = re.fullmatch("wait_s=([0-9]{1,4})", request.query or "wait_s=0")
    if found is None:
        raise HttpError(400, "the only parameter is wait_s, whole seconds")
    return min(float(found[1]), MAX_WAIT_S)
