"""Model card of a student that is handed over: scores, cost, latency, and what of it is promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.certificate import Certificate
from search.gate_figures import gate_figures
from search.labels import heading, shown
from search.record import Cost, Kind, TrialRecord
from search.results import Results
from sekd import __version__
from sekd.models import ConsistencyNetConfig, NetworkConfig
from sekd.models.base import SAMPLE_RATE
from sekd.models.consistency import SegmentedPathConfig

MEASURED = ("contended", "noisy", "slowed", "drift")  # flags of a latency, told with the latency of the device
RENOISED = {"published": "the output itself", "marginal": "the mean of the path"}


def card_text(
    results: Results,
    record: TrialRecord,
    limits: Mapping[str, float],
    takes: str,
    dtype: str,
    certificate: Certificate | None,
    *,
    network: NetworkConfig | None = None,
    scored: TrialRecord | None = None,
) -> str:
    """Model card: what it is, what it scored on how many files, what it costs, how that was found."""
    device, kind = results.device, results.kind
    latency = record.latency.get(device, {})
    manner = "segment-wise" if isinstance(network, SegmentedPathConfig) else "causal"
    lines = [
        f"# Student {record.number} of study {results.study.name}",
        "",
        f"A {manner} speech enhancement network for {device}: 16 kHz, one channel, streaming; sekd {__version__}.",
        f"`model.onnx` takes {takes};",
        "`sekd enhance . IN OUT` enhances files; `sekd train config.toml` makes it again.",
        *(
            [f"It is quantised, {dtype}: `model.safetensors` holds the weights in float, as they were trained."]
            if dtype != "fp32"
            else []
        ),
        *_segment_lines(network),
        *_evaluation_lines(network),
        "",
        "## Scores on the validation pairs",
        "",
        *_not_scored(record, scored),
        "| metric | this student | 95 % interval | files | unprocessed | teacher |",
        "|---|---|---|---|---|---|",
        *_score_rows(results, scored or record),
        "",
        "## Cost",
        "",
        "| figure | value | how |",
        "|---|---|---|",
        *_cost_rows(record, device, kind, latency),
        "",
        *_gate_lines(record, device, kind),
        *_latency_notes(device, latency),
        f"Budget: {', '.join(f'{key} = {value:g}' for key, value in limits.items()) or 'none'}.",
        "",
        *_certificate_lines(device, certificate),
        "",
        "## Settings",
        "",
        *(f"- `{key}` = {value}" for key, value in record.params.items()),
        *(f"- `{key}` = {value} (set after training)" for key, value in record.variant.items()),
        f"- trial id `{record.trial_id}`",
        *([f"- variant id `{record.variant_id}`"] if record.variant else []),
        *([f"- flags: {', '.join(own)}"] if (own := [flag for flag in record.flags if flag not in MEASURED]) else []),
        *(["- scores above its teacher on the validation pairs"] if record.teacher_beaten else []),
    ]
    return "\n".join(lines) + "\n"


def _not_scored(record: TrialRecord, scored: TrialRecord | None) -> list[str]:
    """Whose scores these are, where they are not of this file."""
    if scored is None or record.cost is None or scored.cost is None:
        return []
    return [
        f"Nothing was scored at this file's gate threshold, {record.cost.gate_threshold:g}. These are the scores of "
        f"the same weights at {scored.cost.gate_threshold:g}, and not this student's:",
        "",
    ]


def _segment_lines(network: NetworkConfig | None) -> list[str]:
    if not isinstance(network, SegmentedPathConfig):
        return []
    segment_ms = 1000 * (network.segment_frames - 1) * network.spectra.hop / SAMPLE_RATE
    return [f"It hears segments of {segment_ms:g} ms whole: this is its algorithmic latency, however fast it computes."]


def _evaluation_lines(network: NetworkConfig | None) -> list[str]:
    """What a consistency student was chosen to do, and how to have it do something else."""
    if not isinstance(network, ConsistencyNetConfig):
        return []
    times = ", ".join(f"{t:.3g}" for t in network.times)
    count = "1 evaluation" if network.steps == 1 else f"{network.steps} evaluations"
    return [
        f"`model.onnx` unrolls {count} of a consistency function (t = {times}). {_noise_line(network)}",
        "`evaluation.onnx` is one evaluation, in float; `python run_evaluations.py evaluation.onnx IN OUT --steps N`",
        "takes as many as you like, and needs nothing of sekd.",
    ]


def _noise_line(network: ConsistencyNetConfig) -> str:
    scale = network.noise_scale
    begins, verb = (f"starts with noise of scale {scale:g}", "renoises") if scale else ("adds no noise", "goes on from")
    further = f" and {verb} {RENOISED[network.renoise]}" if network.steps > 1 else ""
    seeded = f"the noise is that of seed {network.noise_seed} and part of the file, so " if scale else ""
    return f"It {begins}{further}; {seeded}the same input always gives the same output."


def _gate_lines(record: TrialRecord, device: str, kind: Kind) -> list[str]:
    rows = [f"| {figure.title} | {figure.text} | {figure.how} |" for figure in gate_figures(record, device, kind)]
    if not rows:
        return []
    return [
        "### Gates",
        "",
        "Part of this network runs only in frames where its policy says so: where the probability is at least the",
        "threshold. Every figure above is of the worst frame, all gates open, which a deadline must allow for.",
        "What is expected is a mean over the mix, which is energy; another mix has another load.",
        "",
        "| figure | value | how |",
        "|---|---|---|",
        *rows,
        "",
    ]


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
        f"{where.get('threads', 1)} thread(s), fresh processes: {where.get('processes', 1)}, {latency['at']}: "
        f"burst is the median of {burst.get('n')} frames back to back; "
        f"paced is the 99 % upper bound of the 95th percentile of {paced.get('n', 0)} frames, one per hop{flags}.",
        "",
    ]


def _certificate_lines(device: str, certificate: Certificate | None) -> list[str]:
    """What of the latency is promised; a student without a certificate says so."""
    lines = ["## Certificate", ""]
    if certificate is None:
        return [*lines, "None: the latency of this file was not measured when it was handed over."]
    latency = certificate.latency
    verdict = "Certified." if certificate.certified else f"Not certified: {'; '.join(certificate.reasons)}."
    frames = f"{latency.n} frames back to back and {latency.paced.n if latency.paced else 0} at one per hop"
    held = "" if latency.shut is None else " with its gates held open (and as often shut)"
    lines += [
        f"{verdict} This very file{held}, {frames}, in three fresh processes on {device}, {latency.at}.",
        "Each bound holds with 99 % confidence (order statistics) for that machine in that state.",
        "",
        "| limit | at most | allowed | kept |",
        "|---|---|---|---|",
        *(
            f"| {promise.key} | {'-' if promise.value is None else f'{promise.value:.4g}'} | {promise.limit:g} "
            f"| {'yes' if promise.kept else 'no'} |"
            for promise in certificate.promises
        ),
    ]
    for mode, spread in (("burst", latency.burst), ("paced", latency.paced)):
        if spread is not None:
            bounds = (spread.p50_upper_ms, spread.p95_upper_ms, spread.p99_upper_ms)
            p50, p95, p99 = ("-" if bound is None else f"{bound:.4g}" for bound in bounds)
            lines.append(f"| {mode} p50 / p95 / p99, ms | {p50} / {p95} / {p99} | - | - |")
    if latency.paced is not None and latency.paced.miss_share is not None:
        lines.append(f"| frames later than a hop | {latency.paced.miss_share:.2%} | - | - |")
    return lines
