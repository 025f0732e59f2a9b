"""Gates of a dynamically slimmable network: which frames run all of it (Zhao, Yang and Madhu 2026, DSN).

Every convertible layer has a static slice, which always runs, and a dynamic one. A layer takes a ``Gate``:

* ``True``: all of it runs, nothing is masked. Gates removed.
* ``False``: the static slice alone; tensors hold only that.
* a tensor of zeros and ones, ``(batch, 1, frame, 1)``: all is computed and the dynamic slices are zero where the gate
  is. This is how a network trains, and what ``True`` and ``False`` must equal, frame by frame.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sekd.config import Frozen

Gate = Tensor | bool
Gates = Tensor | bool | list[bool]  # of all modules
Mode = Literal["random", "gumbel", "hard"]


class GateConfig(Frozen):
    """What is dynamic in a network, and who decides. ``frame``: one gate for all dynamic parts of a frame; ``module``:
    one for each. ``threshold``: of the probability, from which a gate is open; it acts after training."""

    static_share: float = Field(0.5, gt=0, lt=1)  # of the width of every layer, in whole groups or heads
    scope: Literal["frame", "module"] = "frame"
    threshold: float = Field(0.5, ge=0, le=1)
    bands: int = Field(16, ge=1)  # that the policy hears: averages of the network's features over frequency
    width: int = Field(24, ge=1)  # of the policy's fully connected layer
    hidden: int = Field(16, ge=1)  # of its GRU


class Gating(NamedTuple):
    """How gates are drawn in training. ``random``: open or shut for a whole signal, by a coin; ``gumbel``: hard samples
    whose gradient is that of the Gumbel-softmax (Jang et al. 2017) at ``temperature``; ``hard``: without noise."""

    mode: Mode
    temperature: float = 1.0


def static_width(width: int, share: float) -> int:
    """How many of ``width`` channels, groups or heads always run: at least one, and not all."""
    return min(max(1, round(share * width)), width - 1)


def drawn(logits: Tensor, gating: Gating | None, threshold: Tensor) -> Tensor:
    """Gates of 0 and 1 ``(batch, gate, frame)`` from logits (batch, gate, frame, 2) of open and shut; in training with
    the gradient of the soft ones."""
    logit = logits[..., 0] - logits[..., 1]
    if gating is None:
        return (torch.sigmoid(logit) >= threshold).to(logit.dtype)
    if gating.mode == "random":
        coins = torch.rand(logit.shape[0], 1, 1, device=logit.device) < 0.5
        return coins.to(logit.dtype).expand_as(logit)
    if gating.mode == "gumbel":
        # The difference of two Gumbel variables is a logistic one.
        uniform = torch.rand_like(logit).clamp(1e-6, 1 - 1e-6)
        logit = logit + torch.log(uniform) - torch.log1p(-uniform)
    soft = torch.sigmoid(logit / gating.temperature)
    hard = (logit >= 0).to(logit.dtype)
    return hard + soft - soft.detach()


def masked(x: Tensor, gate: Gate, static: int, dim: int = 1) -> Tensor:
    """``x`` with its channels from ``static`` on zero where the gate is."""
    if isinstance(gate, bool) or static == x.shape[dim]:
        return x
    kept, dynamic = x.split([static, x.shape[dim] - static], dim)
    return torch.cat([kept, dynamic * gate], dim)


def narrowed(x: Tensor, width: int) -> Tensor:
    """The first ``width`` channels; where there are no others, no slice is left in the ONNX."""
    return x if x.shape[1] == width else x[:, :width]


def widened(x: Tensor, width: int, dim: int = 1) -> Tensor:
    """A static slice with zeros for the channels that did not run."""
    missing = width - x.shape[dim]
    if not missing:
        return x
    shape = list(x.shape)
    shape[dim] = missing
    return torch.cat([x, x.new_zeros(shape)], dim)


def where_open(gate: Gate, new: Tensor, old: Tensor) -> Tensor:
    """``new`` where the gate of a single frame (batch, 1, 1, 1) is open, else ``old``; both (batch, ...)."""
    if isinstance(gate, bool):
        return new if gate else old
    return torch.where(gate.reshape(-1, *[1] * (new.dim() - 1)) > 0, new, old)
