"""What a network meets on a stream, step by step: its inputs and the states that its own steps left behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sekd.audio import SAMPLE_RATE
from sekd.errors import InputError
from sekd.streaming import OnnxEnhancer


class StreamReader:
    """Feeds of a float file over signals; what onnxruntime's calibration calls a data reader.

    The states are what the network computed from the hops before: calibrated on zeros, its ranges would be wrong
    from the second hop on. Every signal begins with the states of a stream's beginning.

    Raises:
        InputError: there is no sound in ``audio``.
    """

    def __init__(self, path: Path, audio: Iterable[np.ndarray], *, seconds: float) -> None:
        enhancer = OnnxEnhancer(path)
        self._feeds = _feeds(enhancer, first_seconds(audio, seconds, hop=enhancer.hop))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _feeds(enhancer: OnnxEnhancer, signals: Iterable[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for signal in signals:
        stream = enhancer.fork()
        for at in range(0, len(signal) - stream.hop + 1, stream.hop):
            noisy = stream.stream.analyse(signal[at : at + stream.hop])
            yield stream.feeds(noisy)
            stream.step(noisy)


def first_seconds(
    audio: Iterable[np.ndarray], seconds: float, *, hop: int, rate: int = SAMPLE_RATE
) -> list[np.ndarray]:
    """The beginning of ``audio``, which may be endless; signals without sound or a whole hop are left out.

    Raises:
        InputError: there is none.
    """
    left = max(round(seconds * rate), hop)
    signals: list[np.ndarray] = []
    for signal in audio:
        if len(signal) >= hop and signal.any():
            signals.append(signal[:left].astype(np.float32, copy=False))
            left -= len(signals[-1])
        if left < hop:
            break
    if not signals:
        raise InputError("deploy.dtype = 'int8_static' takes its ranges from noisy training audio, and there is none")
    return signals
