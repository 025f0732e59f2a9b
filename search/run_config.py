"""How a study is run: workers, what each trial takes of a machine, how drivers know of each other."""

from __future__ import annotations

from pydantic import Field, model_validator

from sekd.config import Frozen


class RunConfig(Frozen):
    """How a study is run; nothing here changes a result."""

    workers: int = Field(2, ge=1)
    threads: int = Field(1, ge=1)  # torch threads of each worker
    measure_frames: int = Field(128, ge=32)  # at their own pace, of a screening
    checkpoint_s: float = Field(10.0, gt=0)  # between two checkpoints of a training: what a kill can cost
    heartbeat_s: float = Field(10.0, gt=0)  # between two signs of life of a driver
    lapse_s: float = Field(60.0, gt=0)  # without one a driver elsewhere is taken for dead

    @model_validator(mode="after")
    def _beats_before_it_lapses(self) -> RunConfig:
        if self.lapse_s < 3 * self.heartbeat_s:
            raise ValueError("lapse_s must be at least three times heartbeat_s")
        return self


class Resources(Frozen):
    """What one trial takes of a cluster, in Ray's words; processes of this machine take ``run.threads`` alone."""

    cpus: float | None = Field(None, gt=0)  # run.threads unless given
    gpus: float = Field(0.0, ge=0)  # a fraction shares a GPU
    custom: dict[str, float] = {}
