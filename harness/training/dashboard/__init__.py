"""The dashboard of a training: its curves as a picture, and as a page that needs nothing else."""

from __future__ import annotations

import math
import textwrap
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.charts import LIGHT, Line, LineChart, tick_labels
from harness.charts.drawing import draw_legend, draw_lines, new_figure, plain_matplotlib, png_bytes
from harness.charts.page import Templates
from harness.files import write_whole
from harness.training import Plan
from harness.training.dashboard.charts import MOST_METRICS, epoch_name, further_metrics
from harness.training.history import History
from harness.wording import counted, duration, figure, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_TEMPLATES = Templates("harness.training.dashboard")
_NO_FACTS: Mapping[str, str] = MappingProxyType({})


def write_dashboard(history: History, plan: Plan, folder: Path, facts: Mapping[str, str] = _NO_FACTS) -> dict[str, Path]:
    """Writes the curves of a training as a picture, and as a page that needs nothing else.

    Args:
        history: What was measured so far; nothing at all is fine.
        plan: What was about to happen.
        folder: Where the files go; made if it is not there. Files of an earlier dashboard are replaced.
        facts: What else to say of the run, such as the values of its config, by label.

    Returns:
        ``png`` and ``html``, the paths of ``dashboard.png`` and ``dashboard.html``.

    Raises:
        OSError: The folder or the files cannot be written.
    """
    from harness.training.dashboard.charts import charts_of

    charts = charts_of(history, plan)
    contents = {"png": to_png(charts, history, plan), "html": to_html(charts, history, plan, facts).encode(errors="replace")}
    return {kind: write_whole(folder / f"dashboard.{kind}", content) for kind, content in contents.items()}


Mood: TypeAlias = Literal["failed", "warning", "passed", "going", "empty"]

MOST_ROWS = 200
"""Rows of the table of epochs; of more, the first, the last and the best are shown."""

_FIRST_ROWS = 20


@dataclass(frozen=True)
class Row:
    """An epoch in the table, or, with no cells, how many were left out there."""

    name: str
    step: str = ""
    cells: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True)
class Table:
    """The table of epochs."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def verdict(history: History, plan: Plan) -> tuple[Mood, str]:
    """How the run stands, in a sentence."""
    if not history.steps:
        return "empty", "No step was done yet"
    broken = _broken_words(history)
    if broken:
        return broken
    done = history.steps[-1] >= plan.steps
    best = history.best(plan.monitor)
    if best is None:
        loss = history.last("loss")
        words = f"loss {figure(loss, 4)}" if loss is not None else "no loss was measured"
    else:
        words = f"best {plan.monitor} {figure(best[1], 4)}, {epoch_name(best[0])}"
    return ("passed", f"Finished: {words}") if done else ("going", f"Step {history.steps[-1]:,} of {plan.steps:,}: {words}")


def key_figures(history: History, plan: Plan) -> dict[str, str]:
    """What a reader asks first, by label."""
    if not history.steps:
        return {}
    epochs = sum(epoch.epoch >= 0 for epoch in history.epochs)
    best, loss = history.best(plan.monitor), _mean(history.curve("loss")[-max(len(history.steps) // 20, 1) :])
    figures = {
        f"Best {plan.monitor}": f"{figure(best[1], 4)}, {epoch_name(best[0])}" if best else "",
        "Recent training loss": figure(loss, 4) if loss is not None and math.isfinite(loss) else "not finite",
        "Steps": f"{history.steps[-1]:,} of {plan.steps:,}",
        "Epochs": f"{epochs:,} of {plan.epochs:,}",
        "Time in steps": duration(history.seconds),
        "Throughput": f"{figure(history.examples / history.seconds, 4)} examples/s" if history.seconds > 0 else "",
        "Examples": f"{history.examples:,}",
    }
    return {label: text for label, text in figures.items() if text}


def share_done(history: History, plan: Plan) -> float:
    """How much of the run is done, from 0 to 1."""
    return min(history.steps[-1] / plan.steps, 1.0) if history.steps and plan.steps > 0 else 0.0


def epoch_table(history: History, plan: Plan) -> Table:
    """A row for each epoch: its training loss, and every metric."""
    names = [*(["val_loss"] if any("val_loss" in epoch.metrics for epoch in history.epochs) else []), *further_metrics(history)]
    best = history.best(plan.monitor)
    losses = _losses(history)
    columns = [losses, *([epoch.metrics.get(name) for epoch in history.epochs] for name in names)]
    rows = []
    for epoch, *cells in zip(history.epochs, *map(column_texts, columns), strict=True):
        name = "before training" if epoch.epoch < 0 else str(epoch.epoch + 1)
        rows.append(Row(name, f"{epoch.step:,}", tuple(cells), best is not None and best[0] == epoch.epoch))
    return Table(("Training loss", *names), tuple(_shortened(rows)))


def column_texts(values: Sequence[float | None]) -> list[str]:
    """The numbers of a table's column, with as many decimals each as its middle value needs for four digits; none is empty."""
    sizes = sorted(abs(value) for value in values if value is not None and math.isfinite(value) and value != 0)
    if not sizes or sizes[0] < 1e-4 or sizes[-1] >= 1e6:
        return ["" if value is None else figure(value, 4) for value in values]
    decimals = min(max(3 - math.floor(math.log10(sizes[len(sizes) // 2])), 0), 6)
    return ["" if value is None else f"{value:,.{decimals}f}" if math.isfinite(value) else str(value) for value in values]


def _broken_words(history: History) -> tuple[Mood, str] | None:
    """The verdict on losses that are not finite; ``None`` when all are."""
    broken = history.broken("loss")
    total = sum(broken)
    if not total:
        return None
    losses = history.curve("loss")
    if losses[-1] is None or math.isfinite(losses[-1]):
        return "warning", f"The loss was not finite in {counted(total, 'step')}, first in step {_first_broken(history):,}"
    if total and all(loss is None or math.isnan(loss) for loss in losses):
        return "warning", "No step had a loss that is a finite number"
    sound = next((index for index in reversed(range(len(losses))) if losses[index] is not None and broken[index] == 0), -1)
    return "failed", f"Diverged: the loss is not finite since step {history.spans[sound + 1][0]:,}"


def _first_broken(history: History) -> int:
    at = history.broken_at
    return at if at is not None else next(first for (first, _), n in zip(history.spans, history.broken("loss"), strict=True) if n)


def _losses(history: History) -> list[float | None]:
    """The mean training loss of each epoch, from the points that ended in it."""
    steps, losses = history.steps, history.curve("loss")
    ends = [bisect_right(steps, step) for step in (0, *(epoch.step for epoch in history.epochs))]
    return [_mean(losses[low:high]) for low, high in pairwise(ends)]


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; NaN if any value is, ``None`` if there is none."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def _shortened(rows: Sequence[Row]) -> list[Row]:
    if len(rows) <= MOST_ROWS:
        return list(rows)
    middle = rows[_FIRST_ROWS : len(rows) - (MOST_ROWS - _FIRST_ROWS)]
    best = [row for row in middle if row.best]
    left_out = Row(f"{len(middle) - len(best):,} epochs are not shown")
    return [*rows[:_FIRST_ROWS], left_out, *best, *rows[len(rows) - (MOST_ROWS - _FIRST_ROWS) :]]


_WIDTH, _HEAD, _LOSS, _ROW = 12.0, 0.95, 4.2, 2.4
"""Inches: of the picture, of the words above, of the loss, of each row below it."""

_COLUMNS = 3
_TONES = {"going": "ink", "empty": "soft"}


def to_png(charts: Sequence[LineChart], history: History, plan: Plan) -> bytes:
    """The dashboard as the bytes of a PNG file: the loss on top, the other charts in rows below."""
    rows = math.ceil(max(len(charts) - 1, 0) / _COLUMNS)
    height = _HEAD + (_LOSS if charts else 0.4) + rows * _ROW
    with plain_matplotlib():
        figure = new_figure(_WIDTH, height)
        _head(figure, history, plan, height)
        for index, chart in enumerate(charts):
            axes = figure.add_axes(_place(index, len(charts) - 1, height))
            draw_lines(axes, chart, roomy=index == 0)
            _words(axes, chart, wide=index == 0)
        return png_bytes(figure)


def _head(figure: Figure, history: History, plan: Plan, height: float) -> None:
    mood, words = verdict(history, plan)
    name, tone = shortened(plan.name or "training", 70), LIGHT[_TONES.get(mood, mood)]
    figure.text(0.04, 1 - 0.42 / height, name, fontsize=17, fontweight="bold", color=LIGHT["ink"], va="center")
    figure.text(0.04, 1 - 0.76 / height, words, fontsize=11.5, color=tone, va="center")
    figures = key_figures(history, plan)
    asked = [f"{label} {text}" for label, text in figures.items() if label in ("Steps", "Time in steps", "Throughput")]
    figure.text(0.98, 1 - 0.42 / height, "   ".join(asked), fontsize=10.5, color=LIGHT["soft"], va="center", ha="right")


def _place(index: int, below: int, height: float) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a chart, as shares of the picture."""
    left, right, gap = 0.055, 0.98, 0.055
    if index == 0:
        return left, 1 - (_HEAD + _LOSS - 0.45) / height, right - left, (_LOSS - 0.95) / height
    row, column = divmod(index - 1, _COLUMNS)
    columns = min(below, _COLUMNS)
    width = (right - left - gap * (columns - 1)) / columns
    bottom = 1 - (_HEAD + _LOSS + (row + 1) * _ROW - 0.4) / height
    return left + column * (width + gap), bottom, width, (_ROW - 1.0) / height


def _words(axes: Axes, chart: LineChart, *, wide: bool) -> None:
    """The title of a chart, its caption beside it and its notes below it."""
    size = 11.5 if wide else 10
    title = axes.set_title(shortened(chart.title, 60 if wide else 30), loc="left", fontsize=size, y=1.0, pad=9)
    title.set(color=LIGHT["ink"], fontweight="bold")
    # Up from the title's lower edge to its baseline.
    place: dict[str, Any] = {"xycoords": title, "xytext": (7, 0.236 * size), "textcoords": "offset points", "va": "baseline"}
    axes.annotate(chart.caption, (1, 0), fontsize=8.5, color=LIGHT["soft"], **place)
    if wide:
        draw_legend(axes, chart)
    if chart.notes:
        notes = textwrap.shorten(" ".join(chart.notes), 150 if wide else 108, placeholder=" …")
        lines = "\n".join(textwrap.wrap(notes, 150 if wide else 54))
        axes.set_xlabel(lines, fontsize=7.5, color=LIGHT["failed"], loc="left")


def to_html(charts: Sequence[LineChart], history: History, plan: Plan, facts: Mapping[str, str]) -> str:
    """The dashboard as a self-contained HTML page."""
    mood, words = verdict(history, plan)
    share = share_done(history, plan)
    left_out = len(further_metrics(history)) - MOST_METRICS
    return _TEMPLATES.render(
        "page.html.j2",
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
