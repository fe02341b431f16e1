"""The dashboard as one HTML page that needs nothing else: no network, no fonts, no scripts from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.training.dashboard.axis import Axis, linear_labels
from harness.training.dashboard.charts import LABELLED, MOST_METRICS, Chart, Line, further_metrics
from harness.training.dashboard.summary import epoch_table, key_figures, share_done, verdict
from harness.training.events import Plan
from harness.training.history import History

FIELD = 1000
"""Width and height, in its own units, of the drawing that a chart's lines are on; it is stretched to the chart's size."""

_LEAST_GAP = 0.4
_EDGE = 0.04


def to_html(charts: Sequence[Chart], history: History, plan: Plan, facts: Mapping[str, str]) -> str:
    """The dashboard as a self-contained HTML page."""
    mood, words = verdict(history, plan)
    share = share_done(history, plan)
    left_out = len(further_metrics(history)) - MOST_METRICS
    return _environment().get_template("page.html.j2").render(
        name=plan.name or "training",
        mood=mood,
        verdict=words,
        share=round(100 * share, 3),
        # Rounded down: 100 % is what is finished.
        percent=math.floor(100 * share + 1e-9),
        # Three digits, since more don't fit into the ring.
        wanted=linear_labels([float(f"{plan.steps:.3g}")])[0],
        plan=plan,
        figures=key_figures(history, plan),
        charts=charts,
        left_out=max(left_out, 0),
        table=epoch_table(history, plan),
        facts={str(label): str(text) for label, text in facts.items()},
        data=page_data(charts),
    )  # fmt: skip


def line_path(line: Line, x: Axis, y: Axis) -> str:
    """A line as the ``d`` of an SVG path; points without neighbours are left to their dots."""
    parts, pen = [], "M"
    for step, value in zip(line.steps, line.values, strict=True):
        if value is None:
            pen = "M"
            continue
        point = f"{_across(step, x)} {_down(value, y)}"
        parts.append(f"{pen}{point}")
        pen = "L"
    return "".join(parts)


def band_path(chart: Chart, y: Axis) -> str:
    """The band of a chart as the ``d`` of an SVG path: along the largest values and back along the least."""
    if chart.band is None:
        return ""
    stretches: list[list[tuple[int, float, float]]] = [[]]
    for step, low, high in zip(chart.band.steps, chart.band.lows, chart.band.highs, strict=True):
        if low is None or high is None:
            stretches.append([])
        else:
            stretches[-1].append((step, low, high))
    return "".join(_outline(stretch, chart.x, y) for stretch in stretches if stretch)


def page_data(charts: Sequence[Chart]) -> dict[str, Any]:
    """What the page's script reads the values from; lines name their steps by index, as most lines share them."""
    steps = list(dict.fromkeys(line.steps for chart in charts for line in chart.lines))
    return {"steps": steps, "charts": [_chart_data(chart, steps) for chart in charts]}


def _chart_data(chart: Chart, steps: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    lines = [
        {"label": label, "steps": steps.index(line.steps), "values": [_digits(value) for value in line.values]}
        for label, line in _short_labels(chart)
    ]
    return {"low": chart.x.low, "high": chart.x.high, "lines": lines}


def _short_labels(chart: Chart) -> list[tuple[str, Line]]:
    """The lines that are read out, each with a label that is empty where the chart's title says it all."""
    lines = [line for line in chart.lines if line.kind != "start"]
    several = len(lines) > 1 and any(line.kind == "epochs" for line in lines)
    smooth = any(line.kind == "raw" for line in lines)
    return [("mean" if smooth and line.kind == "mean" else line.label if several else "", line) for line in lines]


def _outline(stretch: Sequence[tuple[int, float, float]], x: Axis, y: Axis) -> str:
    there = [f"{_across(step, x)} {_down(high, y)}" for step, _, high in stretch]
    back = [f"{_across(step, x)} {_down(low, y)}" for step, low, _ in reversed(stretch)]
    return f"M{'L'.join([*there, *back])}Z"


def _across(step: float, x: Axis) -> str:
    return f"{FIELD * x.place(step):.1f}".removesuffix(".0")


def _down(value: float, y: Axis) -> str:
    return f"{FIELD * (1 - y.place(value)):.1f}".removesuffix(".0")


def _percent(place: float) -> float:
    return round(100 * place, 3)


def _anchor(place: float) -> str:
    """How a label is set so that it does not run over its chart's edge."""
    return "start" if place < _EDGE else "end" if place > 1 - _EDGE else "middle"


def _gap_places(chart: Chart) -> Iterable[tuple[float, float]]:
    """Left edge and width of each gap in percent, wide enough to be seen."""
    for gap in chart.gaps:
        left, right = _percent(max(chart.x.place(gap.first - 0.5), 0.0)), _percent(min(chart.x.place(gap.last + 0.5), 1.0))
        width = max(right - left, _LEAST_GAP)
        yield min(left, 100 - width), round(width, 3)


def _dots(line: Line, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Places of a line's dots, in percent."""
    points = [(line.steps[index], line.values[index]) for index in line.dots]
    return [(_percent(x.place(step)), _percent(1 - y.place(value))) for step, value in points if value is not None]


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


@cache
def _environment() -> Environment:
    loader = PackageLoader("harness.training.dashboard", "")
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        "field": FIELD,
        "anchor": _anchor,
        "band_path": band_path,
        "dots": _dots,
        "gap_places": _gap_places,
        "labelled": 100 * LABELLED,
        "line_path": line_path,
        "percent_of": _percent,
    }
    return environment
