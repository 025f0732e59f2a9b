"""What does each part of ROSE-CD bring? One network: diffusion teacher, consistency students, deterministic twins.

    python -m benchmarks.rose_cd OUT --recordings DIR
    python -m benchmarks.rose_cd_tables OUT

Every finished training stays in OUT, so a killed run continues; all conditions with the first seed come first. The
deterministic twins train for as many seconds of the processor as a teacher and a student together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from benchmarks.kd_ablation import folder_of, score
from sekd.cache import write_json
from sekd.checkpoint import load_model
from sekd.config import parse
from sekd.distillation import DistillConfig, distill
from sekd.models import Diffusion, Enhancer
from sekd.preparation import Prepared, prepare

FRAMES, HOP = 64, 256
PLAIN = {"pesq": 0.0, "si_snr": 0.0}
CONSISTENCY: dict[str, dict[str, Any]] = {
    "CD": PLAIN | {"randomised": False},
    "RCD": PLAIN,
    "RCD + PESQ": {"si_snr": 0.0},
    "RCD + SI-SDR": {"pesq": 0.0},
    "RCD + both": {},
    "CD, Euler": PLAIN | {"randomised": False, "solver": "euler"},
    "RCD, Euler": PLAIN | {"solver": "euler"},
    "CT + both": {},
}
TWINS: dict[str, dict[str, float]] = {
    "deterministic": {"compressed": 1.0},
    "deterministic, both": {"pesq": 5e-4, "si_snr": 5e-5},
}
THREE_SEEDS = ("RCD", "RCD + PESQ", "RCD + both", "deterministic")
MEASURE = "RCD + both"  # whose seconds of training the twins get, with the teacher's
SETTINGS: dict[str, dict[str, Any]] = {  # at which each consistency student is heard
    "1": {"steps": 1},
    "2": {"steps": 2},
    "4": {"steps": 4},
    "4, marginal": {"steps": 4, "renoise": "marginal"},
    "2 to 0.3": {"steps": 2, "last_time": 0.3},
    "2 to 0.3, marginal": {"steps": 2, "last_time": 0.3, "renoise": "marginal"},
    "1, no noise": {"steps": 1, "noise_scale": 0.0},
}
FEW_SETTINGS = ("1", "2", "4")  # of the later seeds, and on the test pairs
TEACHER_STEPS = (5, 10, 30)
TEACHER_FILES = 20
TIMED_STEPS, TIMED_ROUNDS = 30, 3


class Job(NamedTuple):
    """One training and its scores."""

    name: str
    seed: int
    document: dict[str, Any]
    prepared: Prepared
    folder: Path
    sets: dict[str, Path]


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    out = options.out.resolve()
    prepared, sets = prepared_for(options, out)
    jobs = [
        Job(name, seed, document(options, name, seed), prepared, folder_of(out, name, seed), sets)
        for seed in range(options.seeds)
        for name in CONSISTENCY
        if seed == 0 or name in THREE_SEEDS
    ]
    heard = [Job(name, 0, {}, prepared, folder_of(out, name, 0), sets) for name in ("unprocessed", "teacher")]
    _run_all([*heard, *jobs], options.workers)
    steps = twin_steps(options, prepared, out)
    twins = [
        Job(name, seed, document(options, name, seed, steps), prepared, folder_of(out, name, seed), sets)
        for seed in range(options.seeds)
        for name in TWINS
        if seed == 0 or name in THREE_SEEDS
    ]
    _run_all(twins, options.workers)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recordings", type=Path, required=True, help="folder with MANIFEST.csv and test_pairs/")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--teacher-steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pool-minutes", type=float, default=60)
    return parser.parse_args()


def document(options: argparse.Namespace, name: str, seed: int, steps: int | None = None) -> dict[str, Any]:
    manifest = str(options.recordings.resolve() / "MANIFEST.csv")
    backbone = {"width": options.width}
    plain = {"optimizer": "adam", "weight_decay": 0.0, "lr": 1e-3}
    if name in TWINS:
        student, section = "predictive", {"supervised": TWINS[name], "schedule": {"kind": "supervised"}}
    else:
        kind = "consistency_training" if name.startswith("CT") else "consistency"
        student, section = "consistency", {"consistency": CONSISTENCY[name], "schedule": {"kind": kind}}
    return {
        "seed": seed,
        "threads": 1,
        "student": {"family": student, "backbone": backbone, "segment_frames": FRAMES},
        "train": plain | {"steps": steps or options.steps, "batch": 4},
        "distill": section,
        "teacher": {
            "network": {"family": "diffusion", "backbone": backbone},
            "train": plain | {"steps": options.teacher_steps, "batch": 8},
        },
        "data": {
            "train": {
                "manifest": manifest,
                "pool_minutes": options.pool_minutes,
                "segment_s": (FRAMES - 1) * HOP / 16000,
            },
            "valid": {"manifest": manifest, "count": 64, "segment_s": 4.0},
        },
    }


def prepared_for(options: argparse.Namespace, out: Path) -> tuple[Prepared, dict[str, Path]]:
    """Pool and teacher of seed 0 for every training, and the pairs that all are heard on."""
    config = parse(DistillConfig, document(options, "RCD", 0), "rose_cd")

    def say(line: str) -> None:
        print(line, flush=True)

    prepared = prepare(config.data, config.teacher, seed=0, cache=out / "cache", outputs=False, say=say)
    return prepared, {"valid": prepared.valid, "test": options.recordings.resolve() / "test_pairs"}


def twin_steps(options: argparse.Namespace, prepared: Prepared, out: Path) -> int:
    """Steps that take a deterministic twin as long as a teacher and a student take together.

    Seconds of the processor, so that other work on the machine does not matter; the three in turn.
    """
    kept = out / "seconds_per_step.json"
    if not kept.exists():
        found: dict[str, list[float]] = {"teacher": [], "student": [], "twin": []}
        for _ in range(TIMED_ROUNDS):
            for name, seconds in found.items():
                seconds.append(_seconds_per_step(options, name, prepared))
        write_json(kept, {name: median(seconds) for name, seconds in found.items()})
    each = json.loads(kept.read_text())
    budget_s = options.teacher_steps * each["teacher"] + options.steps * each["student"]
    steps = round(budget_s / each["twin"])
    print(f"twins: {steps} steps in {budget_s:.0f} s of training, as teacher and student; {each}", flush=True)
    return steps


def _seconds_per_step(options: argparse.Namespace, name: str, prepared: Prepared) -> float:
    made = document(options, {"teacher": "RCD", "student": MEASURE, "twin": "deterministic"}[name], 0, TIMED_STEPS)
    if name == "teacher":
        made |= {"student": made["teacher"]["network"], "train": made["teacher"]["train"] | {"steps": TIMED_STEPS}}
        made |= {"distill": {"schedule": {"kind": "supervised"}}}
    started = time.process_time()
    distill(parse(DistillConfig, made, name), prepared=prepared)
    return (time.process_time() - started) / TIMED_STEPS


def _run_all(jobs: list[Job], workers: int) -> None:
    left = [job for job in jobs if not (job.folder / "scores.json").exists()]
    print(f"{len(jobs)} trainings, {len(jobs) - len(left)} done before", flush=True)
    started = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run, job): job for job in left}
        for number, done in enumerate(as_completed(running), 1):
            job, minutes = running[done], (time.monotonic() - started) / 60
            rest = minutes / number * (len(left) - number)
            print(f"{job.name}, seed {job.seed}: {done.result()}; about {rest:.0f} min left", flush=True)


def run(job: Job) -> str:
    """Trains and scores; what is there already is not made again."""
    torch.set_num_threads(1)
    job.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"steps": None}
    heard: Iterator[tuple[str, Any]]
    if job.name == "unprocessed":
        heard = iter([("1", torch.nn.Identity())])
    elif job.name == "teacher":
        heard = _teacher(job)
    else:
        config = parse(DistillConfig, job.document, job.name)
        student = distill(config, prepared=job.prepared, folder=job.folder)
        found = {"steps": config.train.steps}
        heard_at = SETTINGS if job.seed == 0 else {name: SETTINGS[name] for name in FEW_SETTINGS}
        settings = {"1": {}} if job.name in TWINS else heard_at
        heard = _settings(student.model, settings)
    for setting, model in heard:
        few = TEACHER_FILES if job.name == "teacher" else None
        found.setdefault("sets", {})[setting] = {
            name: score(model, _first(folder, few, job.folder / name))
            for name, folder in job.sets.items()
            if name == "valid" or few or setting in FEW_SETTINGS
        }
    write_json(job.folder / "scores.json", found)
    valid = found["sets"][next(iter(found["sets"]))]["valid"]
    return ", ".join(
        f"{key} {sum(f[key] for f in valid.values()) / len(valid):.3f}" for key in ("pesq_wb", "si_sdr_db")
    )


def _teacher(job: Job) -> Iterator[tuple[str, Enhancer]]:
    assert job.prepared.teacher is not None
    model = load_model(Path(str(job.prepared.teacher.model)))
    assert isinstance(model, Diffusion)
    for steps in TEACHER_STEPS:
        model.take_knobs(model.config.model_copy(update={"steps": steps}))
        yield str(steps), model


def _settings(model: Enhancer, settings: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Enhancer]]:
    before = model.config
    for name, setting in settings.items():
        model.take_knobs(before.model_copy(update=setting))
        yield name, model


def _first(folder: Path, count: int | None, links: Path) -> Path:
    """``folder`` itself, or one that links to the first pairs of it."""
    if count is None:
        return folder
    for side in ("noisy", "clean"):
        (links / side).mkdir(parents=True, exist_ok=True)
        for file in sorted((folder / side).iterdir())[:count]:
            link = links / side / file.name
            if not link.exists():
                link.symlink_to(file)
    return links


if __name__ == "__main__":
    main()
