"""Whether an order is run at all: its request key by key, its model byte by byte."""

from __future__ import annotations

from typing import Any

from .errors import Refused
from .onnx_wire import check_model
from .protocol import Order
from .timing import checked

MODEL_NAME = "model.onnx"  # in the folder of its process
MAX_LIMIT_S = 300.0
MAX_FRAMES = 100_000
MAX_THREADS = 256


def admit(order: Order) -> dict[str, Any]:
    """The request for the measuring process; raises Refused.

    Session options are what :func:`timing.checked` knows, no more: no operator library, no profile, no file.
    """
    if "model" in order.request:
        raise Refused("the request names no model: it comes with it")
    for key, value in order.request.items():
        # Whatever keys the measuring code knows, none of them may reach a file of the device.
        if isinstance(value, str) and not (value.isidentifier() and len(value) <= 64):
            raise Refused(f"{key}: not a plain name")
    try:
        request = checked({**order.request, "model": MODEL_NAME})
    except (ValueError, TypeError) as error:
        raise Refused(str(error)) from None
    _check_figures(request)
    check_model(order.model)
    return request


def _check_figures(request: dict[str, Any]) -> None:
    bounds = {"limit_s": MAX_LIMIT_S, "burst_frames": MAX_FRAMES, "paced_frames": MAX_FRAMES, "threads": MAX_THREADS}
    for key, most in bounds.items():
        if not request[key] <= most:
            raise Refused(f"{key} = {request[key]}: an agent takes at most {most:g}")
