"""How quantities, scores and students are named for people: one wording for tables, figures and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from search.record import DIRECTIONS, LATENCIES, METRICS, Kind, Score, TrialRecord

ABSENT = "-"


class Quantity(NamedTuple):
    """Title and unit of an objective as shown, the factor to that unit, and digits after the point."""

    title: str
    unit: str
    scale: float = 1.0
    digits: int = 2


QUANTITIES: dict[str, Quantity] = {
    "pesq_wb": Quantity("PESQ (wideband)", "MOS"),
    "pesq_nb": Quantity("PESQ (narrowband)", "MOS"),
    "estoi": Quantity("ESTOI", "", digits=3),
    "si_sdr_db": Quantity("SI-SDR", "dB"),
    "dnsmos_ovrl": Quantity("DNSMOS overall", "MOS"),
    "latency_ms": Quantity("latency p50", "ms", digits=3),
    "paced_p95_ms": Quantity("paced p95", "ms", digits=3),
    "total_latency_ms": Quantity("total latency", "ms"),
    "rtf": Quantity("real-time factor", "", digits=4),
    "expected_latency_ms": Quantity("expected latency", "ms", digits=3),
    "macs_per_s": Quantity("MACs/s", "M", 1e-6),
    "expected_macs_per_s": Quantity("expected MACs/s", "M", 1e-6),
    "weight_kib": Quantity("weights", "KiB", digits=1),
    "state_kib": Quantity("state", "KiB", digits=1),
    "parameters": Quantity("parameters", "", digits=0),
}


def heading(objective: str, kind: Kind = "measured", device: str | None = None) -> str:
    """Title with unit, and where a latency was measured; one that was not measured says so."""
    quantity = QUANTITIES[objective]
    text = f"{quantity.title} on {device}" if device and objective in LATENCIES else quantity.title
    text = f"{text}, {quantity.unit}" if quantity.unit else text
    return f"{text} ({kind})" if objective in LATENCIES and kind != "measured" else text


def limit_text(objective: str, limit: float) -> str:
    """``latency p50 at most 4 ms``."""
    quantity = QUANTITIES[objective]
    side = "at most" if DIRECTIONS[objective] == "minimize" else "at least"
    return f"{quantity.title} {side} {limit * quantity.scale:g} {quantity.unit}".rstrip()


def shown(objective: str, value: float | None) -> str:
    """``value`` in the unit of its heading, ``-`` where it is absent."""
    if value is None:
        return ABSENT
    quantity = QUANTITIES[objective]
    return f"{value * quantity.scale:,.{quantity.digits}f}"


def figure(record: TrialRecord, objective: str, device: str, kind: Kind = "measured") -> str:
    """What a table shows of ``objective``: metrics with their interval, costs in the heading's unit."""
    if objective in METRICS:
        return score_text(objective, record.scores.get(objective))
    return shown(objective, record.value(objective, device, kind=kind))


def score_text(metric: str, score: Score | None) -> str:
    """``2.41 [2.33, 2.49]``: a mean and its 95 % interval."""
    if score is None or score.mean is None:
        return ABSENT
    mean = shown(metric, score.mean)
    if score.low is None or score.high is None:
        return mean
    return f"{mean} [{shown(metric, score.low)}, {shown(metric, score.high)}]"


def kind_of(records: Sequence[TrialRecord], device: str) -> Kind:
    """The best kind of latency that any record has on ``device``: what a table of them may show."""
    kinds = {record.latency_kind(device) for record in records}
    if "measured" in kinds:
        return "measured"
    return "predicted" if "predicted" in kinds else "unmeasured"


def settings(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Per record its parameters and free knobs by short name, those alone that differ among ``records``."""
    full: list[dict[str, Any]] = [{**record.params, **record.variant} for record in records]
    names = list(dict.fromkeys(name for one in full for name in one))
    varying = [name for name in names if len({repr(one.get(name)) for one in full}) > 1] or names
    short = _short_names(varying)
    return [{short[name]: one[name] for name in varying if name in one} for one in full]


def shared_settings(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """What ``settings`` leaves out: parameters by short name that have one value in all of two or more ``records``."""
    full: list[dict[str, Any]] = [{**record.params, **record.variant} for record in records]
    same = [name for name in full[0] if all(one.get(name) == full[0][name] for one in full)] if len(full) > 1 else []
    if not same or len(same) == len({name for one in full for name in one}):  # then ``settings`` shows them all
        return {}
    return {short: full[0][name] for name, short in _short_names(same).items()}


def settings_text(values: Mapping[str, Any]) -> str:
    """``width 16, kind two_step``."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items()) or ABSENT


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """Last component of each dotted path, or the whole path where two would read the same."""
    last = {path: path.rsplit(".", 1)[-1] for path in paths}
    counts = list(last.values())
    return {path: name if counts.count(name) == 1 else path for path, name in last.items()}
