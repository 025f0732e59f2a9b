"""What a model hears while it is timed: a quarter each of silence, speech, speech in noise, and babble.

``audio.npz`` holds one second of each, 16 kHz, made of the embedded corpus by ``python -m benchmarks.timing_inputs``.
Silence is exact zeros: it drives recurrent states towards denormal numbers, which are slow on some processors.
"""

from __future__ import annotations

import io
import math
import pkgutil
from collections.abc import Sequence

import numpy as np

SAMPLE_RATE = 16000
KINDS = ("silence", "speech", "speech_in_noise", "babble")
FRAMES_OF_EACH = 32  # 128 frames, which is what screening times, hear each kind for a quarter of them


def data_file(name: str) -> bytes:
    """A file beside this one, also when all of it is one zip file."""
    content = pkgutil.get_data(__package__ or __name__, name)
    assert content is not None, name
    return content


def clips() -> dict[str, np.ndarray]:
    """Samples of one second by kind, between -1 and 1."""
    with np.load(io.BytesIO(data_file("audio.npz")), allow_pickle=False) as stored:
        kept = {kind: stored[kind].astype(np.float64) / 32768 for kind in KINDS if kind in stored}
    return {kind: kept.get(kind, np.zeros(SAMPLE_RATE)) for kind in KINDS}


def audio(each: int, sample_rate: int) -> np.ndarray:
    """``each`` samples of every kind, one kind after the other; a clip that is too short is repeated."""
    parts = []
    for clip in clips().values():
        length = round(len(clip) * sample_rate / SAMPLE_RATE)
        resampled = np.interp(np.linspace(0, len(clip) - 1, length), np.arange(len(clip)), clip)
        parts.append(np.resize(resampled, each))
    return np.concatenate(parts)


def signal_frames(shape: Sequence[int], metadata: dict[str, str]) -> np.ndarray:
    """What is fed in turn, ``(frame, *shape)``: spectra where the model takes ``[1, F, 1, 2]``, else samples."""
    rate = int(metadata.get("sample_rate", SAMPLE_RATE))
    if len(shape) == 4 and shape[0] == shape[2] == 1 and shape[3] == 2 and shape[1] > 1:
        return stft_frames(shape[1], int(metadata.get("hop_length", shape[1] - 1)), rate)
    return audio(FRAMES_OF_EACH * math.prod(shape), rate).reshape(-1, *shape)


def stft_frames(bins: int, hop: int, sample_rate: int) -> np.ndarray:
    """Spectra of all kinds, ``(frame, 1, bins, 1, 2)``."""
    n_fft = 2 * (bins - 1)
    signal = audio(FRAMES_OF_EACH * hop, sample_rate)
    frames = len(signal) // hop
    signal = np.concatenate([np.zeros(max(n_fft - hop, 0)), signal])  # the stream's past
    pieces = np.stack([signal[i * hop : i * hop + n_fft] for i in range(frames)])
    spectrum = np.fft.rfft(pieces * np.sqrt(np.hanning(n_fft + 1)[:-1]))
    return np.stack([spectrum.real, spectrum.imag], -1)[:, None, :, None, :]
