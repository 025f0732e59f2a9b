"""The last step of training gates: the policy's logits are stretched, so that a threshold is a knob with a range.

Training asks only on which side of 0.5 a probability lies; after it all of them lie close to that, and a threshold of
0.4 opens every gate. Stretched about 0.5 no decision at 0.5 changes, and thresholds from 0.1 to 0.9 cut between frames.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sekd.models import Enhancer
from sekd.models.policy import policy_of
from sekd.train import Batch

CLIPS = 128  # training signals that are heard
DEVIATION = 1.5  # of the logits over frames, afterwards: 0.1 and 0.9 are logits of -2.2 and 2.2


@torch.no_grad()
def spread(model: Enhancer, batches: Callable[[int], Batch], device: str = "cpu") -> None:
    """Multiplies the policy's logits by what brings their standard deviation over training frames to ``DEVIATION``;
    a network without gates, or whose gates know no difference between frames, stays as it is."""
    policy = policy_of(model)
    if policy is None:
        return
    clips = step = 0
    model.eval()
    with model.weighed() as logits:
        while clips < CLIPS:
            noisy = batches(step).noisy
            model(noisy.to(device))
            clips, step = clips + len(noisy), step + 1
    deviation = float(torch.cat([(piece[..., 0] - piece[..., 1]).flatten() for piece in logits]).std())
    if deviation > 1e-6:
        policy.head.weight.mul_(DEVIATION / deviation)
        policy.head.bias.mul_(DEVIATION / deviation)
