"""Does a gate pay? A gated student against static ones of equal width, of equal average cost, and a held mask.

    python -m benchmarks.dsn OUT --recordings DIR --steps 800
    python -m benchmarks.dsn_tables OUT

Every finished training stays in OUT, so a killed run continues; all conditions with the first seed come first. Widths
that cost as much as the gated student on average follow from its first seed: from counted MACs at its load over the
validation pairs, and from times of open, shut and static networks measured in turn on this machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.held_mask import HeldMask
from benchmarks.interleaved import burst_ms
from benchmarks.kd_ablation import PAIRS_PER_SNR, SNRS_DB, score
from search.cost import count_macs
from sekd.audio import read_audio
from sekd.cache import write_json
from sekd.checkpoint import load_model, save_model
from sekd.config import parse
from sekd.distillation import DistillConfig, batches, distill
from sekd.export import export_onnx
from sekd.models import Cruse, CruseConfig, Enhancer, build
from sekd.onnx_gates import with_threshold
from sekd.preparation import Prepared, prepare
from sekd.train import Phase, Trainer

WIDTH = 16
GATED = {"width": WIDTH, "gate": {"static_share": 0.5}}
TARGET = 0.6  # of the dynamic part: with what always runs, 0.73 of all MACs
WIDTHS = range(WIDTH // 4, 3 * WIDTH + 1)
SOME_SEEDS = (
    "gated, constant ratio",
    "gated, DNSMOS-guided, ratio x 4",
    "gates removed",
    "mask held, trained so",
)  # the first only, unless --all-seeds
FRAMES = 400  # of one burst of each network in turn
ROUNDS = 9


class Data(NamedTuple):
    """What all trainings share, and the sets that students hear."""

    prepared: Prepared
    scored: dict[str, Path]
    heard: dict[str, Path]  # for the load alone


class Condition(NamedTuple):
    name: str
    student: dict[str, Any]
    distill: dict[str, Any] = {}
    make: Callable[[DistillConfig, Prepared, Path], Enhancer] | None = None  # None: as every trial is made


def conditions(out: Path) -> Iterator[Condition]:
    """In an order in which each knows what it needs of those before."""
    yield Condition("gated, DNSMOS-guided", GATED, {"gate": {"target": TARGET, "guidance": "dnsmos", "weight": 1.0}})
    yield Condition("gated, constant ratio", GATED, {"gate": {"target": TARGET, "guidance": "constant", "weight": 1.0}})
    guided = {
        "target": TARGET,
        "guidance": "dnsmos",
        "weight": 4.0,
    }  # the term is weighed for a loss of 0.1; ours is 0.4
    yield Condition("gated, DNSMOS-guided, ratio x 4", GATED, {"gate": guided})
    yield Condition("static twin", {"width": WIDTH})
    yield Condition("gates removed", GATED, {"gate": {"target": TARGET, "guidance": "constant"}}, _always_open)
    found = equals(out)
    yield Condition("static, equal MACs", {"width": found["equal_macs"]})
    yield Condition("static, equal latency", {"width": found["equal_latency"]})
    yield Condition("mask held, trained so", {"width": WIDTH}, {}, _held)


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    out = options.out.resolve()
    data = prepared_for(options, out)
    for seed in options.seeds:
        for condition in conditions(out):
            folder = folder_of(out, condition.name, seed)
            later = seed > 0 and condition.name in SOME_SEEDS and not options.all_seeds
            if later or (folder / "scores.json").exists():
                continue
            started = time.monotonic()
            config = parse(DistillConfig, document(options, condition, seed), condition.name)
            model = trained(config, condition, data.prepared, folder)
            seconds = time.monotonic() - started
            write_json(folder / "scores.json", judged(model, condition.name, data) | {"seconds": seconds})
            print(f"{condition.name}, seed {seed}: trained in {seconds:.0f} s", flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recordings", type=Path, required=True, help="folder with MANIFEST.csv and test_pairs/")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="widths of equal cost follow from 0")
    parser.add_argument("--all-seeds", action="store_true", help="all conditions with every seed")
    parser.add_argument("--pool-minutes", type=float, default=60)
    return parser.parse_args()


def document(options: argparse.Namespace, condition: Condition, seed: int) -> dict[str, Any]:
    manifest = str(options.recordings.resolve() / "MANIFEST.csv")
    return {
        "seed": seed,
        "threads": 1,
        "student": condition.student,
        "train": {"steps": options.steps, "batch": 8, "lr": 3e-3},
        "distill": {"schedule": {"kind": "supervised"}, **condition.distill},
        "data": {
            "train": {"manifest": manifest, "pool_minutes": options.pool_minutes},
            "valid": {"manifest": manifest, "count": 64, "segment_s": 4.0},
        },
    }


def prepared_for(options: argparse.Namespace, out: Path) -> Data:
    """The pool of seed 0 and its DNSMOS for every training."""
    first = next(conditions(out))
    config = parse(DistillConfig, document(options, first, 0), "dsn")
    prepared = prepare(config.data, None, seed=0, cache=out / "cache", ovrl=True, say=print)
    heard = {}
    for snr_db in SNRS_DB:
        valid = config.data.valid.model_copy(update={"snr_db": (snr_db, snr_db), "count": PAIRS_PER_SNR})
        data = config.data.model_copy(update={"valid": valid})
        heard[f"{snr_db} dB"] = prepare(data, None, seed=0, cache=out / "cache", say=print).valid
    scored = {"valid": prepared.valid, "test": options.recordings.resolve() / "test_pairs"}
    return Data(prepared, scored, heard)


def trained(config: DistillConfig, condition: Condition, prepared: Prepared, folder: Path) -> Enhancer:
    if condition.make is None:
        return distill(config, prepared=prepared, folder=folder).model
    weights = folder / "model.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    model = condition.make(config, prepared, folder)
    save_model(model.network if isinstance(model, HeldMask) else model, weights)
    return model.eval()


def _always_open(config: DistillConfig, prepared: Prepared, folder: Path) -> Enhancer:
    """The gated structure, its norms in slices, as if there were no gates."""
    torch.manual_seed(config.seed)
    model = build(config.student)
    model.forced = True
    return _supervised(model, config, prepared, folder)


def _held(config: DistillConfig, prepared: Prepared, folder: Path) -> Enhancer:
    torch.manual_seed(config.seed)
    network = build(config.student)
    assert isinstance(network, Cruse)
    return _supervised(HeldMask(network), config, prepared, folder)


def _supervised(model: Enhancer, config: DistillConfig, prepared: Prepared, folder: Path) -> Enhancer:
    trainer = Trainer(model, [Phase(config.train.steps, config.distill.supervised)], config.train, config.distill.loss)
    trainer.run(batches(config, prepared, folder))
    return model


def judged(model: Enhancer, name: str, data: Data) -> dict[str, Any]:
    """Scores and loads of a trained student; of the static twin also with its mask held, which it never learnt."""
    found: dict[str, Any] = {"sets": {part: score(model, folder) for part, folder in data.scored.items()}}
    if name == "static twin":
        assert isinstance(model, Cruse)
        found["held"] = {part: score(HeldMask(model), folder) for part, folder in data.scored.items()}
    if name.startswith("gated"):
        folders = data.scored | data.heard
        found["loads"] = {part: loads(model, folder) for part, folder in folders.items()}
        for forced in (True, False):
            with model.held(forced):
                key = "open" if forced else "shut"
                found[key] = {part: score(model, folder) for part, folder in data.scored.items()}
    return found


@torch.no_grad()
def loads(model: Enhancer, folder: Path) -> dict[str, float]:
    """By file, the share of frames whose gates are open."""
    found = {}
    for file in sorted((folder / "noisy").iterdir()):
        with model.watched() as gates:
            model(torch.from_numpy(read_audio(file))[None])
        found[file.stem] = float(torch.cat(gates, dim=2).mean())
    return found


def equals(out: Path) -> dict[str, Any]:
    """Widths of static students that cost as much as the gated one of the first seed does on average."""
    kept = out / "equals.json"
    if kept.exists():
        return json.loads(kept.read_text())
    folder = folder_of(out, "gated, DNSMOS-guided", 0)
    load = mean(json.loads((folder / "scores.json").read_text())["loads"]["valid"].values())
    gated = load_model(folder / "model.safetensors")
    macs = {"open": macs_of(gated, True), "shut": macs_of(gated, False)}
    static = {width: macs_of(build(CruseConfig(width=width)).eval()) for width in WIDTHS}
    times = times_of(gated, out / "timed")
    expected_macs = load * macs["open"] + (1 - load) * macs["shut"]
    expected_ms = load * times["open"] + (1 - load) * times["shut"]
    found = {
        "load": load,
        "macs": macs | {"expected": expected_macs} | {f"width {w}": value for w, value in static.items()},
        "p50_ms": times | {"expected": expected_ms},
        "equal_macs": min(WIDTHS, key=lambda w: abs(static[w] - expected_macs)),
        "equal_latency": min(WIDTHS, key=lambda w: abs(times[f"width {w}"] - expected_ms)),
    }
    write_json(kept, found)
    return found


def macs_of(model: Enhancer, gates: bool = True) -> int:
    """Of one frame."""
    with model.held(gates):
        return count_macs(model, model.example(), model.initial_state(), method="step").total


def times_of(gated: Enhancer, folder: Path) -> dict[str, float]:
    """Median ms of one frame: the gated network open and shut, static ones of all widths, in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    source = export_onnx(gated, folder / "gated.onnx").path
    files = {"open": folder / "open.onnx", "shut": folder / "shut.onnx"}
    with_threshold(source, files["open"], 0.0)
    with_threshold(source, files["shut"], 2.0)
    for width in WIDTHS:
        torch.manual_seed(0)
        files[f"width {width}"] = export_onnx(build(CruseConfig(width=width)), folder / f"{width}.onnx").path
    return {name: float(np.median(times)) for name, times in burst_ms(files, FRAMES, ROUNDS).items()}


def folder_of(out: Path, condition: str, seed: int) -> Path:
    """Where one training lies."""
    return out / "trainings" / f"{condition.replace(', ', '-').replace(' ', '-').lower()}-{seed}"


if __name__ == "__main__":
    main()
