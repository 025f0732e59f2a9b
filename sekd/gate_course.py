"""From step to step of a training: how the gates of a slimmable network are drawn."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sekd.losses.gating import GatingConfig
from sekd.models.gates import Gating, Mode, drawn


class Course(NamedTuple):
    """One way of drawing gates, from step ``begin`` of a training on, for ``steps``; the temperature holds for a share
    of them, then falls exponentially to ``coldest``."""

    mode: Mode
    begin: int
    steps: int
    temperature: float = 1.0
    coldest: float = 1.0
    hold: float = 0.0

    def at(self, step: int) -> Gating:
        done = (step - self.begin) / self.steps
        fallen = max(0.0, done - self.hold) / (1 - self.hold)
        return Gating(self.mode, self.temperature * (self.coldest / self.temperature) ** fallen)


def decided(logits: list[Tensor], temperature: float) -> list[Tensor]:
    """Gates ``(batch, gate, frame)`` as the policy would set them without noise, with the gradient of the soft ones."""
    return [drawn(piece, Gating("hard", temperature), piece.new_tensor(0.5)) for piece in logits]


def courses(config: GatingConfig, steps: int) -> list[Course]:
    """Random, Gumbel, hard: one after the other, ``steps`` in all; those without a step are left out."""
    first, last = round(steps * config.random_share), round(steps * config.hard_share)
    between = steps - first - last
    found = [
        Course("random", 0, first),
        Course("gumbel", first, between, config.temperature, config.coldest, config.hold),
        Course("hard", steps - last, last, config.coldest, config.coldest),
    ]
    return [course for course in found if course.steps > 0]
