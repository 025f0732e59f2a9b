"""What `select` hands over: a verified streaming ONNX, what retrains it, what it scored, and what it sounds like."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from search.labels import heading, shown
from search.record import Cost, TrialRecord
from search.results import Results
from search.scoring import validation_pairs
from search.space import merged, nested
from sekd import __version__
from sekd.audio import read_audio, write_audio
from sekd.errors import InputError
from sekd.hops import HopEnhancer

EXAMPLES = 3
TAKES = {  # what the file takes per call, by its contract
    "spectrum": "one STFT frame and its states per call (in sherpa-onnx too, if `model_type` is `gtcrn`)",
    "wave": "one hop of samples and its states per call (`contract=wave`, not in sherpa-onnx)",
}


def write_package(
    results: Results,
    record: TrialRecord,
    source: Path,
    model: Path,
    out: Path,
    *,
    limits: Mapping[str, float],
    force: bool = False,
) -> Path:
    """Writes the package to ``out`` by rename; ``source`` is the trial's folder, ``model`` the student's ONNX.

    Raises:
        InputError: ``out`` is not empty (and not ``force``), cannot be written, or the trial's files are gone.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not force:
        raise InputError(f"{out}: not empty; name another --out, or use --force")
    from sekd.streaming import OnnxEnhancer

    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        shutil.copyfile(model, partial / "model.onnx")
        shutil.copyfile(source / "model.safetensors", partial / "model.safetensors")
        config = config_text(source, record.variant)
        (partial / "config.toml").write_text(config, encoding="utf-8")
        enhancer = OnnxEnhancer(partial / "model.onnx")
        _write_audio(results, partial, enhancer)
        dtype = tomllib.loads(config).get("deploy", {}).get("dtype", "fp32")
        card = card_text(results, record, limits, TAKES[enhancer.contract], dtype)
        (partial / "card.md").write_text(card, encoding="utf-8")
        _put_in_place(partial, out)
    except OSError as error:
        raise InputError(f"{out}: cannot write the package: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _put_in_place(partial: Path, out: Path) -> None:
    """Two renames, so that no moment is without a whole package."""
    if not out.exists():
        partial.rename(out)
        return
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.rename(old)
    partial.rename(out)
    shutil.rmtree(old)


def config_text(source: Path, setting: Mapping[str, Any]) -> str:
    """The configuration that makes the student again, at its setting: ``sekd train config.toml``."""
    document = merged(json.loads((source / "config.json").read_text()), nested(setting))
    facts = json.loads((source / "environment.json").read_text())
    document["expect"] = facts["hashes"]
    document["threads"] = facts["environment"]["threads"]
    text = tomlkit.document()
    made_with = ", ".join(f"{key} {value}" for key, value in facts["environment"].items())
    text.add(tomlkit.comment(f"sekd train {'config.toml'} gives the same weights, bit for bit, on CPU with"))
    text.add(tomlkit.comment(f"{made_with}. [expect] refuses other recordings or another teacher;"))
    text.add(tomlkit.comment("remove it to train on yours."))
    for key, value in _without_none(document).items():
        text[key] = value
    return tomlkit.dumps(text)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return value


def _write_audio(results: Results, folder: Path, enhancer: HopEnhancer) -> None:
    """Three validation pairs, from hard to easy, through the exported file itself."""
    for name, noisy, clean in examples(results):
        mixture = read_audio(noisy)
        place = folder / "audio"
        write_audio(place / f"{name}_noisy.flac", mixture)
        write_audio(place / f"{name}_enhanced.flac", enhancer.enhance(mixture))
        write_audio(place / f"{name}_clean.flac", read_audio(clean))


def examples(results: Results) -> list[tuple[str, Path, Path]]:
    """Validation pairs spread over how bad they are unprocessed."""
    facts = json.loads((results.folder / "shared.json").read_text())
    pairs = validation_pairs(Path(facts["valid"]))
    scores = json.loads((results.folder / "unprocessed.json").read_text())
    quality = results.study.objectives.quality
    ranked = sorted(pairs, key=lambda pair: scores[pair[0]][quality] or 0.0)
    places = [round(k * (len(ranked) - 1) / (EXAMPLES - 1)) for k in range(EXAMPLES)]
    return [ranked[place] for place in dict.fromkeys(places)]


def card_text(results: Results, record: TrialRecord, limits: Mapping[str, float], takes: str, dtype: str) -> str:
    """Model card: what it is, what it scored on how many files, what it costs, how that was found."""
    device, kind = results.device, results.kind
    latency = record.latency.get(device, {})
    lines = [
        f"# Student {record.number} of study {results.study.name}",
        "",
        f"A causal speech enhancement network for {device}: 16 kHz, one channel, streaming; sekd {__version__}.",
        f"`model.onnx` takes {takes};",
        "`sekd enhance . IN OUT` enhances files; `sekd train config.toml` makes it again.",
        *(
            [f"It is quantised, {dtype}: `model.safetensors` holds the weights in float, as they were trained."]
            if dtype != "fp32"
            else []
        ),
        "",
        "## Scores on the validation pairs",
        "",
        "| metric | this student | 95 % interval | files | unprocessed | teacher |",
        "|---|---|---|---|---|---|",
        *_score_rows(results, record),
        "",
        "## Cost",
        "",
        "| figure | value | how |",
        "|---|---|---|",
        *_cost_rows(record, device, kind, latency),
        "",
        *_latency_notes(device, latency),
        f"Budget: {', '.join(f'{key} = {value:g}' for key, value in limits.items()) or 'none'}.",
        "",
        "## Settings",
        "",
        *(f"- `{key}` = {value}" for key, value in record.params.items()),
        *(f"- `{key}` = {value} (set after training)" for key, value in record.variant.items()),
        f"- trial id `{record.trial_id}`",
        *([f"- variant id `{record.variant_id}`"] if record.variant else []),
        *([f"- flags: {', '.join(record.flags)}"] if record.flags else []),
        *(["- scores above its teacher on the validation pairs"] if record.teacher_beaten else []),
    ]
    return "\n".join(lines) + "\n"


def _score_rows(results: Results, record: TrialRecord) -> list[str]:
    def baseline(name: str, metric: str) -> str:
        score = results.baseline.get(name, {}).get(metric)
        return "-" if not score or score["mean"] is None else f"{score['mean']:.3f}"

    rows = []
    for metric, score in record.scores.items():
        if score is None or score.mean is None:
            continue
        spread = f"{score.low:.3f} to {score.high:.3f}" if score.low is not None else "-"
        others = f"{baseline('unprocessed', metric)} | {baseline('teacher', metric)}"
        rows.append(f"| {metric} | {score.mean:.3f} | {spread} | {score.n} | {others} |")
    return rows


def _cost_rows(record: TrialRecord, device: str, kind: Any, latency: Mapping[str, Any]) -> list[str]:
    counted = [
        f"| {heading(name)} | {shown(name, record.value(name, device))} | counted |"
        for name in ("parameters", "macs_per_s", "weight_kib", "state_kib")
    ]
    counted += [] if record.cost is None else _graph_rows(record.cost)
    timed = [
        f"| {heading(name, kind)} | {shown(name, record.value(name, device, kind=kind))} | {latency.get('kind')} |"
        for name in ("latency_ms", "paced_p95_ms", "rtf", "total_latency_ms")
    ]
    return counted + timed


def _graph_rows(cost: Cost) -> list[str]:
    """What the exported graph tells; records of earlier versions lack some."""
    rows = [
        ("graph nodes", cost.graph_nodes, "d", "counted"),
        (
            "activations, KiB",
            None if cost.activation_bytes is None else cost.activation_bytes / 1024,
            ".1f",
            "estimate",
        ),
        ("operators counted or known to be free", cost.mac_coverage, ".0%", "counted"),
        ("algorithmic latency, ms", cost.algorithmic_latency_ms, "g", "window"),
    ]
    return [f"| {title} | {value:{digits}} | {how} |" for title, value, digits, how in rows if value is not None]


def _latency_notes(device: str, latency: Mapping[str, Any]) -> list[str]:
    if latency.get("kind") == "predicted":
        low, high = latency.get("interval_ms") or (None, None)
        within = "" if low is None else f", 90 % interval {low:.4g} to {high:.4g} ms"
        flags = f"; flags: {', '.join(latency['flags'])}" if latency.get("flags") else ""
        return [f"Latency on {device} is predicted by a cost model, not measured{within}{flags}.", ""]
    if latency.get("kind") != "measured":
        return [f"Latency on {device} was not measured.", ""]
    where = latency.get("environment", {})
    burst, paced = latency.get("burst") or {}, latency.get("paced") or {}
    flags = f"; flags: {', '.join(latency['flags'])}" if latency.get("flags") else ""
    return [
        f"Latency of one {latency['hop_ms']:g} ms hop on {device}, onnxruntime {where.get('onnxruntime', '?')}, "
        f"one thread, in a fresh process, {latency['at']}: "
        f"burst is the median of {burst.get('n')} frames back to back; "
        f"paced is the 99 % upper bound of the 95th percentile of {paced.get('n', 0)} frames, one per hop{flags}.",
        "",
    ]
