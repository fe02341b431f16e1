"""The dashboard as one HTML page that needs nothing else: no network, no fonts, no scripts from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment

from harness.charts.facts import Line, LineChart
from harness.charts.page import environment
from harness.charts.ticks import tick_labels
from harness.training.dashboard.charts import MOST_METRICS, further_metrics
from harness.training.dashboard.summary import epoch_table, key_figures, share_done, verdict
from harness.training.events import Plan
from harness.training.history import History


def to_html(charts: Sequence[LineChart], history: History, plan: Plan, facts: Mapping[str, str]) -> str:
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
        wanted=tick_labels([float(f"{plan.steps:.3g}")])[0],
        plan=plan,
        figures=key_figures(history, plan),
        charts=charts,
        left_out=max(left_out, 0),
        table=epoch_table(history, plan),
        facts={str(label): str(text) for label, text in facts.items()},
        data=page_data(charts),
    )  # fmt: skip


def page_data(charts: Sequence[LineChart]) -> dict[str, Any]:
    """What the page's script reads the values from; lines name their steps by index, as most lines share them."""
    steps = list(dict.fromkeys(line.x for chart in charts for line in chart.lines))
    return {"steps": steps, "charts": [_chart_data(chart, steps) for chart in charts]}


def _chart_data(chart: LineChart, steps: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    lines = [
        {"label": label, "steps": steps.index(line.x), "values": [_digits(value) for value in line.y]}
        for label, line in _short_labels(chart)
    ]
    return {"low": chart.x.low, "high": chart.x.high, "lines": lines}


def _short_labels(chart: LineChart) -> list[tuple[str, Line]]:
    """The lines that are read out, each with a label that is empty where the chart's title says it all."""
    lines = [line for line in chart.lines if line.style != "start"]
    several = len(lines) > 1 and any(line.style == "epochs" for line in lines)
    smooth = any(line.style == "raw" for line in lines)
    return [("mean" if smooth and line.style == "mean" else line.label if several else "", line) for line in lines]


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


@cache
def _environment() -> Environment:
    return environment("harness.training.dashboard")
