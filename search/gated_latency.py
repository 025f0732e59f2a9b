"""Latency of a network with gates: of its worst frame and of its cheapest, and what is to be expected between them.

It is never timed as it is: whether gates open depends on what they hear, and a device hears clips of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.graphs.graph import graph_facts
from search.latency import Latency, Shut
from search.record import Cost

Had = Callable[[Path, str], Latency]  # (file, what to add to its name) to how long it takes


def of_each_frame(model: Path, had: Had, *, predicted: bool = False) -> Latency:
    """What ``had`` says of ``model``; of one with gates, of it with all open and with all shut.

    Both are the very graph that was given, with another threshold, so that the branching is timed too; a prediction is
    a sum over the nodes that run, and takes the branches apart.
    """
    from sekd.onnx_gates import ALWAYS_OPEN, ALWAYS_SHUT, one_branch, threshold_of, with_threshold  # late: brings onnx

    if threshold_of(model) is None:
        return had(model, "")
    with tempfile.TemporaryDirectory(prefix="sekd.") as folder:
        opened, shut = Path(folder) / f"{model.stem}-open.onnx", Path(folder) / f"{model.stem}-shut.onnx"
        if predicted:
            one_branch(model, opened, True)
            one_branch(model, shut, False)
        else:
            with_threshold(model, opened, ALWAYS_OPEN)
            with_threshold(model, shut, ALWAYS_SHUT)
        return _with_shut(had(opened, "-open"), had(shut, "-shut"))


def nodes_shut(model: Path) -> int | None:
    """How many nodes run in a frame with all gates shut; None where there are no gates."""
    from sekd.onnx_gates import one_branch, threshold_of

    if threshold_of(model) is None:
        return None
    with tempfile.TemporaryDirectory(prefix="sekd.") as folder:
        shut = Path(folder) / "shut.onnx"
        one_branch(model, shut, False)
        return graph_facts(shut).nodes


def _with_shut(opened: Latency, shut: Latency) -> Latency:
    figures = {key: value for key, value in shut.model_dump().items() if key in Shut.model_fields}
    flags = list(dict.fromkeys([*opened.flags, *shut.flags]))
    return opened.model_copy(update={"shut": Shut.model_validate(figures), "flags": flags})


def with_expectation(latency: dict[str, Any], cost: Cost | None) -> dict[str, Any]:
    """A latency's document with what the gates of one student make of it: networks share latencies, not loads."""
    shut = latency.get("shut")
    if shut is None:
        return latency
    load = None if cost is None else cost.load
    expected_ms = None if load is None else load * latency["p50_ms"] + (1 - load) * shut["p50_ms"]
    return latency | {"load": load, "expected_ms": expected_ms}
