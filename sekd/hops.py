"""Enhancing one hop after the other: what a network takes of a stream, frames or waves, and the base of what runs."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Literal, Self

import numpy as np

WindowType = Literal["hann_sqrt", "hann"]
INPUT_NAMES = {"spectrum": "mix", "wave": "wave"}  # contract to what a network's input is called in ONNX


def periodic_window(kind: WindowType, length: int) -> np.ndarray:
    """Periodic Hann window (length,) or its square root; float64."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return np.sqrt(hann) if kind == "hann_sqrt" else hann


class HopStream(ABC):
    """One hop of samples in, what a network takes out; what it gives in, one hop of samples out, ``delay`` later.

    ``pack`` and ``unpack`` go between that and the float32 tensor of ``shape`` that a network has as input and output.
    """

    hop: int
    delay: int
    shape: tuple[int, ...]

    @abstractmethod
    def reset(self) -> None:
        """Forgets the stream; binds new arrays, since copies share the old ones."""

    @property
    @abstractmethod
    def silent(self) -> bool:
        """Whether all that the newest output hop stems from is nothing but zeros."""

    @abstractmethod
    def analyse(self, samples: np.ndarray) -> np.ndarray:
        """Samples (hop,) to what is enhanced."""

    @abstractmethod
    def synthesise(self, enhanced: np.ndarray) -> np.ndarray:
        """What was enhanced to the finished samples (hop,), float32."""

    def pack(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32, copy=False).reshape(self.shape)

    def unpack(self, tensor: np.ndarray) -> np.ndarray:
        return tensor.reshape(-1)


class StreamingWave(HopStream):
    """Hops of samples as they are, for networks without an STFT.

    What a sample of the output stems from ends ``delay`` samples later at most. It begins as much earlier, as with
    filters that overlap, or a hop earlier, where segments do: the first of a hop still hold the end of the one before.
    """

    def __init__(self, hop: int, delay: int):
        if hop < 1 or delay < 0:
            raise ValueError(f"hop {hop} and delay {delay} do not fit")
        self.hop, self.delay, self.shape = hop, delay, (1, hop)
        self.reset()

    def reset(self) -> None:
        self._recent = np.zeros(max(self.hop, self.delay) + self.hop + self.delay, np.float32)

    @property
    def silent(self) -> bool:
        return not self._recent.any()

    def analyse(self, samples: np.ndarray) -> np.ndarray:
        self._recent = np.concatenate([self._recent[self.hop :], samples])
        return samples

    def synthesise(self, enhanced: np.ndarray) -> np.ndarray:
        return enhanced


class StreamingStft(HopStream):
    """Short-time Fourier transform of a stream and back; one hop in, one hop out, nothing looked ahead.

    Frame ``t`` covers the last ``n_fft`` samples up to the end of hop ``t``, zeros before the start. The
    same window weighs analysis and synthesis, and the overlap-add is divided by the periodic sum of its
    square (``n_fft / 2 hop`` for the square root of Hann), so an unchanged spectrum gives the input back
    (Griffin and Lim 1984, eq. 6), ``delay`` samples later.
    """

    def __init__(self, n_fft: int, hop: int, window: np.ndarray):
        if not 0 < hop <= n_fft or window.shape != (n_fft,):
            raise ValueError(f"hop {hop} and window {window.shape} do not fit n_fft {n_fft}")
        periods = np.zeros(-(-n_fft // hop) * hop)
        periods[:n_fft] = window**2
        weight = periods.reshape(-1, hop).sum(axis=0)
        if weight.min() < 1e-6:
            raise ValueError(f"windows of {n_fft} samples do not overlap enough at hop {hop}")
        self.n_fft, self.hop = n_fft, hop
        self.delay = n_fft - hop
        self.shape = (1, n_fft // 2 + 1, 1, 2)
        self._window = window.astype(np.float32)
        self._weight = weight.astype(np.float32)
        self.reset()

    def reset(self) -> None:
        """Forgets the stream."""
        self._recent = np.zeros(self.n_fft, np.float32)
        self._overlap = np.zeros(self.n_fft, np.float32)

    @property
    def silent(self) -> bool:
        """Whether the newest frame holds nothing but zeros."""
        return not self._recent.any()

    def analyse(self, samples: np.ndarray) -> np.ndarray:
        """Samples (hop,) to the spectrum (n_fft / 2 + 1,), complex64."""
        self._recent[: -self.hop] = self._recent[self.hop :]
        self._recent[-self.hop :] = samples
        return np.fft.rfft(self._recent * self._window).astype(np.complex64, copy=False)

    def synthesise(self, spectrum: np.ndarray) -> np.ndarray:
        """Spectrum (n_fft / 2 + 1,) to the finished samples (hop,), float32."""
        frame = np.fft.irfft(spectrum, self.n_fft).astype(np.float32, copy=False)
        self._overlap[: -self.hop] = self._overlap[self.hop :]
        self._overlap[-self.hop :] = 0
        self._overlap += frame * self._window
        return self._overlap[: self.hop] / self._weight

    def pack(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.complex64, copy=False).view(np.float32).reshape(self.shape)

    def unpack(self, tensor: np.ndarray) -> np.ndarray:
        return tensor.reshape(-1).view(np.complex64)


class HopEnhancer(ABC):
    """An enhancer that takes one hop and gives one back, `delay` samples late; the state lies inside.

    A subclass calls ``super().__init__`` and defines `step` and `reset`. `reset` must bind new state
    instead of zeroing arrays in place, and call ``super().reset()``: `fork` copies the object shallowly,
    so that streams share the network and nothing else.
    """

    def __init__(self, sample_rate: int, stream: HopStream):
        self.sample_rate = sample_rate
        self.stream = stream

    @abstractmethod
    def step(self, noisy: np.ndarray) -> np.ndarray:
        """What ``stream.analyse`` gives, enhanced: a spectrum (n_fft / 2 + 1,) complex64 or samples (hop,)."""

    @property
    def hop(self) -> int:
        """Samples per hop."""
        return self.stream.hop

    @property
    def delay(self) -> int:
        """Samples by which the output of `process` trails its input."""
        return self.stream.delay

    def reset(self) -> None:
        """Back to the beginning of a stream."""
        self.stream.reset()

    def fork(self) -> Self:
        """The same network at the beginning of another stream (a second channel, another file)."""
        twin = copy.copy(self)
        twin.stream = copy.copy(self.stream)
        twin.reset()
        return twin

    def process(self, samples: np.ndarray) -> np.ndarray:
        """Noisy samples (hop,) to enhanced samples (hop,), float32.

        A frame of digital silence stays silent whatever the network makes of it.
        """
        if samples.shape != (self.hop,):
            raise ValueError(f"expected {self.hop} samples, got {samples.shape}")
        enhanced = self.step(self.stream.analyse(samples))
        return self.stream.synthesise(np.zeros_like(enhanced) if self.stream.silent else enhanced)

    def enhance(self, noisy: np.ndarray) -> np.ndarray:
        """A whole signal (sample,) to its enhanced version (sample,), aligned, float32."""
        stream = AlignedStream(self.fork())
        return np.concatenate([stream.push(noisy), stream.flush()])


class AlignedStream:
    """Blocks of any size in, enhanced samples out that align with them once the delay is taken out."""

    def __init__(self, enhancer: HopEnhancer):
        self._enhancer = enhancer
        self._pending = np.zeros(0, np.float32)
        self._skip = enhancer.delay
        self._received = self._sent = 0

    def push(self, block: np.ndarray) -> np.ndarray:
        """Noisy samples (sample,) to the enhanced samples (sample,) that are ready."""
        self._received += len(block)
        return self._run(block)

    def flush(self) -> np.ndarray:
        """The samples still owed, as if silence followed."""
        owed = self._received - self._sent
        missing = owed + self._skip - len(self._pending)
        hops = max(0, -(-missing // self._enhancer.hop)) + 1
        return self._run(np.zeros(hops * self._enhancer.hop, np.float32))[:owed]

    def _run(self, block: np.ndarray) -> np.ndarray:
        hop = self._enhancer.hop
        samples = np.concatenate([self._pending, block.astype(np.float32, copy=False)])
        whole = len(samples) // hop * hop
        self._pending = samples[whole:]
        hops = [self._enhancer.process(samples[at : at + hop]) for at in range(0, whole, hop)]
        out = np.concatenate([np.zeros(0, np.float32), *hops])
        skipped = min(self._skip, len(out))
        self._skip -= skipped
        self._sent += len(out) - skipped
        return out[skipped:]
