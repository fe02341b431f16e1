"""The charts of a training: which there are, and what they show of its history."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.charts import Axis, Band, Line, LineChart, Mark, Span, Values
from harness.training import Epoch, Plan
from harness.training.history import History
from harness.wording import counted, figure

MOST_METRICS = 6
"""Charts of further metrics; what is beyond is only in the table."""

_MOST_EPOCHS = 1000
_MOST_SPANS = 40
_WIDE_RATIO = 100.0
"""Positive values that are further apart than this get a logarithmic axis."""

_LEAST_SMOOTHED = 20
_WINDOWS = 80
"""Curves of fewer points are not smoothed; of longer ones, half a window is one point in so many."""


def charts_of(history: History, plan: Plan) -> list[LineChart]:
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
        self._x = _step_axis(min(known), max(known))

    def loss(self) -> LineChart | None:
        band = self._band()
        lines = [*self._lines("training", "loss"), *self._epoch_line("validation", "val_loss")]
        lines += self._start_line("validation before training", "val_loss")
        if not lines:
            return None
        notes = [*self._words_on_broken_steps("loss", "the loss was"), *self._words_on_epochs("val_loss")]
        return self._chart("Loss", "", lines, band=band, spans=self._broken_spans("loss"), notes=notes)

    def learning_rate(self) -> LineChart | None:
        values = _finite(self._history.curve("learning_rate"))
        line = [Line("learning rate", "mean", self._steps, values)] if self._steps else []
        return self._chart("Learning rate", "of the first parameter group", line, from_zero=True) if line else None

    def grad_norm(self) -> LineChart | None:
        lines = self._lines("gradient norm", "grad_norm")
        if not lines:
            return None
        notes = self._words_on_broken_steps("grad_norm", "the norm was")
        zeros = sum(value == 0 for value in lines[0].y)
        if zeros:
            notes.append(f"{counted(zeros, 'point')} of zero {'has' if zeros == 1 else 'have'} no place on a logarithmic axis.")
        lines = [replace(line, y=_positive(line.y)) for line in lines]
        return self._chart(
            "Gradient norm", "before clipping", lines, log=True, spans=self._broken_spans("grad_norm"), notes=notes
        )

    def throughput(self) -> LineChart | None:
        values = self._history.curve("throughput")
        if all(value is None for value in values):
            return None
        return self._chart("Throughput", "examples a second", self._smooth("throughput", _finite(values)), from_zero=True)

    def metric(self, name: str) -> LineChart | None:
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
        spans: Sequence[Span] = (),
        notes: Sequence[str] = (),
    ) -> LineChart:
        description = " ".join(text for text in (_story(line) for line in lines if line.style != "raw") if text)
        chart = LineChart(
            title,
            caption,
            description or "There is no finite value to draw.",
            tuple(lines),
            self._x,
            Axis(),
            band,
            tuple(spans),
            notes=tuple(notes),
        )
        drawn = chart.values
        if not drawn:
            return chart
        low, high = min(drawn), max(drawn)
        if log is None:
            log = not from_zero and low > 0 and high / low > _WIDE_RATIO
        begins_at_zero = not log and low >= 0 < high and (from_zero or low <= 0.3 * high)
        caption = ", ".join(filter(None, [caption, "logarithmic axis" if log else ""]))
        return replace(chart, caption=caption, y=Axis(low=0.0 if begins_at_zero else None, log=log), mark=self._best)

    def _lines(self, label: str, name: str) -> list[Line]:
        values = self._history.curve(name)
        return [] if all(value is None for value in values) else self._smooth(label, _finite(values))

    def _smooth(self, label: str, values: Values) -> list[Line]:
        half = half_window(len(values))
        if not half:
            return [Line(label, "mean", self._steps, values)]
        mean = Line(f"{label}, mean of {2 * half + 1} points", "mean", self._steps, smoothed(values, half))
        return [Line(label, "raw", self._steps, values), mean]

    def _band(self) -> Band | None:
        if all(first == last for first, last in self._spans):
            return None
        lows, highs = (_finite(self._history.curve(f"loss_{end}")) for end in ("min", "max"))
        return Band(self._steps, lows, highs)

    def _epoch_line(self, label: str, name: str) -> list[Line]:
        found = [(epoch.step, epoch.metrics[name]) for epoch in self._shown if name in epoch.metrics and epoch.epoch >= 0]
        steps, values = tuple(step for step, _ in found), _finite(value for _, value in found)
        return [Line(label, "epochs", steps, values)] if found else []

    def _start_line(self, label: str, name: str) -> list[Line]:
        """A single point: a line from here to the first epoch would claim what happened between."""
        found = [epoch for epoch in self._epochs if name in epoch.metrics and epoch.epoch < 0]
        return [Line(label, "start", (found[0].step,), _finite([found[0].metrics[name]]))] if found else []

    def _broken_spans(self, name: str) -> list[Span]:
        """Stretches with values that are not finite; those nearly next to each other as one."""
        found = zip(self._spans, self._history.broken(name), strict=True)
        broken = [Span(first - 0.5, last + 0.5, "not finite") for (first, last), count in found if count]
        low, high = self._x.low or 0.0, self._x.high or 0.0
        return _joined(broken, (high - low) / (4 * _MOST_SPANS))

    def _words_on_broken_steps(self, name: str, quantity: str) -> list[str]:
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


def _best(history: History, plan: Plan) -> Mark | None:
    found = history.best(plan.monitor)
    if found is None or sum(epoch.epoch >= 0 for epoch in history.epochs) < 2:
        return None  # of one, the best says nothing
    step = next(epoch.step for epoch in history.epochs if epoch.epoch == found[0])
    return Mark(step, f"best, {epoch_name(found[0])}")


def _thinned(epochs: Sequence[Epoch], best: Mark | None) -> list[Epoch]:
    """At most about ``_MOST_EPOCHS`` of them, the last and the best among them."""
    stride = math.ceil(len(epochs) / _MOST_EPOCHS) or 1
    kept = (epoch for index, epoch in enumerate(reversed(epochs)) if index % stride == 0 or (best and epoch.step == best.x))
    return list(kept)[::-1]


def _joined(spans: Iterable[Span], near: float) -> list[Span]:
    joined: list[Span] = []
    for span in spans:
        if joined and span.first - joined[-1].last <= max(near - 1, 0):
            joined[-1] = replace(joined[-1], last=span.last)
        else:
            joined.append(span)
    return joined


def _step_axis(first: int, last: int) -> Axis:
    """The axis of steps; it begins at 0 unless the run is known only from a later step on."""
    low = 0 if first <= 1 + (last - first) // 20 else first
    return Axis("step", float(low), float(max(last, low + 1)), whole=True)


def half_window(points: int) -> int:
    """How many neighbours on each side a mean is taken over; 0 for curves too short to be smoothed."""
    return max(points // _WINDOWS, 1) if points >= _LEAST_SMOOTHED else 0


def smoothed(values: Sequence[float | None], half: int) -> Values:
    """Means over each value and ``half`` neighbours on both sides, within stretches that are not broken by ``None``.

    At the start of a stretch, where a loss falls most, the window shrinks on both sides alike, so that the line begins where the
    values do. At its end it only ends: shrunk, it would follow the noise just where people look.
    """
    means: list[float | None] = []
    stretch: list[float] = []
    for value in (*values, None):
        if value is not None:
            stretch.append(value)
            continue
        for index in range(len(stretch)):
            reach = min(half, index)
            # Not by running sums: one huge value would cost all after it their digits.
            window = stretch[index - reach : index + reach + 1]
            means.append(sum(window) / len(window))
        stretch = []
        means.append(None)
    return tuple(means[:-1])


def _story(line: Line) -> str:
    """What a line does, in a sentence."""
    points = [(step, value) for step, value in zip(line.x, line.y, strict=True) if value is not None]
    if not points:
        return ""
    name = line.label[:1].upper() + line.label[1:]
    (start, first), (end, last) = points[0], points[-1]
    if len(points) == 1:
        return f"{name}: {figure(first, 4)} at step {start:,}."
    (low_at, low), (high_at, high) = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    return (
        f"{name}: from {figure(first, 4)} at step {start:,} to {figure(last, 4)} at step {end:,}; "
        f"lowest {figure(low, 4)} at step {low_at:,}, highest {figure(high, 4)} at step {high_at:,}."
    )


def _finite(values: Iterable[float | None]) -> Values:
    return tuple(value if value is not None and abs(value) < 1e300 else None for value in values)


def _positive(values: Values) -> Values:
    return tuple(value if value is not None and value > 0 else None for value in values)
