"""Unit of every term that follows the teacher: ``python -m benchmarks.term_units OUT ...`` with the arguments of
``benchmarks.kd_ablation``, whose student of 1000 supervised steps it takes.

In these units a term with ``kd_weight = 0.5`` has a gradient as long as ``GRADIENT_SHARE`` of that of the supervised
loss beside it; they are kept in ``sekd.losses.TERMS``.
"""

from __future__ import annotations

import torch

from benchmarks.kd_ablation import (
    GRADIENT_SHARE,
    SCALING_STEPS,
    document,
    folder_of,
    gradient_norm,
    parse_options,
    prepared_for,
)
from sekd.checkpoint import load_model
from sekd.config import parse
from sekd.distillation import DistillConfig
from sekd.losses import TERMS


def main() -> None:
    torch.set_num_threads(1)
    chosen = parse_options()
    out = chosen.out.resolve()
    prepared, _ = prepared_for(chosen, out)
    model = load_model(folder_of(out, f"supervised {SCALING_STEPS}", 100) / "model.safetensors").train()
    config = parse(DistillConfig, document(chosen, "one-step G_tf", 0, {}), "units")
    supervised = gradient_norm(model, config, prepared, list(config.distill.supervised), out)
    for name, term in TERMS.items():
        if term.follows == "teacher":
            norm = gradient_norm(model, config, prepared, [name], out)
            print(f"{name:18s} {GRADIENT_SHARE * supervised / norm:.2g}", flush=True)


if __name__ == "__main__":
    main()
