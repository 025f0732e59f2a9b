"""Stand-in for the module of the same name on the branch `export`, which replaces it: gates of an exported file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

NAMES = ("gate_threshold", "model.policy.threshold")


def _found(model: onnx.ModelProto) -> onnx.TensorProto | None:
    for weight in model.graph.initializer:
        if weight.name in NAMES:
            return weight
    return None


def threshold_of(path: Path) -> float | None:
    """The threshold of the gates in a file; None where it has none."""
    found = _found(onnx.load(path))
    return None if found is None else float(onnx.numpy_helper.to_array(found))


def with_threshold(source: Path, target: Path, threshold: float) -> None:
    """A copy of ``source`` with another threshold: 0 keeps the gates open, 2 shut."""
    model = onnx.load(source)
    found = _found(model)
    assert found is not None
    found.CopyFrom(onnx.numpy_helper.from_array(np.array(threshold, dtype=np.float32), found.name))
    onnx.save(model, target)


def one_branch(source: Path, target: Path, open: bool) -> None:
    """A copy of ``source`` in which one branch alone is left."""
    with_threshold(source, target, 0.0 if open else 2.0)


def measured_load(path: Path, signals: Iterable[np.ndarray]) -> list[list[float]]:
    """Per signal, the mean of each gate."""
    raise NotImplementedError("on the branch `export`")
