"""What a figure of a front shows, gathered before anything is drawn."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from search.labels import QUANTITIES, figure, heading, kind_of, settings, settings_text
from search.record import DIRECTIONS, EXPECTED, METRICS, Kind, Score, TrialRecord
from search.selection import fits, front_of

# Scores of what students are compared with, by name: {"unprocessed": {"pesq_wb": …}, "teacher": {…}}.
Baseline = Mapping[str, Mapping[str, Score | None]]


class Points(NamedTuple):
    """Students as parallel lists, in the units of the axes; ``hover`` is escaped for HTML."""

    x: list[float]
    y: list[float]
    hover: list[str]


class FrontFacts(NamedTuple):
    """One cost on x, one metric on y, and every student that has a place between them.

    ``front`` lies on the stairs; ``elsewhere`` is on the front for the sake of another objective.
    """

    x_label: str
    y_label: str
    evaluated: Points
    over: Points
    untrained: Points
    front: Points
    elsewhere: Points
    selected: Points
    lines: dict[str, float]
    x_limit: float | None
    y_limit: float | None
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log_x: bool


def axes_of(objectives: Sequence[str]) -> tuple[str, str]:
    """The first cost (x) and the first metric (y) of ``objectives``."""
    costs = [name for name in objectives if DIRECTIONS[name] == "minimize"]
    metrics = [name for name in objectives if name in METRICS]
    if not costs or not metrics:
        raise ValueError(f"a front needs a metric and a cost, not {list(objectives)}")
    return costs[0], metrics[0]


def front_facts(
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    device: str,
    *,
    limits: Mapping[str, float] | None = None,
    selected: TrialRecord | None = None,
    baseline: Baseline | None = None,
) -> FrontFacts:
    """Facts of the front of all ``objectives``, seen along the first cost and the first metric."""
    (x_name, y_name), limits = axes_of(objectives), limits or {}
    kind = kind_of(records, device)
    place = _Placement(x_name, y_name, device, kind, _hovers(records, device, kind))
    stairs = front_of(records, [y_name, x_name], limits, device, kind=kind)
    elsewhere = [record for record in front_of(records, objectives, limits, device, kind=kind) if record not in stairs]
    over = [record for record in records if fits(record, limits, device, kind=kind)]
    apart = {id(record) for record in [*stairs, *elsewhere, *over]}
    gated = [record for record in records if record.status == "INFEASIBLE" and record.score(y_name) is None]
    untrained = place.costs(gated)
    placed, lines = place.points(records), _lines(baseline or {}, y_name)
    x_limit, y_limit = _scaled(x_name, limits.get(x_name)), limits.get(f"min_{y_name}")
    # A budget far beyond every student would squeeze them into a corner.
    near = [x_limit] if x_limit and x_limit < 2 * max([*placed.x, *untrained.x], default=0) else []
    log_x = _spans_a_decade([*placed.x, *untrained.x])
    y_range = _padded([*placed.y, *lines.values(), *([y_limit] if y_limit is not None else [])], log=False)
    return FrontFacts(
        x_label=heading(x_name, kind, device),
        y_label=heading(y_name),
        evaluated=place.points(record for record in records if id(record) not in apart),
        over=place.points(over),
        untrained=untrained._replace(y=[y_range[0]] * len(untrained.x)),
        front=place.points(stairs),
        elsewhere=place.points(elsewhere),
        selected=place.points([selected] if selected else []),
        lines=lines,
        x_limit=near[0] if near else None,
        y_limit=y_limit,
        x_range=_padded([*placed.x, *untrained.x, *near], log=log_x),
        y_range=y_range,
        log_x=log_x,
    )


class _Placement(NamedTuple):
    """Where records lie between two axes."""

    x_name: str
    y_name: str
    device: str
    kind: Kind
    hovers: dict[tuple[int, str], str]

    def x(self, record: TrialRecord) -> float | None:
        return _scaled(self.x_name, record.value(self.x_name, self.device, kind=self.kind))

    def points(self, records: Iterable[TrialRecord]) -> Points:
        """Those that have both a cost and a score."""
        return _columns(
            [
                (x, y, self.hovers[_key(record)])
                for record in records
                if (x := self.x(record)) is not None and (y := record.score(self.y_name)) is not None
            ]
        )

    def costs(self, records: Iterable[TrialRecord]) -> Points:
        """Those that have a cost, at a score of 0 that the caller replaces."""
        return _columns([(x, 0.0, self.hovers[_key(r)]) for r in records if (x := self.x(r)) is not None])


def _columns(rows: list[tuple[float, float, str]]) -> Points:
    return Points([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def _key(record: TrialRecord) -> tuple[int, str]:
    return record.number, record.variant_id


def _hovers(records: Sequence[TrialRecord], device: str, kind: Kind) -> dict[tuple[int, str], str]:
    """Per student its number, status, settings and figures, as the little HTML that plotly understands."""
    shown = [*METRICS, "latency_ms", "paced_p95_ms", "macs_per_s", "weight_kib"]
    texts = {}
    for record, values in zip(records, settings(records), strict=True):
        lines = [f"<b>#{record.number}</b> {record.status}", html.escape(settings_text(values))]
        own = [*shown, *(EXPECTED if record.cost is not None and record.cost.gated else ())]
        figures = [(heading(name, kind), figure(record, name, device, kind)) for name in own]
        lines += [f"{title}: {text}" for title, text in figures if text != "-"]
        if record.reason:
            lines.append(html.escape(record.reason))
        texts[_key(record)] = "<br>".join(lines)
    return texts


def _lines(baseline: Baseline, metric: str) -> dict[str, float]:
    means = {name: score.mean for name, scores in baseline.items() if (score := scores.get(metric))}
    return {name: mean for name, mean in means.items() if mean is not None}


def _scaled(name: str, value: float | None) -> float | None:
    return None if value is None else value * QUANTITIES[name].scale


def _spans_a_decade(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > 10 * min(values)


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade in a range; the decades alone where it spans more than three."""
    steps = (1,) if high > 1000 * low else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _padded(values: Sequence[float], *, log: bool) -> tuple[float, float]:
    """The range of ``values`` and some air around it."""
    if not values:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        air = (high / low) ** 0.06
        return low / air, high * air
    air = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return low - air, high + air
