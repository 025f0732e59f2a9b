"""Recorded results of students with free knobs: what training a job is taken to give at each of its settings."""

from __future__ import annotations

from definitions import recorded

from search.deployed import blank
from search.record import Score, TrialRecord
from search.selection import fits
from search.trial import Job
from search.variants import cheapest

FREE = {"space/deploy.dtype": {"choice": ["fp32", "int8_dynamic", "int8_static"], "free": True}}
SIZE = {"fp32": 1.0, "int8_dynamic": 0.5, "int8_static": 0.25}  # of the weights
LOSS = {"fp32": 0.0, "int8_dynamic": 0.05, "int8_static": 0.2}  # of quality


def swept(job: Job) -> TrialRecord:
    """Fewer bits weigh less and sound worse; one that fits at no setting is not trained."""
    plain = recorded(job.model_copy(update={"limits": {}}))
    settings = [_at(job, plain, setting) for setting in job.sweep]
    over = [_over(job, setting) for setting in settings]
    if all(setting.violations for setting in over):
        return cheapest(over).model_copy(update={"variants": over})
    return blank(job, "COMPLETE").model_copy(update={"variants": settings, "seconds": plain.seconds})


def _at(job: Job, plain: TrialRecord, setting: dict) -> TrialRecord:
    dtype = setting["deploy.dtype"]
    cost = plain.cost.model_copy(update={"weight_bytes": int(plain.cost.weight_bytes * SIZE[dtype])})
    pesq = plain.score("pesq_wb") - LOSS[dtype]
    return blank(job, "COMPLETE", setting).model_copy(
        update={"cost": cost, "scores": {"pesq_wb": Score(mean=pesq, n=2)}}
    )


def _over(job: Job, setting: TrialRecord) -> TrialRecord:
    broken = fits(setting, job.limits, job.shared.device.name)
    return setting.model_copy(
        update={"status": "INFEASIBLE", "scores": {}, "violations": broken, "reason": "over budget"}
    )
