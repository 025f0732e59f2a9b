"""Layers whose weights are computed from their parameters, and networks in which the results are kept."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class ComputedWeights(nn.Module, ABC):
    """A layer that runs with other weights than it stores: a norm folded in, a matrix built from its parts."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[Tensor, ...] | None = None

    @abstractmethod
    def computed(self) -> tuple[Tensor, ...]:
        """The weights as they run in use."""

    def weights(self) -> tuple[Tensor, ...]:
        return self.computed() if self._kept is None else self._kept

    @torch.no_grad()
    def settle(self) -> None:
        """From now on the weights are what they are; training would no longer reach them."""
        self._kept = tuple(weight.detach() for weight in self.computed())


def settled(network: Network) -> Network:
    """A copy that computes no weights when it runs, or ``network`` itself if it never did."""
    if not any(isinstance(layer, ComputedWeights) for layer in network.modules()):
        return network
    network = copy.deepcopy(network).eval()
    for layer in network.modules():
        if isinstance(layer, ComputedWeights):
            layer.settle()
    return network
