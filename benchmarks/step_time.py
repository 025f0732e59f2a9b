"""Median processor time of one training step by loss terms, at the published batch of DISPatch, on one thread.

The kinds take turns step by step in one run, so that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sekd.losses import DispatchConfig, LossConfig
from sekd.models import CruseConfig, build
from sekd.pool import PoolBatches, RowsWriter, cached_features, live_features, write_activations
from sekd.train import Batch, Phase, TrainConfig, Trainer

BATCH = 16
SAMPLES = 2 * 16_000
ROWS = 4 * BATCH
TEACHER = CruseConfig(channels=(16, 32, 64, 80))
SUPERVISED = {"compressed": 0.5}
PLAIN = LossConfig()
KINDS: dict[str, tuple[dict[str, float], LossConfig, str | None]] = {
    "supervised": ({"compressed": 1.0}, PLAIN, None),
    "output L2": (SUPERVISED | {"output_l2": 0.5}, PLAIN, None),
    "DISPatch on L2": (SUPERVISED | {"dispatch_l2": 0.5}, PLAIN, None),
    "DFKD": (SUPERVISED | {"dfkd": 0.5}, PLAIN, None),
    "DFKD + DISPatch 20/20": (
        SUPERVISED | {"dispatch_dfkd": 0.5},
        LossConfig(dispatch=DispatchConfig(low_patch=20, high_patch=20)),
        None,
    ),
    "DFKD + DISPatch + MSSP 10/40": (SUPERVISED | {"dispatch_dfkd": 0.5}, PLAIN, None),
    "G_tf, cached activations": (SUPERVISED | {"similarity": 0.5}, PLAIN, "cached"),
    "G_tf, live teacher": (SUPERVISED | {"similarity": 0.5}, PLAIN, "live"),
}


def step_times(rounds: int, warm_up: int = 3) -> dict[str, float]:
    """Kind to the median seconds of a step over ``rounds``, CRUSE with 62 k parameters, one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        sources = _sources(Path(folder))
        trainers = {kind: _trainer(weights, loss, rounds + warm_up) for kind, (weights, loss, _) in KINDS.items()}
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(rounds + warm_up):
            for kind, trainer in trainers.items():
                started = time.process_time()
                trainer.run(sources[KINDS[kind][2]], until=trainer.step + 1)
                times[kind].append(time.process_time() - started)
    return {kind: statistics.median(values[warm_up:]) for kind, values in times.items()}


def _trainer(weights: dict[str, float], loss: LossConfig, steps: int) -> Trainer:
    torch.manual_seed(0)
    return Trainer(build(CruseConfig()), [Phase(steps, weights)], TrainConfig(steps=steps, batch=BATCH), loss)


def _sources(folder: Path) -> dict[str | None, Callable[[int], Batch]]:
    """A pool of noise with teacher outputs on disk; its activations read from there, or computed."""
    generator = np.random.default_rng(0)
    writers = {name: RowsWriter(folder, name, ROWS, SAMPLES) for name in ("noisy", "clean", "teacher")}
    for row in range(ROWS):
        clean, noise = 0.1 * generator.standard_normal((2, SAMPLES))
        for name, signal in (("noisy", clean + noise), ("clean", clean), ("teacher", 0.8 * clean + 0.2 * noise)):
            writers[name].put(row, signal)
    for writer in writers.values():
        writer.close()
    teacher = build(TEACHER).requires_grad_(False)
    write_activations(folder, folder, teacher, lambda share: None)
    features = {None: None, "cached": cached_features(folder), "live": live_features(folder, teacher)}
    return {name: PoolBatches(folder, folder, batch=BATCH, seed=0, features=found) for name, found in features.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    medians = step_times(parser.parse_args().rounds)
    print(f"one step of {BATCH} x {SAMPLES / 16_000:g} s, one thread, median; against supervised and output L2")
    for kind, seconds in medians.items():
        against = [seconds / medians[other] for other in ("supervised", "output L2")]
        print(f"{kind:30s} {1000 * seconds:7.1f} ms  {against[0]:5.2f}  {against[1]:5.2f}")


if __name__ == "__main__":
    main()
