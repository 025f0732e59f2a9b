"""The signals of one training step, and their spectra, each computed once however many terms read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sekd.generative.learning import Walked
from sekd.losses.gating import Ovrl

SILENCE = 1e-8  # RMS below which a mixture is not scaled up: digital silence stays silence

Name = Literal["estimate", "target", "noisy", "teacher"]
Level = Literal["mixture", "raw"]


def stft(signal: Tensor, n_fft: int = 512, hop: int = 128, *, window: str = "hann") -> Tensor:
    """Complex spectrum ``(batch, freq, frame)`` of ``(batch, sample)``: centred, reflected, not normalised."""
    shape = torch.hann_window(n_fft, device=signal.device, dtype=signal.dtype)
    return torch.stft(signal, n_fft, hop, window=shape.sqrt() if window == "hann_sqrt" else shape, return_complex=True)


class Signals:
    """Waveforms ``(batch, sample)`` of one step; gradients flow to ``estimate``, the student's features and its
    gates alone.

    ``level="mixture"`` divides all of them by the RMS of each mixture, so that no loss depends on how loud a
    recording is; ``"raw"`` leaves them as they are.
    """

    def __init__(
        self,
        estimate: Tensor | None,
        target: Tensor,
        noisy: Tensor,
        teacher: Tensor | None = None,
        *,
        level: Level = "mixture",
        features: tuple[Sequence[Tensor], Sequence[Tensor]] = ((), ()),
        progress: float = 0.0,
        gates: Sequence[Tensor] = (),
        ovrl: Ovrl | None = None,
        walked: Walked | None = None,
    ) -> None:
        self._walked = walked
        self.features = features  # of student and teacher, block by block, (batch, channel, frame, freq)
        self.progress = progress  # share of the training done
        self._gates = gates  # of the student, piece by piece of a long signal
        self.ovrl = ovrl  # of the noisy signals
        noisy = noisy.detach()
        scale = torch.ones_like(noisy[:, :1])
        if level == "mixture":
            rms = noisy.square().mean(-1, keepdim=True).sqrt()
            scale = torch.where(rms > SILENCE, 1 / rms.clamp(min=SILENCE), scale)
        self._waves: dict[str, Tensor] = {
            "target": target.detach() * scale,
            "noisy": noisy * scale,
        }
        if estimate is not None:
            self._waves["estimate"] = estimate * scale
        if teacher is not None:
            self._waves["teacher"] = teacher.detach() * scale
        self._spectra: dict[tuple[str, int, int, str], Tensor] = {}
        self._magnitudes: dict[tuple[str, int, int, str], Tensor] = {}

    @property
    def gated(self) -> bool:
        return len(self._gates) > 0

    @property
    def gates(self) -> Tensor:
        """Zeros and ones ``(batch, gate, frame)``, with the gradient of the policy's."""
        return torch.cat(list(self._gates), dim=2)

    @property
    def walked(self) -> Walked:
        """What a network on a path said, and what it should have said."""
        assert self._walked is not None
        return self._walked

    def wave(self, name: Name) -> Tensor:
        return self._waves[name]

    def spectrum(self, name: Name, n_fft: int = 512, hop: int = 128, window: str = "hann") -> Tensor:
        key = (name, n_fft, hop, window)
        if key not in self._spectra:
            self._spectra[key] = stft(self._waves[name], n_fft, hop, window=window)
        return self._spectra[key]

    def magnitude(self, name: Name, n_fft: int = 512, hop: int = 128, window: str = "hann") -> Tensor:
        key = (name, n_fft, hop, window)
        if key not in self._magnitudes:
            self._magnitudes[key] = self.spectrum(name, n_fft, hop, window).abs()
        return self._magnitudes[key]
