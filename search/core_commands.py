"""The commands about one model: train, evaluate, enhance, measure, and what they need."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from sekd.errors import InputError

if TYPE_CHECKING:
    from search.latency import Latency


def devices(options: Namespace) -> int:
    from search.device import list_devices, load_device
    from search.tables import devices_table

    names = [options.name] if options.name else list_devices()
    profiles = [load_device(name) for name in names]
    if options.json:
        print(json.dumps([profile.model_dump(mode="json") for profile in profiles]))
        return 0
    if options.name:
        for key, value in profiles[0].model_dump(mode="json").items():
            if key != "sources" and value not in (None, [], ()):
                source = profiles[0].sources.get(key)
                print(f"{key}: {value}{f'   ({source})' if source else ''}")
        return 0
    columns = ("name", "latency", "threads", "memory_kib", "flash_kib", "macs_per_s_budget", "dtype", "description")
    _console().print(devices_table([profile.model_dump() for profile in profiles], columns))
    return 0


def measure(options: Namespace) -> int:
    from search.device import load_device
    from search.device_lock import DeviceLock, lock_folder
    from search.gated_latency import of_each_frame
    from search.graphs.graph import graph_facts
    from search.measure import LEVELS, MeasurementFailed
    from search.measure import measure as time_model
    from search.measure_report import chosen_cost_model, cost_document, cost_line, predicted_line
    from search.prediction.cost_model import predict
    from search.tables import latency_table

    device = load_device(options.device)
    path = Path(options.model)
    if path.is_dir():
        path = path / "model.onnx"
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    facts = graph_facts(path)
    model = chosen_cost_model(device, options.predict, options.cost_model)
    # A device that cannot be measured is only predicted, if at all.
    alone = model is not None and device.kind != "measured"
    try:
        with closing(DeviceLock(lock_folder(device))) as lock:
            level = LEVELS[options.level]

            def timed(file: Path, _: str) -> Latency:
                return time_model(file, device, level=level, hop_ms=options.hop_ms, lock=lock)

            latency = None if alone else of_each_frame(path, timed)
        predicted = None
        if model is not None:
            hop_ms, costs = options.hop_ms, model
            predicted = of_each_frame(path, lambda file, _: predict(file, costs, hop_ms=hop_ms), predicted=True)
    except MeasurementFailed as error:
        raise InputError(str(error)) from error
    cost = cost_document(facts, options.hop_ms)
    if options.json:
        found = {"latency": latency, **({} if predicted is None else {"predicted": predicted})}
        by_device = {
            key: {} if one is None else {device.name: one.model_dump(mode="json")} for key, one in found.items()
        }
        print(json.dumps({"model": str(path), "cost": cost, **by_device}))
        return 0
    print(cost_line(cost))
    if predicted is not None:
        print(predicted_line(predicted, latency))
    if latency is not None:
        title = f"{path.name} on {device.name}: {latency.kind} ({latency.source}), {latency.level}"
        _console().print(latency_table(latency, title))
        _print_once(latency)
    for each in (latency, predicted):
        if each is not None and each.shut is not None:
            print(f"gates: what is {each.kind} above is the worst frame, all open; shut p50 {each.shut.p50_ms:.4f} ms")
    return 0


def _print_once(latency: Latency) -> None:
    """What belongs to neither mode."""
    found = latency.environment
    print(f"session {found['session_ms']:.1f} ms, first call {found['first_call_ms']:.3f} ms; both apart from the rest")
    if latency.peak_memory_bytes is not None and latency.model_memory_bytes is not None:
        added, peak = latency.model_memory_bytes / 2**20, latency.peak_memory_bytes / 2**20
        print(f"memory: {added:.1f} MiB for the model, {peak:.1f} MiB for the whole process at its peak")
    if latency.paced is None and latency.hop_ms is None:
        print("paced: not measured, the hop is unknown; give --hop-ms", file=sys.stderr)
    elif latency.paced is None and latency.rtf is not None:
        print(f"paced: not measured, a hop of {latency.hop_ms:g} ms is a segment; real-time factor {latency.rtf:.4f}")
    if latency.flags:
        print(f"flags: {', '.join(latency.flags)}")


def train(options: Namespace) -> int:
    from search.device import require_torch_device
    from search.device_lock import DeviceLock, lock_folder
    from search.preflight import check_trust
    from search.study import cache_folder
    from sekd.distillation import distill, hash_of_weights, load_config, training_audio
    from sekd.evaluation_export import write_evaluation
    from sekd.export import export_error
    from sekd.quantize import write_deployed
    from sekd.train import Progress, Run

    config = load_config(options.config)
    check_trust(config, options.trust_code)
    require_torch_device(options.torch_device)
    out = Path(options.out) if options.out else Path(options.config).with_suffix("")
    say = _say(options)
    shown = {"share": 0.0}

    def progress(now: Progress) -> None:
        if now.step / now.steps >= shown["share"] + 0.05 or now.step == now.steps:
            shown["share"] = now.step / now.steps
            terms = ", ".join(f"{name} {value:.4g}" for name, value in now.terms.items())
            gates = "" if now.gate is None else f", {now.gate:.0%} of the gates open"
            say(f"step {now.step} of {now.steps}: {terms}{gates}")

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot write here: {error.strerror}") from error
    lock = DeviceLock(lock_folder())  # a study on this machine may be measuring
    run = Run(torch_device=options.torch_device, on_progress=progress, step_guard=lock.step)
    student = distill(
        config, cache=cache_folder(), folder=out, run=run, turn=lock, say=say, trust_code=options.trust_code
    )  # fmt: skip
    # A network that cannot stream is made to teach, and a teacher is its weights.
    audio = training_audio(config, student.prepared, cache_folder())
    streams = config.student.streams
    export = write_deployed(student.model, config.deploy, out / "model.onnx", audio) if streams else None
    evaluations = write_evaluation(student.model, out)
    document = {
        "model": str(export.path if export else out / "model.safetensors"),
        "weights_hash": hash_of_weights(student.model),
        "train_seconds": student.train_seconds,
        "export_error": export_error(student.model, export.path) if export else None,
        "hashes": student.prepared.hashes.model_dump(),
        "environment": student.environment,
    }
    if options.json:
        print(json.dumps(document))
    else:
        files = "and model.onnx" if export else "alone (it cannot stream)"
        beside = ", evaluation.onnx and run_evaluations.py beside it" if evaluations else ""
        print(f"wrote {out / 'model.safetensors'} {files}{beside}, weights {document['weights_hash']}")
    return 0


def evaluate(options: Namespace) -> int:
    from sekd.evaluate import USUAL_METRICS
    from sekd.evaluate import evaluate as score
    from sekd.torch_enhancer import load_enhancer

    say = _say(options)
    enhancer = load_enhancer(Path(options.model))

    def progress(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            say(f"{done} of {total} files")

    metrics = tuple(dict.fromkeys([*USUAL_METRICS, *options.metric]))
    result = score(enhancer, Path(options.pairs), metrics=metrics, progress=progress)
    if options.json:
        print(json.dumps(result.model_dump(mode="json")))
        return 0
    table = Table(title=f"{options.model} on {result.files} files")
    for name in ("metric", "enhanced", "95 % interval", "unprocessed", "difference", "95 % interval of it"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for metric, score_ in result.intervals.items():
        gain = result.difference[metric]
        table.add_row(
            metric, _three(score_.mean), _range(score_.low, score_.high), _three(result.unprocessed[metric]),
            _three(gain.mean), _range(gain.low, gain.high),
        )  # fmt: skip
    _console().print(table)
    for name, reason in result.failed.items():
        print(f"failed: {name}: {reason}")
    return 0


def enhance(options: Namespace) -> int:
    from sekd.enhance import enhance_file, enhance_folder
    from sekd.torch_enhancer import load_enhancer

    say = _say(options)
    enhancer = load_enhancer(Path(options.model))
    source, target = Path(options.source), Path(options.target)
    if source.is_dir():
        folder = enhance_folder(enhancer, source, target, say)
        if options.json:
            print(json.dumps(folder.model_dump(mode="json")))
        else:
            print(f"wrote {len(folder.files)} files to {target}; {len(folder.failed)} failed")
        return 1 if folder.failed else 0
    summary = enhance_file(enhancer, source, target, say)
    if options.json:
        print(json.dumps(summary.model_dump(mode="json")))
    else:
        print(f"wrote {target}: {summary.duration_s:.2f} s in {summary.seconds:.2f} s")
    return 0


def demo_corpus(options: Namespace) -> int:
    from sekd.demo_corpus import make_demo_corpus

    manifest = make_demo_corpus(Path(options.folder), seed=options.seed, minutes=options.minutes, progress=print)
    print(f"wrote {manifest}")
    return 0


def _say(options: Namespace):
    return lambda line: print(line, file=sys.stderr if options.json else sys.stdout, flush=True)


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=160)
