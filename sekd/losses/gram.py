"""Distillation of features: similarities between the signals of a batch (Daod Nathoo et al. 2024, section 2.3).

A Gram matrix compares every signal of a batch with every other, hence the channels of teacher and student need
not agree: only frames and frequencies do. Activations are ``(batch, channel, frame, freq)``, one for each block;
gradients flow to ``student`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["g", "g_t", "g_f", "g_tf"]
Normalize = Literal["row"] | None
Reduction = Literal["sum", "mean"]

FLOW_KINDS = ("g_tf", "g_t")
CACHED_VALUES = 2**18  # of the matrices compared at once, about a megabyte
EPSILON = 1e-12  # a row of zeros stays a row of zeros

# From (batch, channel, frame, freq) to what stands side by side, then (batch, values) to compare.
_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "g": lambda x: x.flatten(1),
    "g_t": lambda x: x.permute(2, 0, 1, 3).flatten(2),
    "g_f": lambda x: x.permute(3, 0, 1, 2).flatten(2),
    "g_tf": lambda x: x.permute(2, 3, 0, 1),
}


def similarity_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    kind: Kind = "g_tf",
    normalize: Normalize = "row",
    reduction: Reduction = "sum",
) -> Tensor:
    """Squared difference of Gram matrices over all blocks, divided by the squared batch size (eq. 1); a scalar.

    Args:
        kind: what each matrix is of: ``g`` whole signals, ``g_t`` each frame (as in CLSKD, Cheng et al. 2022),
            ``g_f`` each frequency, ``g_tf`` each frequency of each frame.
        normalize: ``row`` divides each row of a matrix by its L2 norm, so that a student need not match the
            teacher's energy (Tung and Mori 2019); ``None`` is the literal equation.
        reduction: ``sum`` over a block's matrices is the literal equation; ``mean`` does not grow with frames and
            frequencies.

    Raises:
        ValueError: blocks differ in number, batch, frames or frequencies.
    """
    _check(student, teacher)
    batch = len(student[0])
    total = student[0].new_zeros(())
    for ours, theirs in zip(student, teacher, strict=True):
        x, wanted = (_LAYOUTS[kind](side) for side in (ours, theirs.detach()))
        count = x.shape[:-2].numel()
        x, wanted = (side.reshape(count, batch, -1).contiguous() for side in (x, wanted))
        difference = _GramDistance.apply(x, wanted, normalize)
        total = total + (difference / count if reduction == "mean" else difference)
    return total / batch**2


class _GramDistance(torch.autograd.Function):
    """Sum of squared differences between the Gram matrices of two tensors ``(matrix, batch, values)``.

    Matrices go through a few at a time, value and gradient together, so that they stay in the processor's cache:
    all at once they take a hundred times the memory of what they are made of. A row of zeros has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, wanted: Tensor, normalize: Normalize) -> Tensor:
        total = x.new_zeros(())
        gradients = []
        at_once = max(1, CACHED_VALUES // x.shape[1] ** 2)
        for ours, theirs in zip(x.split(at_once), wanted.split(at_once), strict=True):
            value, slope = _distance_and_slope(ours @ ours.mT, gram(theirs, normalize), normalize)
            total += value
            gradients.append((slope + slope.mT) @ ours)
        ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * outer[0], None, None


def _distance_and_slope(products: Tensor, wanted: Tensor, normalize: Normalize) -> tuple[Tensor, Tensor]:
    """The squared distance of (then normalised) ``products`` from ``wanted``, and its derivative by ``products``."""
    if normalize is None:
        difference = products - wanted
        return torch.linalg.vector_norm(difference).square(), 2 * difference
    length = torch.linalg.vector_norm(products, dim=-1, keepdim=True)
    inverse = torch.where(length > EPSILON, 1 / length, 0)
    unit = products * inverse
    cosine = (unit.unsqueeze(-2) @ wanted.unsqueeze(-1)).squeeze(-1)
    # A row changes only across its own direction: its length is divided out.
    slope = (unit * cosine - wanted) * (2 * inverse)
    return torch.linalg.vector_norm(unit - wanted).square(), slope


def flow_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    kind: Literal["g_tf", "g_t"] = "g_tf",
    normalize: Normalize = "row",
    reduction: Reduction = "sum",
) -> Tensor:
    """Squared difference of flow matrices, products of the Gram matrices of every two blocks (eq. 2); a scalar.

    Args and errors as for ``similarity_loss``; all blocks have the same frames.
    """
    if kind not in FLOW_KINDS:
        raise ValueError(f"flow of kind {kind!r}: only {' and '.join(FLOW_KINDS)}")
    _check(student, teacher)
    batch = len(student[0])
    ours = [_flow_side(x, kind, normalize) for x in student]
    with torch.no_grad():
        theirs = [_flow_side(x, kind, normalize) for x in teacher]
    total = student[0].new_zeros(())
    for i, j in combinations(range(len(ours)), 2):
        with torch.no_grad():
            wanted = theirs[i] @ theirs[j].mT
        difference = (ours[i] @ ours[j].mT - wanted).square().sum()
        count = wanted.numel() // batch**2 if kind == "g_t" else wanted.numel() // batch
        total = total + (difference / count if reduction == "mean" else difference)
    return total / batch**2


def gram(x: Tensor, normalize: Normalize) -> Tensor:
    """``(..., batch, values)`` to ``(..., batch, batch)``."""
    products = x @ x.mT
    return products if normalize is None else torch.nn.functional.normalize(products, dim=-1, eps=EPSILON)


def _flow_side(x: Tensor, kind: str, normalize: Normalize) -> Tensor:
    """What one block brings to its flow matrices: ``(frame, batch, batch)``, or ``(frame, batch, freq, batch)``."""
    matrices = gram(_LAYOUTS[kind](x), normalize)
    return matrices if kind == "g_t" else matrices.transpose(1, 2)


def _check(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    if not student or len(student) != len(teacher):
        raise ValueError(f"{len(student)} blocks of the student against {len(teacher)} of the teacher")
    for number, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        have, wanted = ((x.shape[0], *x.shape[2:]) for x in (ours, theirs))
        if have != wanted:
            raise ValueError(f"block {number}: (batch, frame, freq) is {have} in the student, {wanted} in the teacher")
