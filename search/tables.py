"""Tables for the terminal: a front, a selection, the device profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from search.gate_figures import gated
from search.labels import (
    ABSENT,
    QUANTITIES,
    figure,
    heading,
    kind_of,
    settings,
    settings_text,
    shared_settings,
    shown,
)
from search.latency import Latency, Spread
from search.record import EXPECTED, TrialRecord
from search.selection import LIMITS, fits

# Always worth seeing beside whatever the study optimises.
ALWAYS = ("pesq_wb", "latency_ms", "paced_p95_ms", "macs_per_s", "weight_kib")


def columns_of(objectives: Sequence[str], records: Sequence[TrialRecord] = ()) -> list[str]:
    """Quantities that a table of students shows: metrics first, then costs, each once.

    What is expected is shown where some have gates; of the others it is the worst frame again.
    """
    always = (*ALWAYS, *EXPECTED) if gated(records) else ALWAYS
    return [name for name in QUANTITIES if name in objectives or name in always]


def front_table(
    records: Sequence[TrialRecord], objectives: Sequence[str], device: str, *, title: str | None = None
) -> Table:
    """One row per student; a latency column that holds no measurements says so in its heading."""
    table, columns, kind = _table(title), columns_of(objectives, records), kind_of(records, device)
    table.add_column("#", justify="right")
    table.add_column("student", overflow="fold", ratio=1)
    for name in columns:
        table.add_column(Text(heading(name, kind)), justify="right")
    for record, values in zip(records, settings(records), strict=True):
        figures = [figure(record, name, device, kind) for name in columns]
        table.add_row(str(record.number), Text(settings_text(values)), *(Text(text) for text in figures))
    alike = shared_settings(records)
    mixes = sorted({record.cost.load_mix for record in records if record.cost is not None and record.cost.load_mix})
    told = [f"all: {settings_text(alike)}"] if alike else []
    told += [f"expected by the load on {', '.join(mixes)}"] if mixes else []
    table.caption = "; ".join(told) or None
    return table


def selection_table(
    selected: TrialRecord | None,
    nearest: Sequence[TrialRecord],
    limits: Mapping[str, float],
    device: str,
    objectives: Sequence[str] = (),
) -> Table:
    """The selected student, or the nearest misses with what each is over its limits by."""
    if selected is not None:
        return front_table([selected], objectives, device, title=f"selected for {device}")
    kind = kind_of(nearest, device)
    table = _table(f"nothing fits on {device}; the nearest students")
    table.add_column("#", justify="right")
    table.add_column("student", overflow="fold", ratio=1)
    for key in limits:
        table.add_column(Text(f"{heading(LIMITS[key], kind)}\n{_bound(key, limits[key])}"))
    for record, values in zip(nearest, settings(nearest), strict=True):
        over = {violation.key for violation in fits(record, limits, device, kind=kind)}
        cells = [
            Text(
                shown(LIMITS[key], record.value(LIMITS[key], device, kind=kind)),
                style="red" if key in over else "",
            )
            for key in limits
        ]
        table.add_row(str(record.number), Text(settings_text(values)), *cells)
    return table


def _bound(key: str, limit: float) -> str:
    return f"{'at least' if key.startswith('min_') else 'at most'} {shown(LIMITS[key], limit)}"


def latency_table(latency: Latency, title: str) -> Table:
    """Both modes, each percentile with the upper bound that holds with 99 % confidence."""
    table = _table(title)
    table.add_column("mode")
    for name in ("p50", "p90", "p95", "p99"):
        table.add_column(Text(f"{name} ms (at most)"), justify="right")
    for name in ("frames", "missed"):
        table.add_column(name, justify="right")
    for mode, spread in (("burst", latency.burst), ("paced", latency.paced)):
        if spread is not None:
            cells = [_with_bound(spread, name) for name in ("p50", "p90", "p95", "p99")]
            missed = getattr(spread, "miss_share", None)
            table.add_row(mode, *cells, str(spread.n), ABSENT if missed is None else f"{missed:.1%}")
    return table


def _with_bound(spread: Spread, name: str) -> str:
    value, bound = getattr(spread, f"{name}_ms"), getattr(spread, f"{name}_upper_ms")
    return ABSENT if value is None else f"{value:.4f} ({bound:.4f})"


def devices_table(profiles: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """Device profiles, one row each, with the keys in ``columns``; what a profile does not say is ``-``."""
    table = _table(None)
    for name in columns:
        table.add_column(Text(name.replace("_", " ")), overflow="fold")
    for profile in profiles:
        values = [profile.get(name) for name in columns]
        table.add_row(*(Text(ABSENT if value is None else str(value)) for value in values))
    return table


def _table(title: str | None) -> Table:
    return Table(title=Text(title) if title else None, header_style="bold", title_justify="left")
