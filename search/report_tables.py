"""The tables of the report, as HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from search.facts import Baseline
from search.gate_figures import gate_figures, gated
from search.labels import figure, heading, kind_of, score_text, settings, settings_text
from search.record import METRICS, Kind, TrialRecord
from search.report_page import table
from search.tables import columns_of


def baseline_table(baseline: Baseline) -> str:
    """Scores of what students are compared with, one row each."""
    metrics = [name for name in METRICS if any(name in scores for scores in baseline.values())]
    rows = []
    for name, scores in baseline.items():
        pairs = max((score.n for score in scores.values() if score), default=0)
        cells = [f"<td>{html.escape(score_text(metric, scores.get(metric)))}</td>" for metric in metrics]
        rows.append(f"<tr>{_text(name)}{_text(str(pairs))}{''.join(cells)}</tr>")
    return table(["signal", "pairs", *(heading(name) for name in metrics)], rows) if rows else ""


def importance_table(importances: Mapping[str, float]) -> str:
    """How much of the variation each knob explains, as bars, largest first."""
    largest = max(importances.values(), default=0) or 1
    rows = []
    for name, share in sorted(importances.items(), key=lambda item: -item[1]):
        bar = f'<div class="bar" style="width:{100 * share / largest:.1f}%"></div>'
        rows.append(f'<tr>{_text(name)}<td class="text half">{bar}</td><td>{100 * share:.0f} %</td></tr>')
    return table(["knob", "", "share of the variation"], rows) if rows else ""


def student_table(
    records: Sequence[TrialRecord],
    front: Sequence[TrialRecord],
    selected: TrialRecord | None,
    objectives: Sequence[str],
    device: str,
) -> str:
    """Every student with every figure the study has; a click on a heading sorts."""
    kind = kind_of(records, device)
    scored = [name for name in METRICS if any(record.score(name) is not None for record in records)]
    names = columns_of([*objectives, *scored], records)
    marks = {_key(record): "front" for record in front}
    if selected is not None:
        marks[_key(selected)] = "selected"
    rows = [
        f'<tr class="{marks.get(_key(record), "")}">{_student(record, values, names, device, kind)}</tr>'
        for record, values in zip(records, settings(records), strict=True)
    ]
    heads = ["#", "student", "status", *(heading(name, kind) for name in names), "training, s"]
    note = "Scores are means with 95 % intervals. Shaded: on the front. Click a heading to sort."
    return f'<p class="note">{note}</p>' + table(heads, rows, kind="sortable")


def gate_table(records: Sequence[TrialRecord], device: str) -> str:
    """Every trained student with gates: how often they are open, and what a frame costs either way."""
    shown = [record for record in gated(records) if record.trained]
    if not shown:
        return ""
    kind = kind_of(records, device)
    rows = []
    for record, values in zip(shown, settings(shown), strict=True):
        figures = gate_figures(record, device, kind)
        heads = ["#", "student", *(figure.title for figure in figures)]
        cells = "".join(f"<td>{html.escape(figure.text)}</td>" for figure in figures)
        rows.append(f"<tr>{_text(str(record.number))}{_text(settings_text(values))}{cells}</tr>")
    note = "Open is the worst frame, which a deadline must allow for; expected is the mean over the mix, by the load."
    return f'<p class="note">{note}</p>' + table(heads, rows)


def _student(record: TrialRecord, values: Mapping[str, object], names: Sequence[str], device: str, kind: Kind) -> str:
    status = f'<td class="text status {record.status.lower()}" title="{html.escape(record.reason or "")}">'
    seconds = record.seconds.train
    cells = [
        f'<td class="text" data-value="{record.number}">{record.number}</td>',
        f'<td class="text long">{html.escape(settings_text(values))}</td>',
        f"{status}{record.status}</td>",
        *(_cell(record.value(n, device, kind=kind), figure(record, n, device, kind)) for n in names),
        _cell(seconds, "-" if seconds is None else f"{seconds:,.0f}"),
    ]
    return "".join(cells)


def _text(text: str) -> str:
    return f'<td class="text">{html.escape(text)}</td>'


def _cell(value: float | None, text: str) -> str:
    return f'<td data-value="{"" if value is None else repr(value)}">{html.escape(text)}</td>'


def _key(record: TrialRecord) -> tuple[int, str]:
    return record.number, record.variant_id
