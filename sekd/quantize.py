"""A trained student as the file that its device runs. Stub: only float files are written here yet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sekd.deployment import DeployConfig
from sekd.export import Export, export_onnx
from sekd.models import Enhancer


def write_deployed(model: Enhancer, deploy: DeployConfig, path: Path, audio: Iterable[np.ndarray] = ()) -> Export:
    """Writes ``path``, whole or not at all, as ``deploy`` says; in fp32 it is what ``export_onnx`` writes."""
    if deploy.dtype == "fp32":
        return export_onnx(model, path)
    raise NotImplementedError(f"deploy.dtype = {deploy.dtype!r} is not built yet")
