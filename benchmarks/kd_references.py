"""What an ablation is to be read beside: ``python -m benchmarks.kd_references OUT ...``, arguments as of
``benchmarks.kd_ablation``. Scores of unprocessed audio, of the teacher and of the student of 1000 steps, and where the
published crossover of DFKD lies on the teacher's outputs.
"""

from __future__ import annotations

from statistics import mean

import numpy as np
import torch

from benchmarks.kd_ablation import METRICS, SCALING_STEPS, folder_of, parse_options, prepared_for, score
from sekd.checkpoint import load_model
from sekd.losses.bands import crossover_bins
from sekd.losses.signals import stft
from sekd.pool import Rows

EVERY = 9  # rows of the pool


def main() -> None:
    torch.set_num_threads(1)
    options = parse_options()
    out = options.out.resolve()
    prepared, sets = prepared_for(options, out)
    students = {
        "unprocessed": torch.nn.Identity(),
        "teacher": load_model(options.teacher),
        f"supervised, {SCALING_STEPS} steps": load_model(
            folder_of(out, f"supervised {SCALING_STEPS}", 100) / "model.safetensors"
        ),
    }
    for name, model in students.items():
        for part in ("valid", "test"):
            scores = score(model, sets[part]).values()
            print(
                name, part, *(f"{metric} {mean(file[metric] for file in scores):.3f}" for metric in METRICS), flush=True
            )
    assert prepared.outputs is not None
    rows = Rows(prepared.outputs, "teacher")
    bins = crossover_bins(stft(rows[np.arange(0, len(rows), EVERY)]).abs().transpose(1, 2)).numpy()
    shares = ", ".join(f"<= {most}: {(bins <= most).mean():.3f}" for most in (0, 2, 9, 49))
    print(f"crossover of {bins.size} frames: median {np.median(bins):g}; share at bin {shares}")


if __name__ == "__main__":
    main()
