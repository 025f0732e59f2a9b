"""Median time of one training step: supervised, output distillation with cached outputs, DISPatch.

The kinds take turns step by step in one run, so that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import statistics
import time

import torch

from sekd.losses import DispatchConfig
from sekd.models import CruseConfig, build
from sekd.train import Batch, LossConfig, Phase, TrainConfig, Trainer

BATCH = 8
SAMPLES = 2 * 16_000
LIMIT = 1.2  # DISPatch over plain output distillation
KINDS: dict[str, dict[str, float]] = {
    "supervised": {"compressed": 1.0},
    "output_l2": {"compressed": 0.5, "output_l2": 0.5},
    "dispatch_l2": {"compressed": 0.5, "dispatch_l2": 0.5},
}


def step_times(steps: int, warm_up: int = 5) -> dict[str, float]:
    """Kind to the median seconds of a step over ``steps`` rounds, CRUSE with 62 k parameters, one thread."""
    torch.set_num_threads(1)
    batch = _batch()
    trainers = {kind: _trainer(weights, steps + warm_up) for kind, weights in KINDS.items()}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(steps + warm_up):
        for kind, trainer in trainers.items():
            started = time.perf_counter()
            trainer.run(lambda step: batch, until=trainer.step + 1)
            times[kind].append(time.perf_counter() - started)
    return {kind: statistics.median(values[warm_up:]) for kind, values in times.items()}


def _trainer(weights: dict[str, float], steps: int) -> Trainer:
    torch.manual_seed(0)
    loss = LossConfig(DispatchConfig(), "mixture")
    return Trainer(build(CruseConfig()), [Phase(steps, weights)], TrainConfig(steps=steps, batch=BATCH), loss)


def _batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (0.1 * torch.randn(BATCH, SAMPLES, generator=generator) for _ in range(2))
    return Batch(clean + noise, clean, 0.8 * clean + 0.2 * noise)


def main() -> None:
    medians = step_times(40)
    for kind, seconds in medians.items():
        print(f"{kind:12s} {1000 * seconds:7.1f} ms per step ({BATCH} x {SAMPLES / 16_000:g} s, one thread, median)")
    ratio = medians["dispatch_l2"] / medians["output_l2"]
    print(f"dispatch_l2 / output_l2 = {ratio:.3f} (limit {LIMIT})")


if __name__ == "__main__":
    main()
