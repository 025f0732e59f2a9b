"""How much of a slimmable network runs: the activation ratio that training wants, and the term that pulls there.

Zhao, Yang and Madhu 2026 (DSN) name the parts: Gumbel-softmax gates, a target ratio, and metric guidance, which makes
the target a function of the noisy signal's DNSMOS OVRL. Their numbers are not published; every default here is ours.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field, model_validator
from torch import Tensor

from sekd.config import Frozen

GATE_TERM = "gate_ratio"  # the term's name among the others
Guidance = Literal["constant", "dnsmos"]


class GatingConfig(Frozen):
    """How gates are trained: first at random, then by the policy with Gumbel noise, at last without noise.

    ``guidance``: every clip wants the same ratio, or one that grows as its DNSMOS OVRL falls, with the same mean.
    """

    target: float = Field(0.5, gt=0, lt=1)  # mean activation ratio r
    guidance: Guidance = "dnsmos"
    weight: float = Field(4.0, ge=0, allow_inf_nan=False)  # lambda_r: 1 for a loss of 0.1, and ours begin at 0.4
    # What the ratio counts under Gumbel noise: the policy's own decisions, which the device will run, or the drawn
    # gates, as published. A policy that leaves a ratio of 0.8 to the noise opens all gates once the noise is gone, and
    # by then the learning rate is too low to bring it back.
    counted: Literal["decided", "drawn"] = "decided"
    low: float = Field(0.1, ge=0, le=1)  # ratio of the best clips, before the mean of a batch is set
    high: float = Field(0.9, ge=0, le=1)  # of the worst
    random_share: float = Field(0.25, ge=0, lt=1)  # of the steps: open or shut by a coin, so that both networks work
    hard_share: float = Field(0.1, ge=0, lt=1)  # of the steps, the last ones: gates as they will be
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    coldest: float = Field(0.5, gt=0, allow_inf_nan=False)  # temperature at the end of the steps between
    hold: float = Field(0.15, ge=0, lt=1)  # share of those at the first temperature, before it falls exponentially

    @model_validator(mode="after")
    def _in_order(self) -> GatingConfig:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} must not be above high = {self.high}")
        if self.coldest > self.temperature:
            raise ValueError(f"coldest = {self.coldest} must not be above temperature = {self.temperature}")
        if self.random_share + self.hard_share >= 1:
            raise ValueError("random_share and hard_share leave no steps in which the policy learns")
        return self

    @property
    def what_matters(self) -> dict[str, float | str]:
        """The settings that can change a result."""
        unread = {"low", "high"} if self.guidance == "constant" else set()
        return self.model_dump(mode="json", exclude=unread)


class Ovrl(NamedTuple):
    """DNSMOS OVRL of the noisy signals of a step, ``(batch,)``, and its 5th and 95th percentile over the pool."""

    values: Tensor
    low: float
    high: float


def ratio_loss(gates: Tensor, target: Tensor | float) -> Tensor:
    """Mean over signals of the squared distance between activation ratio and target.

    Args:
        gates: ``(batch, gate, frame)``, zeros and ones.
        target: of each signal, ``(batch,)``, or of all.
    """
    return (gates.mean((1, 2)) - target).square().mean()


def guided_ratio(
    ovrl: Tensor, q_low: float, q_high: float, *, wanted: float, low: float = 0.1, high: float = 0.9
) -> Tensor:
    """The ratio that each signal wants, ``(batch,)``: more for a worse one, with mean ``wanted`` and within 0..1.

    Linear in the OVRL ``(batch,)`` from ``high`` at ``q_low`` to ``low`` at ``q_high``. Then rescaled: distances to 0
    shrink where the mean is too high, those to 1 where it is too low, so that nothing has to be clipped.
    """
    hardness = (q_high - ovrl) / max(q_high - q_low, 1e-6)
    ratio = (low + (high - low) * hardness).clamp(low, high)
    mean = ratio.mean()
    if float(mean) >= wanted:
        return ratio * (wanted / mean)
    return 1 - (1 - ratio) * ((1 - wanted) / (1 - mean))
