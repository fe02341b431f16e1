"""The files that a sweep leaves: its table, its data, and a picture: a curve for one key, a heat map for two, a chart for each for more."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness.charts import LIGHT, Axis, Cell, HeatMap, Line, LineChart, Point, Tick
from harness.charts.drawing import draw_heat_map, draw_lines, new_figure, plain_matplotlib, png_bytes
from harness.errors import ExperimentError
from harness.files import write_whole
from harness.sweeps.grid import SweepResult, TrialResult, identity, shown
from harness.wording import shortened, six_digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FILES = ("sweep.csv", "sweep.json", "sweep.png")


def write_files(result: SweepResult) -> None:
    """Writes a sweep's table, data and picture into its folder; the picture only where matplotlib is installed.

    Raises:
        ExperimentError: They cannot be written.
    """
    table, data = to_csv(result).encode(), json.dumps(result.to_json(), indent=2).encode()
    picture = to_png(result) if find_spec("matplotlib") else None
    try:
        for name, content in zip(FILES, (table, data, picture), strict=True):
            if content is not None:
                write_whole(result.folder / name, content)
    except OSError as error:
        raise ExperimentError(f"{result.folder}: the sweep's files cannot be written: {error.strerror or error}") from None


def to_csv(result: SweepResult) -> str:
    """A row a trial, in the order of the table: the values, the metrics, and what became of it."""
    metrics = dict.fromkeys([result.metric, *(name for trial in result.trials for name in trial.metrics)])
    taken = {"number", "run_id", "status", "seconds", "error", *result.grid.values}
    names = [f"{name} (metric)" if name in taken else name for name in metrics]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["number", *result.grid.values, *names, "run_id", "status", "seconds", "error"])
    for trial in result.trials:
        params = [value if isinstance(value, str) else json.dumps(value) for value in trial.params.values()]
        found = [trial.metrics.get(name, "") for name in metrics]
        end = [trial.run_id, trial.status, f"{trial.seconds:.3f}", trial.error or ""]
        writer.writerow([trial.combination.number, *params, *found, *end])
    return file.getvalue()


_COLUMNS = 3
_HEAD = 1.05
"""Inches above the charts, for words."""

_LOG_RATIO = 30.0
"""Values of which the greatest is more than so many times the least are on a logarithmic axis."""

_ROOM = 0.08
_METRIC_ROOM = 0.14
"""Room at both ends of an axis, as a share of what the values span."""

_LONGEST_LABEL = 14


@dataclass(frozen=True)
class Scale:
    """The values of a key as places along an axis: numbers by size, anything else in the order given.

    Attributes:
        values: In the order in which they stand.
    """

    values: tuple[Any, ...]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Scale:
        """The scale of a key's values."""
        return cls(tuple(sorted(values)) if all(map(_is_number, values)) else tuple(values))

    @cached_property
    def is_number(self) -> bool:
        """Whether all values are numbers."""
        return all(map(_is_number, self.values))

    @cached_property
    def is_log(self) -> bool:
        """Whether the values span far or grow by ratios."""
        return self.is_number and (spans_far(self.values) or _is_geometric(self.values))

    def index(self, value: Any) -> int:
        """Which of the values it is."""
        return self._indices[identity(value)]

    def place(self, value: Any) -> float:
        """Where it stands: a number at its value, anything else at 0, 1, 2 and so on."""
        return float(value) if self.is_number else float(self.index(value))

    def axis(self, label: str) -> Axis:
        """An axis with a tick at every value."""
        places = [self.place(value) for value in self.values]
        ticks = tuple(Tick(place, text) for place, text in zip(places, self._labels, strict=True))
        return Axis(label, *_ends(places[0], places[-1], self.is_log, _ROOM if self.is_number else 0.0), self.is_log, ticks=ticks)

    def categories(self, label: str) -> Axis:
        """An axis with the values as categories."""
        return Axis(label, ticks=tuple(Tick(float(index), text) for index, text in enumerate(self._labels)))

    @cached_property
    def _labels(self) -> list[str]:
        short = [f"{value:.4g}" if self.is_number else shown(value) for value in self.values]
        full = short if len(set(short)) == len(short) else [shown(value) for value in self.values]
        return [label if len(label) <= _LONGEST_LABEL else f"{label[:6]}…{label[-7:]}" for label in full]

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {identity(value): index for index, value in enumerate(self.values)}


def spans_far(values: Sequence[float]) -> bool:
    """Whether values are all above zero, and the greatest is more than 30 times the least."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_RATIO


def to_png(result: SweepResult) -> bytes:
    """The picture as the bytes of a PNG file."""
    varied = [key for key, values in result.grid.values.items() if len(values) > 1] or list(result.grid.values)[:1]
    width, height = _size(result, varied)
    with plain_matplotlib():
        figure = new_figure(width, height, layout="constrained")
        rect = (0.012, 0.015, 0.976, 1 - _HEAD / height - 0.015)
        figure.get_layout_engine().set(rect=rect, w_pad=0.12)  # type: ignore[union-attr, call-arg]
        _draw_head(figure, result, varied, width, height)
        if len(varied) == 2:
            across, up = sorted(varied, key=lambda key: -len(result.grid.values[key]))
            draw_heat_map(figure.add_subplot(), heat_map_of(result, across, up))
        else:
            _draw_curves(figure, result, varied)
        return png_bytes(figure)


def curve_of(result: SweepResult, key: str, *, wide: bool = True) -> LineChart:
    """The metric against the values of a key: every trial as a dot, and a line through the best trial of each value.

    Args:
        result: The sweep.
        key: Whose values stand along the axis.
        wide: Whether there is room to say why trials have no finite metric, rather than how many they are.
    """
    scale = Scale.of(result.grid.values[key])
    found: dict[int, list[float]] = {}
    lost: dict[int, list[TrialResult]] = {}
    for trial in result.trials:
        value, index = result.value(trial), scale.index(trial.params[key])
        if value is None:
            lost.setdefault(index, []).append(trial)
        else:
            found.setdefault(index, []).append(value)
    places = [scale.place(value) for value in scale.values]
    dots = [(places[index], value) for index, values in found.items() for value in values]
    choose = min if result.mode == "min" else max
    best = [(places[index], choose(found[index])) for index in sorted(found)]
    lines = [Line("every trial", "trials", *_columns(dots))] if len(dots) > len(best) else []
    lines += [Line("best of each value", "trend" if scale.is_number else "values", *_columns(best))] if best else []
    points = [Point(places[index], None, _why_lost(trials, result.metric, wide=wide)) for index, trials in lost.items()]
    if result.best is not None:
        value = result.best.metrics[result.metric]
        points.append(Point(scale.place(result.best.params[key]), value, six_digits(value), below=result.mode == "min"))
    return LineChart(key, "", "", tuple(lines), scale.axis(key), _metric_axis(result), points=tuple(points))


def heat_map_of(result: SweepResult, across: str, up: str) -> HeatMap:
    """The metric over the values of two keys; a cell without a finite metric says why."""
    columns, rows = Scale.of(result.grid.values[across]), Scale.of(result.grid.values[up])
    trials = {(columns.index(trial.params[across]), rows.index(trial.params[up])): trial for trial in result.trials}
    cells = [
        _cell(result, trials.get((column, row)), column, row)
        for column in range(len(columns.values))
        for row in range(len(rows.values))
    ]
    best = result.best and (columns.index(result.best.params[across]), rows.index(result.best.params[up]))
    scale = Axis(_better(result), log=_metric_axis(result).log)
    return HeatMap(
        columns.categories(shortened(across, 60)),
        rows.categories(shortened(up, 40)),
        tuple(cells),
        scale,
        best_is_low=result.mode == "min",
        best=best or None,
    )


def _cell(result: SweepResult, trial: TrialResult | None, column: int, row: int) -> Cell:
    if trial is None:
        return Cell(column, row, None, "not run")
    value = result.value(trial)
    if value is None:
        return Cell(column, row, None, _why_lost([trial], result.metric, wide=True), failed=True)
    return Cell(column, row, value, f"{value:#.4g}".rstrip("."))


def _why_lost(trials: Sequence[TrialResult], metric: str, *, wide: bool) -> str:
    """Why the first of them has no finite metric, or how many there are."""
    if not wide:
        return str(len(trials)) if len(trials) > 1 else ""
    return "failed" if trials[0].status == "failed" else str(trials[0].metrics[metric])


def _metric_axis(result: SweepResult) -> Axis:
    """The axis of the metric, with room above for the trials that have none."""
    values = [value for trial in result.trials if (value := result.value(trial)) is not None]
    label = _better(result)
    if not values:
        return Axis(label)
    return Axis(label, *_ends(min(values), max(values), spans_far(values), _METRIC_ROOM), log=spans_far(values))


def _better(result: SweepResult) -> str:
    return f"{shortened(result.metric, 40)}, {'lower' if result.mode == 'min' else 'higher'} is better"


def _ends(low: float, high: float, log: bool, room: float) -> tuple[float, float]:
    """Both ends of an axis: the values with some room, or half a place around categories."""
    if log:
        return low / (high / low) ** room, high * (high / low) ** room
    margin = ((high - low) * room or abs(high) * 0.1 * room or 0.5) if room else 0.5
    return low - margin, high + margin


def _columns(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(x for x, _ in points), tuple(y for _, y in points)


def _size(result: SweepResult, varied: list[str]) -> tuple[float, float]:
    """Width and height in inches."""
    if len(varied) == 1:
        return 9.0, 5.2 + _HEAD
    if len(varied) == 2:
        up, across = sorted(len(result.grid.values[key]) for key in varied)
        return min(max(3.2 + 0.85 * across, 8.0), 16.0), min(max(1.2 + 0.62 * up, 3.2), 12.0) + _HEAD
    return 12.0, 3.4 * math.ceil(len(varied) / _COLUMNS) + _HEAD


def _draw_curves(figure: Figure, result: SweepResult, varied: list[str]) -> None:
    """A chart for each key, on one scale of the metric."""
    wide = len(varied) == 1
    columns = min(len(varied), _COLUMNS)
    charts = figure.subplots(math.ceil(len(varied) / columns), columns, sharey=True, squeeze=False).ravel()
    for index, axes in enumerate(charts):
        if index >= len(varied):
            axes.set_visible(False)
            continue
        draw_lines(axes, curve_of(result, varied[index], wide=wide), fontsize=9, roomy=wide)
        axes.set_xlabel(shortened(varied[index], 60), fontsize=10.5 if wide else 10, color=LIGHT["ink"], fontweight="bold")
        if index % columns == 0:
            axes.set_ylabel(_better(result), fontsize=10, color=LIGHT["soft"])


def _draw_head(figure: Figure, result: SweepResult, varied: list[str], width: float, height: float) -> None:
    """What the sweep is, its best trial, and how to read the marks."""
    letters = int(width * 8.6)
    best = result.best
    words = f"best {six_digits(result.value(best))} with {best.combination}" if best else f"no trial has a finite {result.metric}"
    lines: tuple[tuple[float, str, dict[str, Any]], ...] = (
        (0.3, shortened(f"{result.name}: {result.metric} of {result.amount}", letters), {"fontsize": 15, "fontweight": "bold"}),
        (0.6, shortened(words, int(letters * 1.45)), {"fontsize": 11, "color": LIGHT["passed" if best else "failed"]}),
        (0.85, shortened(" · ".join(_notes(result, varied)), int(letters * 1.7)), {"fontsize": 9, "color": LIGHT["soft"]}),
    )
    for down, text, style in lines:
        figure.text(0.16 / width, 1 - down / height, text, va="center", **{"color": LIGHT["ink"], **style})


def _notes(result: SweepResult, varied: list[str]) -> list[str]:
    """What the marks mean, and what the charts do not show."""
    lost = len([trial for trial in result.trials if trial.status == "finished" and result.value(trial) is None])
    what = [f"{len(result.failed)} failed"] * bool(result.failed) + [f"{lost} not finite"] * bool(lost)
    crosses = ["× " + " and ".join(what)] * bool(what) if len(varied) != 2 else what
    several = ["pale dots: every trial, line: the best of each value"] if len(varied) > 2 else []
    fixed = [f"{key}={shown(values[0])}" for key, values in result.grid.values.items() if key not in varied]
    return [f"sweep {result.sweep_id}", *several, *crosses, *fixed]


def _is_geometric(values: Sequence[float]) -> bool:
    """Whether sorted values, such as 8, 16, 32, are more even in their ratios than in their differences."""
    if len(values) < 3 or values[0] <= 0:
        return False
    pairs = list(pairwise(values))
    gaps, ratios = [high - low for low, high in pairs], [math.log(high / low) for low, high in pairs]
    return max(ratios) / min(ratios) < max(gaps) / min(gaps)


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; truth values are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
