"""Similarity and flow losses: check values, the equations written out, and their own gradient."""

from __future__ import annotations

import math

import pytest
import torch

from sekd.losses import TERMS, LossConfig
from sekd.losses.gram import flow_loss, gram, similarity_loss
from sekd.losses.signals import Signals


def activations(shape: tuple[int, ...], phase: float) -> torch.Tensor:
    """The activations of the check values."""
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(0.37 * n + phase) + 0.5 * torch.cos(0.11 * n * (1 + 0.1 * phase))).reshape(shape)


@pytest.fixture
def student() -> list[torch.Tensor]:
    return [activations((3, 2, 4, 5), 1.7), activations((3, 3, 4, 3), 2.2)]


@pytest.fixture
def teacher() -> list[torch.Tensor]:
    return [activations((3, 6, 4, 5), 0.3), activations((3, 8, 4, 3), 0.9)]


PUBLISHED = {
    "g": (4743.665156464, 0.734742438),
    "g_t": (1311.261805513, 3.432469748),
    "g_tf": (320.572831164, 15.031337883),
}


@pytest.mark.parametrize("kind, values", PUBLISHED.items())
def test_similarities_have_the_published_values(student, teacher, kind, values):
    found = [float(similarity_loss(student, teacher, kind=kind, normalize=n)) for n in (None, "row")]
    assert found == pytest.approx(values, abs=1e-9)
    single = [[x.float() for x in side] for side in (student, teacher)]
    assert float(similarity_loss(*single, kind=kind)) == pytest.approx(values[1], rel=1e-5)


def test_flow_has_the_published_values(student, teacher):
    found = [float(flow_loss(student, teacher, kind="g_t", normalize=n)) for n in (None, "row")]
    assert found == pytest.approx([58059.278028373, 0.581016932], abs=1e-9)


def test_gram_matrices_of_parts_add_up_to_that_of_the_whole(student):
    x = student[0]
    whole = gram(x.flatten(1), None)
    frames = gram(x.permute(2, 0, 1, 3).flatten(2), None).sum(0)
    freqs = gram(x.permute(3, 0, 1, 2).flatten(2), None).sum(0)
    cells = gram(x.permute(2, 3, 0, 1), None).sum((0, 1))
    for parts in (frames, freqs, cells):
        assert torch.allclose(parts, whole, rtol=1e-12)


def written_out(student, teacher, kind: str, normalize) -> torch.Tensor:
    """Equation 1 with one matrix after the other."""
    total = torch.zeros((), dtype=torch.float64)
    cuts = {
        "g": lambda x: [x],
        "g_t": lambda x: x.unbind(2),
        "g_f": lambda x: x.unbind(3),
        "g_tf": lambda x: [cell for frame in x.unbind(2) for cell in frame.unbind(2)],
    }
    for ours, theirs in zip(student, teacher, strict=True):
        for a, b in zip(cuts[kind](ours), cuts[kind](theirs), strict=True):
            matrices = [part.flatten(1) @ part.flatten(1).T for part in (a, b)]
            if normalize:
                matrices = [m / m.norm(dim=1, keepdim=True).clamp(min=1e-12) for m in matrices]
            total = total + (matrices[0] - matrices[1]).square().sum()
    return total / len(student[0]) ** 2


@pytest.mark.parametrize("normalize", [None, "row"])
@pytest.mark.parametrize("kind", ["g", "g_t", "g_f", "g_tf"])
def test_value_and_gradient_are_those_of_the_equation(student, teacher, kind, normalize, monkeypatch):
    monkeypatch.setattr("sekd.losses.gram.CACHED_VALUES", 27)  # three matrices at once, so that there are several goes
    student = [x.requires_grad_() for x in student]
    ours = similarity_loss(student, teacher, kind=kind, normalize=normalize)
    wanted = written_out(student, teacher, kind, normalize)
    assert float(ours.detach()) == pytest.approx(float(wanted.detach()), rel=1e-12)
    pairs = zip(torch.autograd.grad(3 * ours, student), torch.autograd.grad(3 * wanted, student), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs)


def test_flow_of_cells_is_the_product_of_rows(student, teacher):
    """G_tf flow: for each frame and signal, every frequency of one block against every one of the other."""
    sides = []
    for blocks in (student, teacher):
        one, two = (gram(x.permute(2, 3, 0, 1), None) for x in blocks)
        sides.append(torch.einsum("tfbd,tgbd->tbfg", one, two))
    wanted = (sides[0] - sides[1]).square().sum() / 9
    assert float(flow_loss(student, teacher, normalize=None)) == pytest.approx(float(wanted), rel=1e-12)


def test_channels_may_differ_and_nothing_else(student, teacher):
    with pytest.raises(ValueError, match="1 blocks of the student against 2"):
        similarity_loss(student[:1], teacher)
    with pytest.raises(ValueError, match=r"block 1: .*\(3, 4, 2\) in the student, \(3, 4, 3\)"):
        similarity_loss([student[0], student[1][..., :2]], teacher)
    with pytest.raises(ValueError, match="flow of kind 'g'"):
        flow_loss(student, teacher, kind="g")


def test_the_mean_is_the_sum_over_the_number_of_matrices(student, teacher):
    means = similarity_loss(student, teacher, reduction="mean")
    sums = [similarity_loss([s], [t]) / (4 * s.shape[3]) for s, t in zip(student, teacher, strict=True)]
    assert float(means) == pytest.approx(float(sum(sums)), rel=1e-12)


def test_equal_features_cost_nothing_and_silent_ones_have_no_gradient(student, teacher):
    assert float(similarity_loss(teacher, teacher)) == pytest.approx(0, abs=1e-12)
    silent = [torch.zeros_like(x, requires_grad=True) for x in student]
    loss = similarity_loss(silent, teacher)
    loss.backward()
    assert bool(loss.isfinite()) and not any(x.grad.any() for x in silent)


@pytest.mark.parametrize("name", ["similarity", "flow"])
def test_terms_read_the_features_of_both_and_teach_the_student_alone(student, teacher, name):
    own, theirs = ([x.requires_grad_() for x in side] for side in (student, teacher))
    waves = [torch.randn(3, 4000) for _ in range(3)]
    TERMS[name].compute(Signals(*waves, features=(own, theirs)), LossConfig()).backward()
    assert all(x.grad is not None for x in own) and all(x.grad is None for x in theirs)
