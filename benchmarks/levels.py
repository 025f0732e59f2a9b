"""How a model's gain depends on how loud its input is: ``python -m benchmarks.levels MODEL PAIRS_DIR``.

SI-SDR of the enhanced pairs with the mixture scaled to -45, -30 and -15 dBFS, and of 90 s made of the pairs one after
the other whose level jumps by 20 dB and back every 30 s.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sekd.audio import SAMPLE_RATE, read_audio, rms_dbfs
from sekd.evaluate import find_pairs
from sekd.metrics import si_sdr_db
from sekd.streaming import HopEnhancer
from sekd.torch_enhancer import load_enhancer

LEVELS_DBFS = (-45.0, -30.0, -15.0)
LONG_S = 90


def main(model: str, folder: str) -> None:
    enhancer = load_enhancer(Path(model))
    paths = find_pairs(Path(folder))[0]
    pairs = [tuple(read_audio(path) for path in both) for both in paths.values()]
    unprocessed = np.mean([_score(noisy, clean) for noisy, clean in pairs])
    print(f"{len(pairs)} pairs, unprocessed: SI-SDR {unprocessed:.2f} dB")
    for level in LEVELS_DBFS:
        scores = [_score(_at(enhancer, noisy, level), clean) for noisy, clean in pairs]
        print(f"mixture at {level:g} dBFS: SI-SDR {np.mean(scores):.2f} dB")
    _long(enhancer, pairs)


def _score(estimate: np.ndarray, target: np.ndarray) -> float:
    value = si_sdr_db(estimate, target)
    return float("nan") if value is None else value


def _at(enhancer: HopEnhancer, noisy: np.ndarray, level_dbfs: float) -> np.ndarray:
    gain = 10 ** ((level_dbfs - rms_dbfs(noisy)) / 20)
    return enhancer.enhance((noisy * gain).astype(np.float32))


def _long(enhancer: HopEnhancer, pairs: list) -> None:
    noisy, clean = (np.concatenate(part)[: LONG_S * SAMPLE_RATE] for part in zip(*pairs, strict=True))
    third = LONG_S // 3 * SAMPLE_RATE
    gain = np.ones(len(noisy), np.float32)
    gain[third : 2 * third] = 0.1
    enhanced = enhancer.enhance(noisy * gain) / gain
    for k, name in enumerate(("0-30 s", "30-60 s, 20 dB down", "60-90 s")):
        part = slice(k * third, (k + 1) * third)
        before, after = _score(noisy[part], clean[part]), _score(enhanced[part], clean[part])
        print(f"long file, {name}: SI-SDR {before:.2f} dB unprocessed, {after:.2f} dB enhanced")


if __name__ == "__main__":
    main(*sys.argv[1:])
