"""Resampling a stream of blocks in constant memory, equal to resampling the whole signal at once."""

from __future__ import annotations

import math

import numpy as np

_ZERO_CROSSINGS = 32  # of the sinc, on each side
_CUTOFF = 0.93  # of the lower Nyquist frequency; the pass band ends at 0.85 of it, the stop band begins at 1.01
_KAISER_BETA = 8.0  # 80 dB of stop band


class StreamResampler:
    """Polyphase resampler with carried overlap: feed blocks to `push`, then call `flush` once.

    The filter is symmetric and its delay is taken out, so output sample ``m`` belongs to the time
    ``m / to_hz``; all in all ``ceil(samples * to_hz / from_hz)`` samples come out. Every output sample
    is a sum over the same inputs whatever the block sizes; zeros give exact zeros.
    """

    def __init__(self, from_hz: int, to_hz: int):
        from scipy.signal import firwin  # here: scipy.signal takes a second to import

        common = math.gcd(from_hz, to_hz)
        self.up, self.down = to_hz // common, from_hz // common
        widest = max(self.up, self.down)
        self._half = _ZERO_CROSSINGS * widest
        taps = firwin(2 * self._half + 1, _CUTOFF / widest, window=("kaiser", _KAISER_BETA)) * self.up
        # Padded in front so that the filter's centre falls on an output sample of upfirdn.
        self._centre = -(-self._half // self.down) * self.down
        self._taps = np.concatenate([np.zeros(self._centre - self._half), taps])
        self._buffer = np.zeros(0, np.float32)
        self._start = 0  # index of the first buffered input, a multiple of `down`
        self._received = 0
        self._produced = 0

    def push(self, block: np.ndarray) -> np.ndarray:
        """``block`` (sample,) in, the output samples (sample,) that no later input can change."""
        self._buffer = np.concatenate([self._buffer, block.astype(np.float32, copy=False)])
        self._received += len(block)
        # Output m needs the inputs k with |m * down - k * up| <= half.
        known = (self._received * self.up - self._half - 1) // self.down + 1
        return self._produce(known)

    def flush(self) -> np.ndarray:
        """The rest (sample,), as if zeros followed."""
        return self._produce(-(-self._received * self.up // self.down))

    def _produce(self, until: int) -> np.ndarray:
        if until <= self._produced:
            return np.zeros(0, np.float32)
        from scipy.signal import upfirdn

        offset = self._centre // self.down - self._start // self.down * self.up
        filtered = upfirdn(self._taps, self._buffer.astype(np.float64), self.up, self.down)
        out = filtered[self._produced + offset : until + offset].astype(np.float32)
        self._produced = until
        self._forget()
        return out

    def _forget(self) -> None:
        """Drops the inputs that the next output does not reach, in steps of ``down`` to keep the phase."""
        first_needed = max(0, -(-(self._produced * self.down - self._half) // self.up))
        start = first_needed // self.down * self.down
        self._buffer = self._buffer[start - self._start :]
        self._start = start
