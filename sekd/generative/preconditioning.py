"""What stands around a network that denoises or is consistent (Karras et al. 2022; Richter et al. 2024, M3).

Everywhere ``sigma`` is the standard deviation of the path at a time, a number or a tensor that broadcasts.
"""

from __future__ import annotations

from typing import Generic, Literal, NamedTuple

from torch import Tensor

from sekd.generative.ouve import Time

SIGMA_DATA = 0.1  # published; compressed clean speech of VoiceBank at full scale

Boundary = Literal["published", "exact"]


class Scales(NamedTuple, Generic[Time]):
    """``output = skip * x_t + out * network(into * inputs)``."""

    into: Time
    skip: Time
    out: Time


def edm_scales(sigma: Time, sigma_data: float = SIGMA_DATA) -> Scales[Time]:
    """Of a denoiser: inputs, outputs and targets of the network have variance 1 at every time."""
    total = sigma**2 + sigma_data**2
    return Scales(total**-0.5, sigma_data**2 / total, sigma * sigma_data * total**-0.5)


def edm_weight(sigma: Time, sigma_data: float = SIGMA_DATA) -> Time:
    """What makes the loss at every time as large as the network's own error."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def weight_as_published(weight: Tensor) -> Tensor:
    """What the authors' code makes of a batch's weights by a quirk of broadcasting: their mean, for all, as often as
    there are examples."""
    return (weight.mean() * len(weight)).expand_as(weight)


def consistency_scales(
    sigma: Time, sigma_least: float, sigma_data: float = SIGMA_DATA, *, boundary: Boundary = "published"
) -> Scales[Time]:
    """Of a consistency function, whose inputs are not scaled (Xu et al. 2025, ROSE-CD).

    At the earliest time, where sigma is ``sigma_least``, it should give back its input. The published form does so
    only roughly (0.966 of it); ``exact`` is that of Song et al. 2023, appendix C.
    """
    if boundary == "published":
        return edm_scales(sigma, sigma_data)._replace(into=sigma**0)
    above = sigma - sigma_least
    skip = sigma_data**2 / (above**2 + sigma_data**2)
    return Scales(sigma**0, skip, sigma_data * above * (sigma_data**2 + sigma**2) ** -0.5)


def score_of(denoised: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
    """The score of the path's marginal at ``x``, from the mean that a denoiser sees behind it (Tweedie)."""
    return (denoised - x) / sigma**2
