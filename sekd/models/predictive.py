"""The deterministic twin of a consistency network: the same network and scales, asked once, without noise."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sekd.generative.preconditioning import edm_scales
from sekd.models.consistency import SegmentedPathConfig, SegmentedPathNetwork


class PredictiveConfig(SegmentedPathConfig):
    family: Literal["predictive"] = "predictive"


class Predictive(SegmentedPathNetwork):
    """Predicts the clean spectrum from the noisy one; trained by supervised losses."""

    config: PredictiveConfig

    def times(self) -> list[float]:
        return [1.0]

    def enhanced(self, noisy: Tensor) -> Tensor:
        scales = edm_scales(self.path.std(1.0), self.sigma_data)._replace(into=1.0)
        return self.scaled(scales, noisy, noisy, self.biases_of(0))
