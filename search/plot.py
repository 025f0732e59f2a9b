"""A front drawn: interactive for the report, as a PNG for documents."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.facts import Baseline, FrontFacts, Points, front_facts, log_ticks
from search.record import TrialRecord

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

# Mid tones, readable on a light and on a dark page.
ACCENT, GREY, OVER, CHOSEN = "#3b82f6", "#8b93a1", "#e5484d", "#f59e0b"
TEXT, GRID = "#6b7280", "rgba(128,134,148,0.22)"
NAMES = {
    "evaluated": "evaluated",
    "over": "over budget",
    "untrained": "over budget, not trained",
    "front": "front",
    "elsewhere": "front, by another cost",
    "selected": "selected",
}


def front_figure(
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    device: str,
    *,
    limits: Mapping[str, float] | None = None,
    selected: TrialRecord | None = None,
    baseline: Baseline | None = None,
) -> Figure:
    """Interactive figure of the first metric of ``objectives`` over their first cost."""
    facts = front_facts(records, objectives, device, limits=limits, selected=selected, baseline=baseline)
    return draw(facts)


def draw(facts: FrontFacts) -> Figure:
    """The facts as a plotly figure."""
    from plotly.graph_objects import Figure

    chart = Figure(layout=_layout(facts))
    chart.add_trace(_stairs(facts))
    for name, marker in _markers().items():
        points: Points = getattr(facts, name)
        if points.x:
            chart.add_trace(_scatter(points, NAMES[name], marker))
    _budget(chart, facts)
    for name, level in facts.lines.items():
        chart.add_hline(
            y=level,
            line={"dash": "dot", "width": 1.5, "color": GREY},
            annotation={"text": f"{html.escape(name)} {level:.2f}", "font": {"color": TEXT, "size": 12}},
            annotation_position="top left",
        )
    return chart


def _markers() -> dict[str, dict[str, Any]]:
    return {
        "untrained": {"symbol": "line-ns-open", "size": 12, "color": OVER, "line": {"width": 1.5}},
        "over": {"symbol": "x-thin-open", "size": 8, "color": OVER, "line": {"width": 1.5}},
        "evaluated": {"size": 7, "color": GREY, "opacity": 0.6},
        "elsewhere": {"symbol": "circle-open", "size": 9, "color": ACCENT, "line": {"width": 1.5}},
        "front": {"size": 10, "color": ACCENT},
        "selected": {"symbol": "star", "size": 17, "color": CHOSEN, "line": {"width": 1, "color": "#7c4a03"}},
    }


def _scatter(points: Points, name: str, marker: dict[str, Any]) -> Scatter:
    from plotly.graph_objects import Scatter

    text = "%{hovertext}<extra></extra>"
    return Scatter(
        x=points.x,
        y=points.y,
        name=name,
        mode="markers",
        marker=marker,
        hovertext=points.hover,
        hovertemplate=text,
        cliponaxis=False,
    )


def _stairs(facts: FrontFacts) -> Scatter:
    from plotly.graph_objects import Scatter

    x, y = _corners(facts)
    line = {"shape": "hv", "color": ACCENT, "width": 2}
    return Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _corners(facts: FrontFacts) -> tuple[list[float], list[float]]:
    """Best score at each cost, drawn on to the budget: more cost never makes a student worse."""
    if not facts.front.x:
        return [], []
    end = facts.x_range[1] if facts.x_limit is None else facts.x_limit
    return [*facts.front.x, end], [*facts.front.y, facts.front.y[-1]]


def _budget(chart: Figure, facts: FrontFacts) -> None:
    shade = {"fillcolor": OVER, "opacity": 0.09, "line_width": 0, "layer": "below"}
    if facts.x_limit is not None:
        chart.add_vrect(x0=facts.x_limit, x1=facts.x_range[1], **shade)
        chart.add_vline(x=facts.x_limit, line={"color": OVER, "width": 1.5})
    if facts.y_limit is not None:
        chart.add_hrect(y0=facts.y_range[0], y1=facts.y_limit, **shade)
        chart.add_hline(y=facts.y_limit, line={"color": OVER, "width": 1.5})


def _layout(facts: FrontFacts) -> dict[str, Any]:
    def title(text: str) -> dict[str, Any]:
        return {"text": html.escape(text), "font": {"size": 13}}

    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "ticks": "outside", "tickcolor": GRID}
    x_range = [log10(side) for side in facts.x_range] if facts.log_x else list(facts.x_range)
    ticks = log_ticks(*facts.x_range) if facts.log_x else []
    log_scale = {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    scale = log_scale if facts.log_x else {}
    return {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": TEXT},
        "margin": {"l": 62, "r": 18, "t": 44, "b": 58},
        "height": 460,
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "xaxis": {**axis, **scale, "title": title(facts.x_label), "range": x_range},
        "yaxis": {**axis, "title": title(facts.y_label), "range": list(facts.y_range)},
    }


def front_png(
    path: str | os.PathLike[str],
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    device: str,
    *,
    limits: Mapping[str, float] | None = None,
    selected: TrialRecord | None = None,
    baseline: Baseline | None = None,
    title: str | None = None,
) -> None:
    """The same front as a PNG, 1600 x 1000 pixels, on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    facts = front_facts(records, objectives, device, limits=limits, selected=selected, baseline=baseline)
    canvas = Canvas(figsize=(8, 5), dpi=200, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    _draw_axes(axes, facts)
    if axes.get_legend_handles_labels()[0]:
        canvas.legend(loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    # A name with dollar signs is a name, not mathematics.
    axes.set_title(title or "", loc="left", fontsize=12, fontweight="bold", parse_math=False)
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        canvas.savefig(temporary, format="png")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw_axes(axes: Any, facts: FrontFacts) -> None:
    styles: dict[str, dict[str, Any]] = {
        "untrained": {"marker": "|", "s": 70, "color": OVER, "clip_on": False},
        "over": {"marker": "x", "s": 26, "color": OVER, "linewidths": 1.2},
        "evaluated": {"s": 22, "color": GREY, "alpha": 0.6, "linewidths": 0},
        "elsewhere": {"s": 34, "facecolors": "white", "edgecolors": ACCENT, "linewidths": 1.3},
        "front": {"s": 46, "color": ACCENT},
        "selected": {"marker": "*", "s": 210, "color": CHOSEN, "edgecolors": "#7c4a03", "linewidths": 0.7},
    }
    axes.plot(*_corners(facts), drawstyle="steps-post", color=ACCENT, linewidth=1.8, zorder=2)
    for name, style in styles.items():
        points: Points = getattr(facts, name)
        if points.x:
            axes.scatter(points.x, points.y, label=NAMES[name], zorder=3, **style)
    if facts.x_limit is not None:
        axes.axvspan(facts.x_limit, facts.x_range[1], color=OVER, alpha=0.08, linewidth=0)
        axes.axvline(facts.x_limit, color=OVER, linewidth=1.2)
    if facts.y_limit is not None:
        axes.axhspan(facts.y_range[0], facts.y_limit, color=OVER, alpha=0.08, linewidth=0)
    for name, level in facts.lines.items():
        axes.axhline(level, color=GREY, linestyle=":", linewidth=1.2)
        place = {"xy": (0.01, level), "xycoords": ("axes fraction", "data"), "va": "bottom", "fontsize": 9}
        axes.annotate(f"{name} {level:.2f}", color=TEXT, parse_math=False, **place)
    _scale_axes(axes, facts)


def _scale_axes(axes: Any, facts: FrontFacts) -> None:
    if facts.log_x:
        ticks = log_ticks(*facts.x_range)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.set(xlim=facts.x_range, ylim=facts.y_range)
    axes.set_xlabel(facts.x_label, parse_math=False)
    axes.set_ylabel(facts.y_label, parse_math=False)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
