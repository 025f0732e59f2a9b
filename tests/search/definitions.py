"""Study definitions and recorded results that the tests of the search share."""

from __future__ import annotations

import math
from pathlib import Path

import tomlkit

from search.record import Cost, Score, TrialRecord, Violation
from search.study import StudyDefinition, read_study
from search.trial import Job, metrics_of
from sekd.cache import write_json
from sekd.preparation import Hashes, Prepared

TINY = """
name = "tiny"
device = "raspberry-pi-4"
trials = 8
seed = 3

[objectives]
quality = "pesq_wb"
cost = ["macs_per_s"]

[budget]
macs_per_s = 20e6

[data]
train = { manifest = "demo", demo_minutes = 0.6, pool_minutes = 0.2, segment_s = 1.0 }
valid = { manifest = "demo", demo_minutes = 0.6, count = 2, segment_s = 2.0 }

[teacher]
network = { channels = [4, 8, 8, 8] }
train = { steps = 3, batch = 2, lr = 3e-3 }

[base]
train = { steps = 3, batch = 2 }

[space]
"student.width" = { choice = [4, 6, 8, 10, 12, 16] }
"distill.schedule.kind" = { choice = ["supervised", "one_step", "two_step"] }
"distill.schedule.kd_only_fraction" = { float = [0.1, 0.5], when = "distill.schedule.kind starts with two_step" }
"train.lr" = { float = [1e-3, 6e-3], log = true }

[run]
workers = 1
measure_frames = 32
"""

NUMERIC = {  # no conditions: what the Gaussian process takes
    "distill.schedule.kind": {"choice": ["supervised"]},
    "train.lr": {"float": [1e-3, 6e-3], "log": True},
    "train.weight_decay": {"float": [0.0, 0.1]},
}

HASHES = Hashes(pool="pool", valid="valid", teacher="teacher")


def write_definition(folder: Path, changes: dict | None = None, *, name: str = "tiny") -> Path:
    """``TINY`` under ``name`` with ``changes``: dotted path of tables to a value, None removes the key."""
    document = tomlkit.parse(TINY).unwrap()
    document["name"] = name
    for path, value in (changes or {}).items():
        *parents, key = path.split("/")
        table = document
        for parent in parents:
            table = table.setdefault(parent, {})
        if value is None:
            del table[key]
        else:
            table[key] = value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(tomlkit.dumps(document))
    return folder / f"{name}.toml"


def definition(folder: Path, changes: dict | None = None, *, name: str = "tiny") -> StudyDefinition:
    return read_study(write_definition(folder, changes, name=name))


def prepared_run(study: StudyDefinition, folder: Path) -> Prepared:
    """A run folder whose shared parts need no making: ids of recordings, and the scores there are to beat."""
    folder.mkdir(parents=True, exist_ok=True)
    means = {name: {"pesq_wb": {"mean": mean, "n": 2}} for name, mean in (("unprocessed", 1.2), ("teacher", 2.8))}
    of = [HASHES.valid, HASHES.teacher, *metrics_of(study)]
    write_json(folder / "baseline.json", {"of": of, "means": means})
    return Prepared(None, folder / "valid", None, None, HASHES)


def recorded(job: Job) -> TrialRecord:
    """What training ``job`` is taken to give: wider costs more and sounds better, up to the learning rate."""
    width = job.params.get("student.width", 8)
    macs_per_s = 4e5 * width**1.5
    lr = job.params.get("train.lr", 3e-3)
    pesq = 1.3 + 0.3 * math.log(width) - 0.2 * abs(math.log(lr / 3e-3)) - 2 * job.params.get("train.weight_decay", 0)
    pesq += 0.1 * (job.params.get("distill.schedule.kind") != "supervised")
    limit = job.limits.get("macs_per_s", math.inf)
    blank = TrialRecord(
        trial_id=job.trial_id,
        variant_id=job.trial_id,
        number=job.number,
        status="COMPLETE",
        params=job.params,
        cost=Cost(
            parameters=width, macs_per_s=macs_per_s, weight_bytes=400 * width, state_bytes=64 * width,
            algorithmic_latency_ms=32.0,
        ),
    )  # fmt: skip
    if macs_per_s > limit:
        broken = [Violation(key="macs_per_s", value=macs_per_s, limit=limit)]
        return blank.model_copy(update={"status": "INFEASIBLE", "reason": "over budget", "violations": broken})
    return blank.model_copy(update={"scores": {"pesq_wb": Score(mean=pesq, n=2)}})
