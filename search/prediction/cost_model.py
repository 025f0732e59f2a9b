"""Latency as a graph suggests it, by costs learnt from measurements: for screening, and always called predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import FiniteFloat, ValidationError

from search.device import DeviceProfile
from search.latency import Latency, MeasurementFailed
from search.prediction.features import Features, features_of
from sekd.config import Frozen
from sekd.errors import InputError

SHARE = 0.9  # of networks whose measured time is to lie within the interval
LEAST_MS = 1e-4  # no onnxruntime call takes less


class Known(Frozen):
    """A network of the calibration: its measured median, and what a model fitted without it said."""

    name: str
    measured_ms: FiniteFloat
    passes_ms: tuple[FiniteFloat, ...]  # each pass over all networks
    predicted_ms: FiniteFloat
    interval_ms: tuple[FiniteFloat, FiniteFloat]
    figures: dict[str, FiniteFloat]
    flags: tuple[str, ...] = ()

    @property
    def covered(self) -> bool:
        return self.interval_ms[0] <= self.measured_ms <= self.interval_ms[1]


class CostModel(Frozen):
    """Time of one frame as a sum of figures of its graph, each times the microseconds that one of it costs.

    All that is said of its errors (``spearman``, ``kendall``, ``interval_ratio``, ``coverage``) comes from networks
    that were left out of the fit, and of the choice of figures too.
    """

    version: Literal[1] = 1
    device: str
    threads: int
    spinning: bool
    provider: str
    us_per: dict[str, FiniteFloat]
    ranges: dict[str, tuple[FiniteFloat, FiniteFloat]]  # of each figure among the networks
    operators: tuple[str, ...]  # with MACs, seen in calibration
    interval_ratio: FiniteFloat  # a 90 % interval is the prediction divided and multiplied by it
    coverage: FiniteFloat  # share of left-out networks within their intervals
    spearman: FiniteFloat
    kendall: FiniteFloat
    networks: tuple[Known, ...]
    level: str
    environment: dict[str, Any]
    at: str

    def us(self, figures: dict[str, float]) -> float:
        return sum(cost * figures[name] for name, cost in self.us_per.items())


def load_cost_model(path: Path) -> CostModel:
    """Raises InputError where ``path`` holds none."""
    try:
        return CostModel.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; sekd calibrate --device D writes a cost model") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a cost model of this version; sekd calibrate --device D writes one") from error


def cost_model_of(device: DeviceProfile) -> CostModel:
    """The one that a profile with ``latency = "model"`` names; raises InputError."""
    if device.cost_model is None:
        raise InputError(f"device '{device.name}': no cost_model")
    model = load_cost_model(Path(device.cost_model))
    require_same_runtime(model, device)
    return model


def require_same_runtime(model: CostModel, device: DeviceProfile) -> None:
    """Raises InputError where the device runs networks in another way than they were measured."""
    for key in ("threads", "spinning", "provider"):
        asked, fitted = getattr(device, key), getattr(model, key)
        if asked != fitted:
            raise InputError(
                f"device '{device.name}': {key} = {asked}, and its cost model was fitted with {fitted}; "
                "run sekd calibrate again"
            )


def predict(path: Path, model: CostModel, *, hop_ms: float | None = None) -> Latency:
    """What ``model`` says of the file at ``path``, with its 90 % interval.

    Flagged "extrapolated" where a figure is beyond all networks that the model was fitted on.

    Raises:
        MeasurementFailed: the graph multiplies in an operator that no network of the calibration had.
        InputError: no ONNX file.
    """
    features = features_of(path)
    _require_seen(path, features, model)
    p50_ms = max(model.us(features.figures) / 1000, LEAST_MS)
    hop = hop_ms or features.hop_ms
    outside = [name for name, (low, high) in model.ranges.items() if not low <= features.figures[name] <= high]
    calibration = {"device": model.device, "networks": len(model.networks), "at": model.at, "level": model.level}
    return Latency(
        kind="predicted",
        source="model",
        p50_ms=p50_ms,
        interval_ms=(p50_ms / model.interval_ratio, p50_ms * model.interval_ratio),
        hop_ms=hop,
        rtf=p50_ms / hop if hop else None,
        flags=["extrapolated"] if outside else [],
        environment={"calibration": calibration, **({"outside": outside} if outside else {})},
    )


def _require_seen(path: Path, features: Features, model: CostModel) -> None:
    if features.uncounted:
        raise MeasurementFailed(f"{path}: cannot predict: no rule counts {', '.join(features.uncounted)}")
    strange = [name for name in features.operators if name not in model.operators]
    if strange:
        raise MeasurementFailed(
            f"{path}: cannot predict: no network of the calibration on {model.device} had {', '.join(strange)}"
        )
