"""Losses on a path against plain loops over complex bins."""

from __future__ import annotations

import pytest
import torch
from path_signals import column, points
from torch import Tensor

from sekd.generative.learning import Walked
from sekd.generative.preconditioning import weight_as_published
from sekd.losses import TERMS, LossConfig
from sekd.losses.path import consistency, denoising
from sekd.losses.signals import Signals


def complex_errors(output: Tensor, target: Tensor) -> Tensor:
    """``|D - mu|^2`` of complex bins (batch, freq, frame)."""
    return torch.complex(*(output - target).unbind(1)).abs() ** 2


def test_denoising_weighs_each_example_by_its_time():
    output, target, _ = points((3, 2, 5, 4))
    weight = column(100.0, 3.0, 0.5)
    by_loops = 0.0
    for each in range(3):
        for bin_error in complex_errors(output, target)[each].flatten().tolist():
            by_loops += 0.5 * float(weight[each]) * bin_error / 3
    assert float(denoising(output, target, weight)) == pytest.approx(by_loops, rel=1e-5)


def test_the_published_code_weighs_by_a_quirk_of_broadcasting():
    """Weights ``[B, 1, 1, 1]`` indexed once more meet errors ``[B, C, F, T]`` as ``[B, 1, 1, B, C, F, T]``."""
    output, target, _ = points((3, 2, 5, 4))
    weight = column(100.0, 3.0, 0.5)
    errors = complex_errors(output, target)
    by_loops = 0.0
    for w in weight.flatten().tolist():
        for each in range(3):
            by_loops += 0.5 * w * float(errors[each].sum()) / 3
    literal = (weight[:, None, None, None] * errors[:, None]).reshape(3, -1).sum(1).mul(0.5).mean()
    found = float(denoising(output, target, weight_as_published(weight)))
    assert found == pytest.approx(by_loops, rel=1e-5) == float(literal)


def test_consistency_is_the_mean_over_complex_bins():
    output, target, _ = points((3, 2, 5, 4))
    wanted = float(complex_errors(output, target).mean())
    assert float(consistency(output, target, torch.ones(3, 1, 1, 1))) == pytest.approx(wanted, rel=1e-5)


def test_the_term_of_denoising_counts_each_bin_alike_whatever_the_length():
    output, target, _ = points((3, 2, 5, 4))
    weight = column(100.0, 3.0, 0.5)
    values = []
    for times in (1, 7):
        walked = [part.repeat(1, 1, 1, times) for part in (output, target)]
        signals = Signals(None, torch.zeros(3, 9), torch.zeros(3, 9), walked=Walked(*walked, weight))
        values.append(float(TERMS["denoising"].compute(signals, LossConfig())))
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] == pytest.approx(float(denoising(output, target, weight)) / 20, rel=1e-6)
