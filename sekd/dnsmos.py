"""DNSMOS P.835 (Reddy et al. 2022): how good a signal sounds overall, judged without its clean part.

The network is the one in the wheel of the package ``speechmos``, whose own code also computes P.808, which nobody here
reads, and imports librosa for it. OVRL alone is the same number at a fraction of the cost.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sekd.errors import InputError

RATE = 16_000
WINDOW_S = 9.01
POLYNOMIAL = (-0.06766283, 1.11546468, 0.04602535)  # raw OVRL to the scale of listeners, as published


def ovrl(audio: np.ndarray) -> float:
    """OVRL of ``(sample,)`` at 16 kHz: the mean over windows of 9.01 s, one begun every second; shorter signals are
    doubled until they hold one. Equals ``speechmos.dnsmos.run``."""
    period, windows = len(audio), _windows(len(audio))
    known: dict[int, float] = {}  # a doubled signal repeats itself, and so do its windows
    for start, _ in windows:
        if start % period not in known:
            known[start % period] = _judged(audio, start % period)
    return float(np.mean([known[start % period] for start, _ in windows]))


def _windows(samples: int) -> list[tuple[int, int]]:
    """First and last sample of each window, rounding as the published code does."""
    length = int(WINDOW_S * RATE)
    while samples < length:
        samples *= 2
    count = int(np.floor(samples / RATE) - WINDOW_S) + 1
    spans = [(k * RATE, min(samples, int((k + WINDOW_S) * RATE))) for k in range(count)]
    return [(first, last) for first, last in spans if last - first >= length]


def _judged(audio: np.ndarray, start: int) -> float:
    length = int(WINDOW_S * RATE)
    window = np.take(audio, np.arange(start, start + length), mode="wrap")
    raw = _session().run(None, {"input_1": window.astype(np.float32)[None]})[0][0][2]
    return float(np.polyval(POLYNOMIAL, raw))


def model_file() -> Path:
    """The network in the installed wheel.

    Raises:
        InputError: speechmos is not installed.
    """
    spec = find_spec("speechmos")  # found, not imported
    if spec is None or not spec.submodule_search_locations:
        raise InputError("DNSMOS needs the package speechmos: pip install speechmos")
    return Path(spec.submodule_search_locations[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"


@lru_cache(maxsize=1)
def _session() -> Any:
    import onnxruntime  # here: wanted only when judging

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model_file()), options, providers=["CPUExecutionProvider"])
