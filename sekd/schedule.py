"""Which loss terms teach a student, how much each weighs, and when: a list of phases."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from sekd.config import Frozen
from sekd.errors import nearest
from sekd.gate_course import courses
from sekd.generative.learning import ConsistencyConfig
from sekd.losses import TERMS, DispatchConfig, GramConfig, LossConfig, reads_features
from sekd.losses.gating import GATE_TERM, GatingConfig
from sekd.losses.gram import FLOW_KINDS
from sekd.losses.signals import Level
from sekd.train import Phase

ScheduleKind = Literal[
    "supervised", "one_step", "two_step", "two_step_kept", "consistency", "consistency_training"
]  # fmt: skip
ON_PATH = ("consistency", "consistency_training")  # of students that are consistency functions, and of no others
WITHOUT_TEACHER = ("supervised", "consistency_training")
WITHOUT_OUTPUTS = ("supervised", *ON_PATH)  # nothing follows what a teacher makes of the training audio


class ScheduleConfig(Frozen):
    """When the student listens to the teacher (Daod Nathoo et al. 2024, section 2.4: gamma is ``kd_weight``).

    ``supervised``: never. ``one_step``: always, beside the clean signal. ``two_step``: the teacher alone for
    ``kd_only_fraction`` of the steps, then the clean signal alone. ``two_step_kept``: then both.
    ``consistency``: a diffusion teacher leads along its path; ``consistency_training``: the path itself does
    (Xu et al. 2025, ROSE-CD).
    """

    kind: ScheduleKind = "one_step"
    kd_only_fraction: float = 0.25
    kd_weight: float = 0.5

    @model_validator(mode="after")
    def _in_range(self) -> ScheduleConfig:
        for key in ("kd_only_fraction", "kd_weight"):
            if not 0 < getattr(self, key) < 1:
                raise ValueError(f"{key} = {getattr(self, key)} must lie between 0 and 1")
        return self


class DistillSection(Frozen):
    """Which terms, how they are weighted and when."""

    supervised: dict[str, float] = {"compressed": 1.0}
    term: str | dict[str, float] = "dispatch_l2"  # what follows the teacher: one term, or several with their weights
    # Multiplies the teacher's terms before kd_weight; None: each by its own unit, which makes terms comparable.
    kd_scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    dispatch: DispatchConfig = DispatchConfig()
    gram: GramConfig = GramConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss_level: Level = "mixture"
    consistency: ConsistencyConfig = ConsistencyConfig()
    gate: GatingConfig | None = None  # how the gates of a slimmable student are trained; None: as the defaults say

    @field_validator("supervised")
    @classmethod
    def _supervised_terms(cls, value: dict[str, float]) -> dict[str, float]:
        return _known_terms(value, "clean")

    @field_validator("term")
    @classmethod
    def _teacher_term(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        _known_terms({value: 1.0} if isinstance(value, str) else value, "teacher")
        return value

    @model_validator(mode="after")
    def _flow_of_a_kind_that_exists(self) -> DistillSection:
        if "flow" in self.taught and self.gram.kind not in FLOW_KINDS:
            raise ValueError(f"gram.kind = {self.gram.kind!r}: the term 'flow' knows {' and '.join(FLOW_KINDS)}")
        return self

    @property
    def taught(self) -> dict[str, float]:
        """The terms that follow the teacher and their weights."""
        weights = {self.term: 1.0} if isinstance(self.term, str) else self.term
        return {name: weight * (self.kd_scale or TERMS[name].unit) for name, weight in weights.items()}

    @property
    def reads_features(self) -> bool:
        """Whether a term of the schedule compares what happens inside student and teacher."""
        return self.reads_outputs and reads_features(self.taught)

    @property
    def reads_outputs(self) -> bool:
        """Whether the schedule follows what the teacher makes of the training audio."""
        return self.schedule.kind not in WITHOUT_OUTPUTS

    @property
    def on_path(self) -> bool:
        """Whether the student learns to be a consistency function."""
        return self.schedule.kind in ON_PATH

    @property
    def loss(self) -> LossConfig:
        return LossConfig(dispatch=self.dispatch, gram=self.gram, gate=self.gating, level=self.loss_level)

    @property
    def gating(self) -> GatingConfig:
        return self.gate or GatingConfig()

    def phases(self, steps: int) -> list[Phase]:
        """The schedule as phases of weighted terms; their steps sum to ``steps``."""
        schedule = self.schedule
        if self.on_path:
            return [Phase(count, terms) for count, terms in self.consistency.phases(steps)]
        taught = self.taught
        mixed = {name: (1 - schedule.kd_weight) * weight for name, weight in self.supervised.items()}
        mixed |= {name: schedule.kd_weight * weight for name, weight in taught.items()}
        first = round(steps * schedule.kd_only_fraction)
        return {
            "supervised": [Phase(steps, self.supervised)],
            "one_step": [Phase(steps, mixed)],
            "two_step": [Phase(first, taught), Phase(steps - first, self.supervised)],
            "two_step_kept": [Phase(first, taught), Phase(steps - first, mixed)],
        }[schedule.kind]


def with_gates(phases: list[Phase], config: GatingConfig) -> list[Phase]:
    """``phases`` of a slimmable student: cut besides where another way of drawing gates begins.

    While a coin opens the gates there is nothing for the policy to learn, and no term that pulls at it.
    """
    result, begin = [], 0
    ways = courses(config, sum(phase.steps for phase in phases))
    for phase in phases:
        for way in ways:
            steps = min(begin + phase.steps, way.begin + way.steps) - max(begin, way.begin)
            pull = {} if way.mode == "random" else {GATE_TERM: config.weight}
            if steps > 0:
                result.append(Phase(steps, phase.weights | pull, way))
        begin += phase.steps
    return result


def _known_terms(value: dict[str, float], follows: str) -> dict[str, float]:
    allowed = [name for name, term in TERMS.items() if term.follows == follows]
    for name in value:
        if name not in allowed:
            raise ValueError(f"no loss term {name!r} that follows the {follows} signal{nearest(name, allowed)}")
    if not value or min(value.values()) < 0 or sum(value.values()) == 0:
        raise ValueError("needs at least one term with a weight above 0")
    return value
