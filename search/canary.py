"""How fast a device can be, as the fixed reference network (``search/agent/canary.onnx``) tells."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from search.latency import Latency
from sekd.cache import write_json

MOVED = 0.10  # beyond, the device is not what it was
PATIENCE_S = 60.0  # for so long it is taken as it is, after it was waited for in vain


class Reference:
    """How fast the canary has been on a device: a neighbour on the same host, or heat, shows nowhere else."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _known(self) -> dict[str, Any] | None:
        return json.loads(self._path.read_text()) if self._path.exists() else None

    def at_most_ms(self) -> float | None:
        """What the canary may take before it is worth waiting; None if it was waited for in vain a moment ago."""
        known = self._known()
        if known is None or time.time() - known["slow_at"] < PATIENCE_S:
            return None
        return (1 + MOVED) * known["canary_ms"]

    def compared(self, latency: Latency) -> Latency:
        """``latency``, flagged "slowed" where the canary was once faster by more than 10 %."""
        canary_ms = latency.canary_ms
        assert canary_ms is not None
        made_by = {key: latency.environment.get(key) for key in ("cpu", "machine", "onnxruntime")}
        known = self._known()
        if known is None or known["made_by"] != made_by:
            known = {"canary_ms": canary_ms, "made_by": made_by, "slow_at": 0.0}
        fastest = min(canary_ms, known["canary_ms"])
        slowed = canary_ms > (1 + MOVED) * fastest
        write_json(self._path, known | {"canary_ms": fastest, "slow_at": time.time() if slowed else 0.0})
        return latency.model_copy(
            update={
                "flags": [*latency.flags, *(["slowed"] if slowed else [])],
                "environment": latency.environment | {"fastest_canary_ms": fastest},
            }
        )
