"""Distillation of the output: the student's spectrum follows the teacher's everywhere."""

from __future__ import annotations

from torch import Tensor

from sekd.losses.signals import stft


def output_l2(estimate: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of linear magnitudes, STFT 512/128; waveforms ``(batch, sample)`` at 16 kHz."""
    return output_l2_spectral(stft(estimate).abs(), stft(teacher.detach()).abs())


def output_l2_spectral(enhanced: Tensor, teacher: Tensor) -> Tensor:
    """``output_l2`` on magnitudes ``(batch, freq, frame)``."""
    return (enhanced - teacher).square().mean()
