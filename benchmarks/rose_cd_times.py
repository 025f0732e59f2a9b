"""Where on the path do the networks of ``benchmarks.rose_cd`` see the clean signal? SI-SDR of what they say there.

    python -m benchmarks.rose_cd_times OUT

Points of the path are made from validation pairs, so they hold of the clean signal what the path leaves of it; sampling
begins at time 1 without that. Of a denoiser the clean spectrum that its mean implies is taken.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.kd_ablation import folder_of
from benchmarks.rose_cd import CONSISTENCY, FRAMES, HOP
from sekd.audio import read_audio
from sekd.checkpoint import load_model
from sekd.generative.learning import normalised
from sekd.generative.ouve import noise_like
from sekd.losses.supervised import negative_si_snr
from sekd.models import Diffusion

TIMES = (0.03, 0.1, 0.25, 0.5, 0.75, 1.0)
FILES, AUDIBLE = 12, 0.05  # of the peak of the noisy segment: quieter speech says little
SAMPLES = (FRAMES - 1) * HOP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out.resolve()
    torch.set_num_threads(1)
    noisy, clean = _segments(next(out.glob("cache/valid-*/clean")).parent)
    print(f"{len(clean)} segments, noisy {-float(negative_si_snr(noisy, clean)):.2f} dB")
    print("| network | " + " | ".join(f"t = {t}" for t in TIMES) + " |")
    print("|---" * (1 + len(TIMES)) + "|")
    files = {name: folder_of(out, name, 0) / "model.safetensors" for name in CONSISTENCY}
    files = {"teacher": next(out.glob("cache/teacher-*/model.safetensors"))} | files
    for name, file in files.items():
        if file.exists():
            model = load_model(file)
            print(f"| {name} | " + " | ".join(f"{_said(model, noisy, clean, t):.1f}" for t in TIMES) + " |")


def _segments(folder: Path) -> tuple[Tensor, Tensor]:
    """Noisy and clean segments ``(segment, sample)`` with speech, each as networks on a path hear it."""
    files = sorted((folder / "clean").iterdir())[:FILES]
    sides = [torch.from_numpy(read_audio(folder / side / f.name)) for f in files for side in ("noisy", "clean")]
    rows = [wave[: len(wave) // SAMPLES * SAMPLES].reshape(-1, SAMPLES) for wave in sides]
    noisy, clean, _ = normalised(torch.cat(rows[::2]), torch.cat(rows[1::2]))
    audible = clean.abs().amax(1) > AUDIBLE
    return noisy[audible], clean[audible]


@torch.no_grad()
def _said(model: Any, noisy: Tensor, clean: Tensor, t: float) -> float:
    """Mean SI-SDR in dB."""
    generator = torch.Generator().manual_seed(0)
    scores = []
    for y_wave, x_wave in zip(noisy.split(4), clean.split(4), strict=True):
        y, x0 = model.spectra.analyse(y_wave), model.spectra.analyse(x_wave)
        x_t = model.path.perturbed(x0, y, torch.tensor(t), noise_like(y, generator))
        said = model.evaluate(x_t, y, torch.full((len(y), 1, 1, 1), t))
        if isinstance(model, Diffusion):
            kept = math.exp(-model.path.theta * t)
            said = (said - (1 - kept) * y) / kept
        waves = model.spectra.synthesise(said)
        scores += [-float(negative_si_snr(a[None], b[None])) for a, b in zip(waves, x_wave, strict=True)]
    return mean(scores)


if __name__ == "__main__":
    main()
