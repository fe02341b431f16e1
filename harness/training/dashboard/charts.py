"""Charts: what a dashboard draws of a history, whatever it is drawn with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.training.dashboard.axis import Axis, number_text, step_axis, value_axis
from harness.training.dashboard.smoothing import half_window, smoothed
from harness.training.events import Epoch, Plan
from harness.training.history import History
from harness.wording import counted

Values: TypeAlias = tuple[float | None, ...]
"""The values of a line; ``None`` breaks it."""

MOST_METRICS = 6
"""Charts of further metrics; what is beyond has its place in the table."""

MOST_DOTS = 60
"""Epochs that each get a dot; more of them are a line alone."""

LABELLED = 0.12
"""The share of a chart's width from which on a gap has room for words."""

_MOST_EPOCHS = 1000
_MOST_GAPS = 40
_WIDE_RATIO = 100.0
"""Positive values that are further apart than this get a log axis."""


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: What it shows.
        kind: ``raw`` for what was measured, drawn faintly behind its mean; ``mean`` for the line to look at; ``epochs`` for values
            that were measured once an epoch; ``start`` for one that was measured before training.
        steps: Where its points are.
        values: As many as steps.
    """

    label: str
    kind: Literal["raw", "mean", "epochs", "start"]
    steps: tuple[int, ...]
    values: Values

    @property
    def dots(self) -> list[int]:
        """Which of its points need a dot: those measured once an epoch, and those without a neighbour to draw a line to."""
        if self.kind in ("epochs", "start") and len(self.values) <= MOST_DOTS:
            return [index for index, value in enumerate(self.values) if value is not None]
        padded = (None, *self.values, None)
        alone = (padded[index] is None and padded[index + 2] is None for index in range(len(self.values)))
        return [
            index for index, (value, lonely) in enumerate(zip(self.values, alone, strict=True)) if lonely and value is not None
        ]


@dataclass(frozen=True)
class Band:
    """The least and largest value of each point, as soon as points stand for several steps."""

    steps: tuple[int, ...]
    lows: Values
    highs: Values


@dataclass(frozen=True)
class Gap:
    """A stretch of steps in which some or all values were not finite."""

    first: int
    last: int


@dataclass(frozen=True)
class Best:
    """The epoch that a checkpoint is chosen at."""

    step: int
    label: str


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: What is drawn.
        caption: How to read it.
        description: What there is to see, for those who don't.
        lines: From back to front.
        x: The axis of steps.
        y: The axis of values; ``None`` when there is no value to draw.
        band: Behind the lines.
        gaps: Marked stretches.
        best: Marked epoch.
        notes: What a reader must not overlook, in words.
    """

    title: str
    caption: str
    description: str
    lines: tuple[Line, ...]
    x: Axis
    y: Axis | None
    band: Band | None = None
    gaps: tuple[Gap, ...] = ()
    best: Best | None = None
    notes: tuple[str, ...] = ()


def charts_of(history: History, plan: Plan) -> list[Chart]:
    """The charts of a history, the loss first; a quantity that was never measured has none."""
    if not history.steps and not history.epochs:
        return []
    page = _Charts(history, plan)
    charts = [page.loss(), page.learning_rate(), page.grad_norm(), page.throughput()]
    charts += [page.metric(name) for name in further_metrics(history)[:MOST_METRICS]]
    return [chart for chart in charts if chart is not None]


def further_metrics(history: History) -> list[str]:
    """The names of the epochs' metrics without the validation loss, in the order they came."""
    return [name for name in dict.fromkeys(name for epoch in history.epochs for name in epoch.metrics) if name != "val_loss"]


def epoch_name(epoch: int) -> str:
    """An epoch for people, who count from 1."""
    return "before training" if epoch < 0 else f"epoch {epoch + 1}"


class _Charts:
    """What the charts of one history share."""

    def __init__(self, history: History, plan: Plan) -> None:
        self._history = history
        self._steps = tuple(history.steps)
        self._spans = history.spans
        self._epochs = history.epochs
        self._best = _best(history, plan)
        self._shown = _thinned(self._epochs, self._best)
        known = [*(first for first, _ in self._spans[:1]), *self._steps[-1:], *(epoch.step for epoch in self._epochs)]
        self._x = step_axis(min(known), max(known))

    def loss(self) -> Chart | None:
        band = self._band("loss")
        lines = [*self._lines("training", "loss"), *self._epoch_line("validation", "val_loss")]
        lines += self._start_line("validation before training", "val_loss")
        if not lines:
            return None
        notes = [*self._words_on_gaps("loss", "the loss was"), *self._words_on_epochs("val_loss")]
        return self._chart("Loss", "", lines, band=band, gaps=self._gaps("loss"), notes=notes)

    def learning_rate(self) -> Chart | None:
        values = _finite(self._history.curve("learning_rate"))
        line = [Line("learning rate", "mean", self._steps, values)] if self._steps else []
        return self._chart("Learning rate", "of the first parameter group", line, from_zero=True) if line else None

    def grad_norm(self) -> Chart | None:
        lines = self._lines("gradient norm", "grad_norm")
        if not lines:
            return None
        notes = self._words_on_gaps("grad_norm", "the norm was")
        zeros = sum(value == 0 for value in lines[0].values)
        if zeros:
            notes.append(f"{counted(zeros, 'point')} of zero {'has' if zeros == 1 else 'have'} no place on a log axis.")
        lines = [Line(line.label, line.kind, line.steps, _positive(line.values)) for line in lines]
        return self._chart("Gradient norm", "before clipping", lines, log=True, gaps=self._gaps("grad_norm"), notes=notes)

    def throughput(self) -> Chart | None:
        values = self._history.curve("throughput")
        if all(value is None for value in values):
            return None
        return self._chart("Throughput", "examples a second", self._smooth("throughput", _finite(values)), from_zero=True)

    def metric(self, name: str) -> Chart | None:
        # Without the score before training: it is far from all that follow, and would flatten them.
        lines = self._epoch_line(name, name)
        return self._chart(name, "after each epoch", lines, notes=self._words_on_epochs(name)) if lines else None

    def _chart(
        self,
        title: str,
        caption: str,
        lines: Sequence[Line],
        *,
        log: bool | None = None,
        from_zero: bool = False,
        band: Band | None = None,
        gaps: Sequence[Gap] = (),
        notes: Sequence[str] = (),
    ) -> Chart:
        drawn = [value for line in lines for value in line.values if value is not None]
        drawn += [value for ends in ((band.lows, band.highs) if band else ()) for value in ends if value is not None]
        if log is None and not from_zero:
            log = bool(drawn) and min(drawn) > 0 and max(drawn) / min(drawn) > _WIDE_RATIO
        axis = value_axis(drawn, log=bool(log), from_zero=from_zero)
        caption = ", ".join(part for part in (caption, "log axis" if log else "") if part)
        description = " ".join(text for text in (_story(line) for line in lines if line.kind != "raw") if text)
        description = description or "There is no finite value to draw."
        best = self._best if axis and self._best else None
        return Chart(title, caption, description, tuple(lines), self._x, axis, band, tuple(gaps), best, tuple(notes))

    def _lines(self, label: str, name: str) -> list[Line]:
        values = self._history.curve(name)
        return [] if all(value is None for value in values) else self._smooth(label, _finite(values))

    def _smooth(self, label: str, values: Values) -> list[Line]:
        half = half_window(len(values))
        if not half:
            return [Line(label, "mean", self._steps, values)]
        mean = Line(f"{label}, mean of {2 * half + 1} points", "mean", self._steps, smoothed(values, half))
        return [Line(label, "raw", self._steps, values), mean]

    def _band(self, name: str) -> Band | None:
        if all(first == last for first, last in self._spans):
            return None
        lows, highs = (_finite(self._history.curve(f"{name}_{end}")) for end in ("min", "max"))
        return Band(self._steps, lows, highs)

    def _epoch_line(self, label: str, name: str) -> list[Line]:
        found = [(epoch.step, epoch.metrics[name]) for epoch in self._shown if name in epoch.metrics and epoch.epoch >= 0]
        steps, values = tuple(step for step, _ in found), _finite(value for _, value in found)
        return [Line(label, "epochs", steps, values)] if found else []

    def _start_line(self, label: str, name: str) -> list[Line]:
        """A point of its own: a line from here to the first epoch would claim what happened between."""
        found = [epoch for epoch in self._epochs if name in epoch.metrics and epoch.epoch < 0]
        return [Line(label, "start", (found[0].step,), _finite([found[0].metrics[name]]))] if found else []

    def _gaps(self, name: str) -> list[Gap]:
        """Stretches with values that are not finite; those nearly next to each other as one."""
        return _joined(
            [Gap(first, last) for (first, last), broken in zip(self._spans, self._history.broken(name), strict=True) if broken],
            (self._x.high - self._x.low) / (4 * _MOST_GAPS),
        )

    def _words_on_gaps(self, name: str, quantity: str) -> list[str]:
        found = [(span, broken) for span, broken in zip(self._spans, self._history.broken(name), strict=True) if broken]
        if not found:
            return []
        first, last, total = found[0][0][0], found[-1][0][1], sum(broken for _, broken in found)
        where = f"in step {first:,}" if first == last else f"in {counted(total, 'step')} between {first:,} and {last:,}"
        return [f"Not finite: {quantity} NaN or infinite {where}."]

    def _words_on_epochs(self, name: str) -> list[str]:
        bad = [epoch.epoch for epoch in self._epochs if not math.isfinite(epoch.metrics.get(name, 0.0))]
        if not bad:
            return []
        where = epoch_name(bad[0]) if len(bad) == 1 else f"{counted(len(bad), 'epoch')}, first {epoch_name(bad[0])}"
        return [f"Not finite: {name} was NaN or infinite in {where}."]


def _best(history: History, plan: Plan) -> Best | None:
    found = history.best(plan.monitor)
    if found is None or sum(epoch.epoch >= 0 for epoch in history.epochs) < 2:
        return None  # of one, the best says nothing
    step = next(epoch.step for epoch in history.epochs if epoch.epoch == found[0])
    return Best(step, f"best, {epoch_name(found[0])}")


def _thinned(epochs: Sequence[Epoch], best: Best | None) -> list[Epoch]:
    """At most about ``_MOST_EPOCHS`` of them, the last and the best among them."""
    stride = math.ceil(len(epochs) / _MOST_EPOCHS) or 1
    return [epoch for index, epoch in enumerate(reversed(epochs)) if index % stride == 0 or (best and epoch.step == best.step)][
        ::-1
    ]


def _joined(gaps: Iterable[Gap], near: float) -> list[Gap]:
    joined: list[Gap] = []
    for gap in gaps:
        if joined and gap.first - joined[-1].last <= max(near, 1):
            joined[-1] = Gap(joined[-1].first, gap.last)
        else:
            joined.append(gap)
    return joined


def _story(line: Line) -> str:
    """What a line does, in a sentence."""
    points = [(step, value) for step, value in zip(line.steps, line.values, strict=True) if value is not None]
    if not points:
        return ""
    name = line.label[:1].upper() + line.label[1:]
    (start, first), (end, last) = points[0], points[-1]
    if len(points) == 1:
        return f"{name}: {number_text(first)} at step {start:,}."
    (low_at, low), (high_at, high) = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    return (
        f"{name}: from {number_text(first)} at step {start:,} to {number_text(last)} at step {end:,}; "
        f"lowest {number_text(low)} at step {low_at:,}, highest {number_text(high)} at step {high_at:,}."
    )


def _finite(values: Iterable[float | None]) -> Values:
    return tuple(value if value is not None and abs(value) < 1e300 else None for value in values)


def _positive(values: Values) -> Values:
    return tuple(value if value is not None and value > 0 else None for value in values)
