"""A metric against the values of one key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.sweeps.picture.axis import Axis, make_axis, spans_far
from harness.sweeps.picture.style import BEST, FAILED, INK, MARK, PAGE, PALE, RULE, SOFT, plain_axes, plain_number
from harness.sweeps.result import SweepResult, TrialResult
from harness.wording import shortened, six_digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE_LETTERS, _NARROW_LETTERS = 110, 44
"""How many letters fit along the axis of a chart."""

_LOST_HEIGHT = 0.965
"""Where trials without a finite metric are marked, as a share of the height."""

_CROSS: dict[str, Any] = {
    "linestyle": "none",
    "marker": "x",
    "markersize": 7,
    "markeredgewidth": 2,
    "clip_on": False,
    "zorder": 4,
}


def draw_curve(axes: Axes, result: SweepResult, key: str, *, wide: bool) -> None:
    """Every trial as a dot, and a line through the best trial of each value.

    Trials that failed, or whose metric is not finite, are crosses along the top.

    Args:
        axes: Where to draw.
        result: The sweep.
        key: Whose values stand along the axis.
        wide: Whether the chart is the whole picture, which leaves room for words.
    """
    axis = make_axis(result.grid.values[key])
    plain_axes(axes)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    _mark_values(axes, axis, wide=wide)
    good = [trial for trial in result.trials if result.value(trial) is not None]
    _scale(axes, [result.value(trial) or 0.0 for trial in good])
    _draw_trials(axes, result, axis, key, good, wide=wide)
    _draw_lost(axes, result, axis, key, wide=wide)
    if result.best is not None:
        _draw_best(axes, result, axis.places[axis.index(result.best.params[key])], result.best, wide=wide)
    axes.set_xlabel(shortened(key, 60), fontsize=10.5 if wide else 10, color=INK, fontweight="bold")
    if wide:
        better = "less" if result.mode == "min" else "more"
        axes.set_ylabel(f"{shortened(result.metric, 40)}, {better} is better", fontsize=10, color=SOFT)


def _draw_trials(axes: Axes, result: SweepResult, axis: Axis, key: str, good: Sequence[TrialResult], *, wide: bool) -> None:
    found: dict[int, list[float]] = {}
    for trial in good:
        found.setdefault(axis.index(trial.params[key]), []).append(result.value(trial) or 0.0)
    several = any(len(values) > 1 for values in found.values())
    if several:
        dots = [(axis.places[index], value) for index, values in found.items() for value in values]
        axes.plot(*zip(*dots, strict=True), linestyle="none", marker="o", markersize=4.5, color=PALE, alpha=0.8, zorder=2)
    choose = min if result.mode == "min" else max
    line = [(axis.places[index], choose(found[index])) for index in sorted(found)]
    if line:
        style = "-" if axis.is_number else "none"
        size = 7 if wide else 5.5
        axes.plot(*zip(*line, strict=True), linestyle=style, linewidth=1.7, marker="o", markersize=size, color=MARK, zorder=3)


def _draw_lost(axes: Axes, result: SweepResult, axis: Axis, key: str, *, wide: bool) -> None:
    """Crosses along the top, with what they stand for where there is room, or how many."""
    lost: dict[int, list[TrialResult]] = {}
    for trial in result.trials:
        if result.value(trial) is None:
            lost.setdefault(axis.index(trial.params[key]), []).append(trial)
    height = axes.get_xaxis_transform()
    for index, trials in lost.items():
        place = (axis.places[index], _LOST_HEIGHT)
        axes.plot([place[0]], [place[1]], transform=height, color=FAILED, **_CROSS)
        said = _why(trials[0], result.metric) if wide else str(len(trials)) * (len(trials) > 1)
        offset = (0, -8) if wide else (7, 0)
        axes.annotate(
            said,
            place,
            xycoords=height,
            xytext=offset,
            textcoords="offset points",
            fontsize=8.5,
            color=FAILED,
            ha="center" if wide else "left",
            va="top" if wide else "center",
        )


def _why(trial: TrialResult, metric: str) -> str:
    return "failed" if trial.status == "failed" else str(trial.metrics[metric])


def _draw_best(axes: Axes, result: SweepResult, place: float, best: TrialResult, *, wide: bool) -> None:
    value = best.metrics[result.metric]
    axes.plot([place], [value], marker="o", markersize=11 if wide else 9, color=BEST, markeredgecolor=PAGE, zorder=5)
    if wide:
        below = result.mode == "min"
        axes.annotate(
            six_digits(value),
            (place, value),
            xytext=(0, -11 if below else 11),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
            fontsize=10.5,
            fontweight="bold",
            color=BEST,
        )


def _mark_values(axes: Axes, axis: Axis, *, wide: bool) -> None:
    """A tick at every value that has room for its label."""
    if axis.log:
        axes.set_xscale("log")
    axes.set_xlim(*axis.limits())
    ticks = axis.ticks(_WIDE_LETTERS if wide else _NARROW_LETTERS)
    axes.set_xticks([axis.places[index] for index in ticks], [axis.labels[index] for index in ticks], minor=False)
    axes.set_xticks([], minor=True)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """The metric's axis, with room above for the trials that have none."""
    from matplotlib.ticker import LogLocator, NullLocator

    if not values:
        axes.set_yticks([])
        axes.set_ylim(0, 1)
        return
    low, high = min(values), max(values)
    if spans_far(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(plain_number)
        axes.yaxis.set_minor_locator(NullLocator())
        span = high / low
        axes.set_ylim(low / span**0.14, high * span**0.14)
    else:
        span = high - low or abs(high) * 0.1 or 1.0
        axes.set_ylim(low - 0.14 * span, high + 0.14 * span)
