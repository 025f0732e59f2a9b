"""One self-contained HTML page about a study: the front, every student, what they sound like."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from search.facts import Baseline
from search.labels import heading, kind_of, limit_text, shown
from search.plot import front_figure
from search.record import DIRECTIONS, TrialRecord
from search.report_page import page, section
from search.report_tables import baseline_table, gate_table, importance_table, student_table
from search.selection import LIMITS, front_of


class AudioExample(NamedTuple):
    """One validation pair before and after, as the bytes of WAV or FLAC files."""

    name: str
    noisy: bytes
    enhanced: bytes
    clean: bytes | None = None


def write_report(
    path: str | os.PathLike[str],
    *,
    study_name: str,
    definition_text: str,
    device: str,
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    limits: Mapping[str, float],
    selected: TrialRecord | None = None,
    baseline: Baseline | None = None,
    audio: Sequence[AudioExample] = (),
    commands: Sequence[str] = (),
    importances: Mapping[str, float] | None = None,
) -> None:
    """Write the page to ``path``, whole or not at all; it needs no network and no other file."""
    front = front_of(records, objectives, limits, device, kind=kind_of(records, device))
    sections = [
        _header(study_name, device, limits),
        section("At a glance", _glance(records, front, selected, objectives, device)),
        section("The front", _figures(records, objectives, device, limits, selected, baseline)),
        section("Before and after", "".join(_players(example) for example in audio)),
        section("Unprocessed and teacher", baseline_table(baseline or {})),
        section("What the search learned", importance_table(importances or {})),
        section("Every student", student_table(records, front, selected, objectives, device)),
        section("Gates", gate_table(records, device)),
        _folded("Definition", f"<pre>{html.escape(definition_text)}</pre>"),
        section("Commands", f"<pre>{html.escape(chr(10).join(commands))}</pre>" if commands else ""),
    ]
    _write(Path(path), page(f"{study_name} on {device}", sections))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _header(study_name: str, device: str, limits: Mapping[str, float]) -> str:
    budget = ", ".join(limit_text(LIMITS[key], limit) for key, limit in limits.items()) or "no limits"
    return (
        f"<header><h1>{html.escape(study_name)}</h1>"
        f'<p class="soft">Students for {html.escape(device)} within: {html.escape(budget)}</p></header>'
    )


def _glance(
    records: Sequence[TrialRecord],
    front: Sequence[TrialRecord],
    selected: TrialRecord | None,
    objectives: Sequence[str],
    device: str,
) -> str:
    kind = kind_of(records, device)
    statuses = [record.status for record in records]
    counts = ", ".join(f"{statuses.count(s)} {s.lower()}" for s in dict.fromkeys(statuses)) or "none yet"
    tiles = [(str(len(records)), f"students: {counts}"), (str(len(front)), "on the front")]
    if selected is not None:
        tiles.append((f"#{selected.number}", "selected"))
        tiles += [(shown(name, selected.value(name, device, kind=kind)), heading(name, kind)) for name in objectives]
    body = "".join(f'<div class="tile"><b>{html.escape(a)}</b><span>{html.escape(b)}</span></div>' for a, b in tiles)
    note = "" if kind == "measured" else f'<p class="note">Latency on this device is {kind}, not measured.</p>'
    return f'<div class="tiles">{body}</div>{note}'


def _figures(
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    device: str,
    limits: Mapping[str, float],
    selected: TrialRecord | None,
    baseline: Baseline | None,
) -> str:
    """One figure per cost; the first carries plotly's script for all of them."""
    costs = [name for name in objectives if DIRECTIONS[name] == "minimize"]
    parts = []
    for i, cost in enumerate(costs):
        order = [cost, *(name for name in objectives if name != cost)]
        chart = front_figure(records, order, device, limits=limits, selected=selected, baseline=baseline)
        parts.append(
            chart.to_html(
                full_html=False,
                include_plotlyjs=i == 0,
                default_height="460px",
                div_id=f"front-{cost}",
                config={"responsive": True, "displaylogo": False, "displayModeBar": False},
            )
        )
    return "".join(parts)


def _players(example: AudioExample) -> str:
    takes = {"noisy": example.noisy, "enhanced": example.enhanced, "clean": example.clean}
    players = [
        f'<label>{name}<audio controls preload="metadata" src="{_data_uri(take)}"></audio></label>'
        for name, take in takes.items()
        if take is not None
    ]
    return f'<h3>{html.escape(example.name)}</h3><div class="players">{"".join(players)}</div>'


def _data_uri(take: bytes) -> str:
    media = {b"RIFF": "audio/wav", b"fLaC": "audio/flac"}.get(take[:4])
    if media is None:
        raise ValueError("an audio example is a WAV or a FLAC file")
    return f"data:{media};base64,{base64.b64encode(take).decode()}"


def _folded(title: str, body: str) -> str:
    return f"<section><details><summary>{html.escape(title)}</summary>{body}</details></section>\n"
