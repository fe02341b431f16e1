"""What a dashboard says in words and figures: how the run stands, and what each epoch came to."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from harness.training.dashboard.charts import epoch_name, further_metrics
from harness.training.events import Plan
from harness.training.history import History
from harness.wording import counted, duration, figure

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
