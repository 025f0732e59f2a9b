"""What a student may learn from: anything that enhances a batch of signals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from sekd.checkpoint import load_model, network_hash
from sekd.models import Enhancer
from sekd.models.base import Block


class Teacher(ABC):
    """A trained enhancer, frozen."""

    identity: str  # equal for equal outputs
    blocks: tuple[Block, ...] = ()  # grids of its activations, where feature terms can read them

    @abstractmethod
    def enhance(self, noisy: Tensor) -> Tensor:
        """``(batch, sample)`` at 16 kHz to the same, aligned; no gradients."""


class OwnTeacher(Teacher):
    """A network of ours."""

    def __init__(self, model: Enhancer) -> None:
        self.model = model.eval().requires_grad_(False)
        self.identity = network_hash(model)
        self.blocks = model.config.blocks

    @torch.no_grad()
    def enhance(self, noisy: Tensor) -> Tensor:
        return self.model(noisy)


def open_teacher(source: str | Path) -> Teacher:
    """The teacher at ``source``: a ``.safetensors`` of ours.

    Raises:
        InputError: the file is missing, truncated, or not one of ours.
    """
    return OwnTeacher(load_model(Path(source)))
