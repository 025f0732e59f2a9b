"""Do the distillation methods help? The same student, segments and first weights under nine ways to teach it.

    python -m benchmarks.kd_ablation OUT --recordings DIR --teacher model.safetensors --steps 2000
    python -m benchmarks.kd_tables OUT

Every finished training stays in OUT, so a killed run continues; all conditions with the first seed come first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sekd.audio import read_audio
from sekd.cache import write_json
from sekd.checkpoint import load_model
from sekd.config import parse
from sekd.distillation import DistillConfig, batches, distill
from sekd.losses import TERMS
from sekd.losses.signals import Signals
from sekd.metrics import Triple, score_pairs
from sekd.preparation import Prepared, prepare

METRICS = ("pesq_wb", "estoi", "si_sdr_db")
SNRS_DB = (-5, 0, 5, 10, 15)
PAIRS_PER_SNR = 24
# Gradient of the teacher's terms against that of the supervised one, both on a student of SCALING_STEPS steps.
GRADIENT_SHARE = 0.3
SCALING_STEPS = 1000
SCALING_BATCHES = 8

ONE_SIZE = {"low_patch": 20, "high_patch": 20}
CONDITIONS: dict[str, dict[str, Any]] = {
    "supervised": {"schedule": {"kind": "supervised"}},
    "L2": {"term": "output_l2"},
    "L2 + DISPatch": {"term": "dispatch_l2"},
    "DFKD": {"term": "dispatch_dfkd", "dispatch": ONE_SIZE | {"keep": 1.0}},
    "DFKD + DISPatch": {"term": "dispatch_dfkd", "dispatch": ONE_SIZE},
    "DFKD + DISPatch + MSSP": {"term": "dispatch_dfkd"},
    "one-step G_tf": {"term": "similarity"},
    "two-step G_tf": {"term": "similarity", "schedule": {"kind": "two_step"}},
    "two-step output": {"term": "output_compressed", "schedule": {"kind": "two_step"}},
}
SEVERAL_SEEDS = ("supervised", "L2 + DISPatch", "DFKD + DISPatch + MSSP", "two-step G_tf")


class Job(NamedTuple):
    """One training and its scores."""

    condition: str
    seed: int
    document: dict[str, Any]
    prepared: Prepared
    folder: Path
    pairs: dict[str, Path]  # name of a set to its folder


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    out = options.out.resolve()
    prepared, sets = prepared_for(options, out)
    scales = _scales(options, out, prepared)
    jobs = [
        Job(
            condition,
            seed,
            document(options, condition, seed, scales),
            prepared,
            folder_of(out, condition, seed),
            sets,
        )
        for seed in range(options.seeds)
        for condition in CONDITIONS
        if seed == 0 or condition in SEVERAL_SEEDS
    ]
    left = [job for job in jobs if not (job.folder / "scores.json").exists()]
    print(f"{len(jobs)} trainings, {len(jobs) - len(left)} done before", flush=True)
    started = time.monotonic()
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run, job): job for job in left}
        for number, done in enumerate(as_completed(running), 1):
            job, minutes = running[done], (time.monotonic() - started) / 60
            rest = minutes / number * (len(left) - number)
            print(f"{job.condition}, seed {job.seed}: {done.result()}; about {rest:.0f} min left", flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recordings", type=Path, required=True, help="folder with MANIFEST.csv and test_pairs/")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pool-minutes", type=float, default=60)
    parser.add_argument("--torch-device", default="cpu")
    return parser.parse_args()


def document(options: argparse.Namespace, condition: str, seed: int, scales: dict[str, float]) -> dict[str, Any]:
    section = dict(CONDITIONS[condition])
    if condition in scales:
        section["kd_scale"] = scales[condition]
    manifest = str(options.recordings.resolve() / "MANIFEST.csv")
    return {
        "seed": seed,
        "threads": 1,
        "student": {"width": 8},
        "train": {"steps": options.steps, "batch": 16, "lr": 2e-3},
        "distill": section,
        "teacher": {"model": str(options.teacher.resolve())},
        "data": {
            "train": {"manifest": manifest, "pool_minutes": options.pool_minutes},
            "valid": {"manifest": manifest, "count": 64, "segment_s": 4.0},
        },
    }


def prepared_for(options: argparse.Namespace, out: Path) -> tuple[Prepared, dict[str, Path]]:
    """The pool of seed 0 for every training, and the sets that all students are scored on."""
    config = parse(DistillConfig, document(options, "one-step G_tf", 0, {}), "ablation")
    prepared = prepare(config.data, config.teacher, seed=0, cache=out / "cache", features=True, say=print)
    sets = {"valid": prepared.valid, "test": options.recordings.resolve() / "test_pairs"}
    for snr_db in SNRS_DB:
        valid = config.data.valid.model_copy(update={"snr_db": (snr_db, snr_db), "count": PAIRS_PER_SNR})
        data = config.data.model_copy(update={"valid": valid})
        sets[f"{snr_db} dB"] = prepare(data, None, seed=0, cache=out / "cache", say=print).valid
    return prepared, sets


def _scales(options: argparse.Namespace, out: Path, prepared: Prepared) -> dict[str, float]:
    """What brings each condition's gradient to ``GRADIENT_SHARE`` of the supervised one, on training segments."""
    kept = out / "scales.json"
    if kept.exists():
        return json.loads(kept.read_text())
    wanted = document(options, "supervised", 100, {})
    wanted["train"]["steps"] = SCALING_STEPS
    job = Job("supervised", 100, wanted, prepared, folder_of(out, f"supervised {SCALING_STEPS}", 100), {})
    print(f"student for the scales of the terms: {run(job)}", flush=True)
    model = load_model(job.folder / "model.safetensors").train()
    norms: dict[str, float] = {}
    for condition in CONDITIONS:
        config = parse(DistillConfig, document(options, condition, 0, {}), condition)
        weights = config.distill.supervised if condition == "supervised" else config.distill.taught
        norms[condition] = gradient_norm(model, config, prepared, list(weights), out)
    scales = {name: GRADIENT_SHARE * norms["supervised"] / norm for name, norm in norms.items()}
    del scales["supervised"]
    write_json(kept, scales)
    return scales


def gradient_norm(model: Any, config: DistillConfig, prepared: Prepared, terms: list[str], out: Path) -> float:
    """Mean over batches of the norm of the gradient of unscaled terms."""
    source = batches(config, prepared, out / "cache")
    total = 0.0
    for step in range(SCALING_BATCHES):
        batch = source(step)
        with model.recorded() as own:
            estimate = model(batch.noisy)
        theirs = [] if batch.features is None else batch.features("cpu")
        signals = Signals(estimate, batch.clean, batch.noisy, batch.teacher, features=(own, theirs))
        loss = torch.stack([TERMS[name].compute(signals, config.distill.loss) for name in terms]).sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        total += float(torch.cat([g.flatten() for g in gradients if g is not None]).norm())
    return total / SCALING_BATCHES


def run(job: Job) -> str:
    """Trains and scores; what is there already is not made again."""
    torch.set_num_threads(1)
    config = parse(DistillConfig, job.document, job.condition)
    student = distill(config, prepared=job.prepared, folder=job.folder)
    scores = {name: score(student.model, folder) for name, folder in job.pairs.items()}
    write_json(job.folder / "scores.json", {"seconds": student.train_seconds, "sets": scores})
    valid = scores.get("valid", {})
    means = {metric: sum(file[metric] for file in valid.values()) / len(valid) for metric in METRICS if valid}
    shown = ", ".join(f"{metric} {value:.3f}" for metric, value in means.items())
    return f"{shown} ({student.train_seconds:.0f} s)"


@torch.no_grad()
def score(model: Any, folder: Path) -> dict[str, dict[str, float | None]]:
    """Metric scores by file of the pairs in ``folder``."""

    def triples() -> Any:
        for clean_file in sorted((folder / "clean").iterdir()):
            noisy = read_audio(folder / "noisy" / clean_file.name)
            estimate = model(torch.from_numpy(noisy)[None])[0].numpy()
            triple: Triple = (clean_file.stem, None, estimate, read_audio(clean_file))
            yield triple

    names = [file.stem for file in (folder / "clean").iterdir()]
    unscored = {name: dict.fromkeys(METRICS, 0.0) for name in names}  # of the noisy signal, which nobody asked for
    return {pair.name: pair.scores for pair in score_pairs(triples(), METRICS, unprocessed=unscored).pairs}


def folder_of(out: Path, condition: str, seed: int) -> Path:
    """Where one training lies."""
    return out / "trainings" / f"{condition.replace(' + ', '-').replace(' ', '-').lower()}-{seed}"


if __name__ == "__main__":
    main()
