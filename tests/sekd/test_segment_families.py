"""Consistency networks and their deterministic twins: the contract of a family, sizes, noise and knobs."""

from __future__ import annotations

import pytest
from family_contract import FamilyContract

from sekd.generative.compressed_stft import SpectraConfig
from sekd.models import ConsistencyNetConfig, PredictiveConfig
from sekd.models.ncsnpp import NcsnppConfig

SHORT = {
    "spectra": SpectraConfig(n_fft=126, hop=32),
    "backbone": NcsnppConfig(width=4, multipliers=(1, 2)),
    "segment_frames": 16,
    "overlap_hops": 2,
}
CONFIGS = {
    "one step": ConsistencyNetConfig(**SHORT),
    "two steps": ConsistencyNetConfig(**SHORT, steps=2, renoise="marginal", last_time=0.3, boundary="exact"),
    "three levels, overlapping by half, no noise": ConsistencyNetConfig(
        **{**SHORT, "overlap_hops": 7, "backbone": NcsnppConfig(width=4, multipliers=(1, 1, 2))}, noise_scale=0.0
    ),
    "predictive": PredictiveConfig(**SHORT),
}


class TestContract(FamilyContract):
    longest = 24  # a hop is nearly a segment

    @pytest.fixture(scope="class", params=CONFIGS)
    @classmethod
    def config(cls, request):
        return CONFIGS[request.param]

    def latency_by_hand(self, config):
        return (config.segment_frames - 1) * config.spectra.hop

    def macs_by_hand(self, config):
        steps = getattr(config, "steps", 1)
        frames, freqs = config.segment_frames, config.spectra.n_fft // 2 + 1
        return {
            "conv": steps * convolved(config.backbone, freqs, frames),
            "matmul": 4 * frames * freqs**2,  # a cosine and a sine matrix, there and back
        }


def blocks_of(backbone: NcsnppConfig) -> list[tuple[int, int, int]]:
    """Inputs, outputs and level of each residual block, down, in the middle and up."""
    widths = [backbone.width * factor for factor in backbone.multipliers]
    deepest = len(widths) - 1
    down = [(widths[max(0, level - 1)], width, level) for level, width in enumerate(widths)]
    down[0] = (backbone.width, widths[0], 0)
    up = [(widths[min(deepest, level + 1)] + width, width, level) for level, width in enumerate(widths)]
    return [*down, (widths[-1], widths[-1], deepest), *reversed(up)]


def convolved(backbone: NcsnppConfig, freqs: int, frames: int) -> int:
    """Products of all convolutions of one evaluation."""

    def cells(level: int) -> int:
        return freqs // 2**level * (frames // 2 ** max(0, level - 1))

    ends = 9 * (4 * backbone.width + 2 * backbone.width * backbone.multipliers[0]) * cells(0)
    halved = sum(9 * (backbone.width * m) ** 2 * cells(level + 1) for level, m in enumerate(backbone.multipliers[:-1]))
    inside = 0
    for inputs, outputs, level in blocks_of(backbone):
        skip = inputs * outputs if inputs != outputs else 0
        inside += (9 * inputs * outputs + 9 * outputs**2 + skip) * cells(level)
    return ends + halved + inside
