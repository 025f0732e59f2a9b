"""What every student family is: a causal enhancer that runs on a whole signal or on one frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sekd.config import Frozen

SAMPLE_RATE = 16000
STATE_NAMES = ("conv_cache", "tra_cache", "inter_cache")  # the three that sherpa-onnx carries
CHUNK_FRAMES = 1000  # long signals go through in pieces, so that memory does not grow with them


class State(NamedTuple):
    """What an enhancer remembers between frames, each ``(batch, values)``; all zeros at the start."""

    conv_cache: Tensor
    tra_cache: Tensor
    inter_cache: Tensor


class Enhancer(nn.Module, ABC):
    """A network on complex STFT frames; ``frames`` is the only method that a family writes.

    Analysis frame ``t`` ends with hop ``t``, so nothing later than hop ``t`` reaches it. Both windows are the
    square root of a periodic Hann; their product, overlapped, is divided by its constant sum.
    """

    n_fft: int
    hop: int
    look_ahead_frames: int = 0
    config: Frozen  # what built it
    window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft).sqrt(), persistent=False)

    @abstractmethod
    def frames(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        """``(batch, freq, frame, 2)`` and a state in, the enhanced spectrum and the next state out."""

    @abstractmethod
    def state_sizes(self) -> tuple[int, int, int]:
        """Number of values of each state, in the order of ``State``."""

    @property
    def algorithmic_latency_ms(self) -> float:
        """Window plus look-ahead: how long a sample waits even if computing takes no time."""
        return 1000 * (self.n_fft + self.look_ahead_frames * self.hop) / SAMPLE_RATE

    @property
    def delay(self) -> int:
        """Samples between a hop fed to the stream and the same hop coming out enhanced."""
        return self.n_fft - self.hop + self.look_ahead_frames * self.hop

    def initial_state(self, batch: int = 1) -> State:
        like = next(self.parameters())
        return State(*(like.new_zeros(batch, size) for size in self.state_sizes()))

    def forward(self, noisy: Tensor) -> Tensor:
        """``(batch, sample)`` to ``(batch, sample)``, aligned: the delay of the stream is taken out."""
        spectrum = self.analyse(noisy)
        state = self.initial_state(noisy.shape[0])
        enhanced = []
        for piece in spectrum.split(CHUNK_FRAMES, dim=2):
            out, state = self.frames(piece, state)
            enhanced.append(out)
        return self.synthesise(torch.cat(enhanced, dim=2), noisy.shape[-1])

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame ``(batch, freq, 1, 2)``: what the exported ONNX computes."""
        return self.frames(frame, state)

    def analyse(self, signal: Tensor) -> Tensor:
        """``(batch, sample)`` to ``(batch, freq, frame, 2)``, with the frames that flush the last samples."""
        flush = self.n_fft - self.hop
        tail = -signal.shape[-1] % self.hop + flush
        padded = nn.functional.pad(signal, (flush, tail))
        windowed = padded.unfold(-1, self.n_fft, self.hop) * self.window
        return torch.view_as_real(torch.fft.rfft(windowed)).transpose(1, 2)

    def synthesise(self, spectrum: Tensor, samples: int) -> Tensor:
        """``(batch, freq, frame, 2)`` to the ``samples`` that ``analyse`` began with, ``(batch, sample)``."""
        windows = torch.fft.irfft(torch.view_as_complex(spectrum.transpose(1, 2).contiguous())) * self.window
        length = (spectrum.shape[2] - 1) * self.hop + self.n_fft
        added = nn.functional.fold(windows.transpose(1, 2), (1, length), (1, self.n_fft), stride=(1, self.hop)).reshape(
            windows.shape[0], length
        )
        flush = self.n_fft - self.hop
        return added[:, flush : flush + samples] * (2 * self.hop / self.n_fft)

    def weight_bytes(self) -> int:
        """Bytes of all that the device must store: parameters and fixed matrices, as float32."""
        fixed = [value for name, value in self.named_buffers() if name != "window"]
        return 4 * sum(value.numel() for value in [*self.parameters(), *fixed])

    def state_bytes(self) -> int:
        """Bytes of streaming state, as float32."""
        return 4 * sum(int(size) for size in self.state_sizes())


def keep_denormals() -> None:
    """Undoes what onnxruntime leaves behind: a session may have this thread round tiny numbers to zero ever after,
    which changes the bits of whatever is trained next."""
    torch.set_flush_denormal(False)
