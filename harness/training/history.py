"""What a training measured, step by step and epoch by epoch, in bounded memory."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from harness.errors import did_you_mean
from harness.training import Epoch, Listener, Plan, Step

LIMIT = 2000
"""Points a curve has at most; must be even, as full curves are halved by merging pairs."""

MEASURES = ("loss", "learning_rate", "grad_norm")
"""What is averaged where a point stands for several steps; each also has curves of its least and largest value."""

CURVES = (*MEASURES, *(f"{name}_{end}" for name in MEASURES for end in ("min", "max")), "throughput")
"""The names that ``History.curve`` knows; throughput is in examples a second."""

_FORMAT = 1
_HUGE = 1e300
"""Beyond this a value counts as not finite, since sums over it would not be."""

State: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class _Measured:
    """A quantity at a point: sum and number of its finite values, their ends (0 where there is none), and how many were not finite."""

    sums: float = 0.0
    counts: int = 0
    lows: float = 0.0
    highs: float = 0.0
    broken: int = 0

    def add(self, value: float) -> bool:
        """Adds a value; ``False`` when it is not finite."""
        if not -_HUGE < value < _HUGE:
            self.broken += 1
            return False
        if not self.counts:
            self.lows = self.highs = value
        elif value < self.lows:
            self.lows = value
        elif value > self.highs:
            self.highs = value
        self.sums += value
        self.counts += 1
        return True

    def merged(self, other: _Measured) -> _Measured:
        full = [one for one in (self, other) if one.counts]
        low, high = min((one.lows for one in full), default=0.0), max((one.highs for one in full), default=0.0)
        return _Measured(self.sums + other.sums, self.counts + other.counts, low, high, self.broken + other.broken)

    def value(self, end: str) -> float | None:
        """The mean, or the ``min`` or ``max``; NaN where nothing was finite, ``None`` where nothing was measured."""
        if not self.counts:
            return math.nan if self.broken else None
        return {"min": self.lows, "max": self.highs}[end] if end in ("min", "max") else self.sums / self.counts


@dataclass(slots=True)
class _Point:
    """One or several steps of a curve."""

    first: int
    last: int
    filled: int = 0
    examples: int = 0
    seconds: float = 0.0
    measures: dict[str, _Measured] = field(default_factory=lambda: {name: _Measured() for name in MEASURES})

    def merged(self, other: _Point) -> _Point:
        measures = {name: measured.merged(other.measures[name]) for name, measured in self.measures.items()}
        examples, seconds = self.examples + other.examples, self.seconds + other.seconds
        return _Point(self.first, other.last, self.filled + other.filled, examples, seconds, measures)


_COLUMNS = ("first", "last", "filled", "examples", "seconds")
_PARTS = ("sums", "counts", "lows", "highs", "broken")
"""What is saved of each point, and of each measure at it."""


class History(Listener):
    """Keeps what is measured by step and by epoch.

    A curve has at most ``LIMIT`` points: when it is full, neighbouring points are merged, so that each stands for twice as many steps.
    Means stay means, examples and seconds are summed, and the least and largest values are kept, so that a spike stays in sight.
    Epochs are all kept.

    A step that comes a second time, because a run was resumed from before it, first drops everything from that step on. A point that
    reaches from before the step to beyond it is dropped as a whole, as what lies beyond can't be taken out of a mean.
    """

    def __init__(self) -> None:
        self._width = 1
        self._points: list[_Point] = []
        self._broken_at: int | None = None
        self._epochs: list[Epoch] = []

    def on_start(self, plan: Plan) -> None:
        """Drops what lies beyond the step the run is resumed from."""
        self._forget(plan.start)

    def on_step(self, step: Step) -> None:
        """Adds a step to the newest point, or to a new one when that is full."""
        if self._points and step.step <= self._points[-1].last:
            self._forget(step.step - 1)
        if not self._points or self._points[-1].filled >= self._width:
            self._open(step.step)
        point = self._points[-1]
        point.last = step.step
        point.filled += 1
        point.examples += step.examples
        point.seconds += step.seconds
        if not point.measures["loss"].add(float(step.loss)) and self._broken_at is None:
            self._broken_at = step.step
        point.measures["learning_rate"].add(float(step.learning_rate))
        if step.grad_norm is not None:
            point.measures["grad_norm"].add(float(step.grad_norm))

    def on_epoch(self, epoch: Epoch) -> None:
        """Keeps an epoch; one that comes a second time takes the place of the first and of all after it."""
        self._epochs = [known for known in self._epochs if known.epoch < epoch.epoch]
        self._epochs.append(Epoch(epoch.epoch, epoch.step, {name: float(value) for name, value in epoch.metrics.items()}))

    @property
    def steps(self) -> list[int]:
        """The last step of each point."""
        return [point.last for point in self._points]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The first and last step of each point; the same step until points were merged."""
        return [(point.first, point.last) for point in self._points]

    @property
    def epochs(self) -> list[Epoch]:
        """The epochs so far, the evaluation before training (epoch -1) included."""
        return list(self._epochs)

    @property
    def seconds(self) -> float:
        """Time spent in the steps, without the evaluations between them."""
        return math.fsum(point.seconds for point in self._points)

    @property
    def examples(self) -> int:
        """Rows trained on."""
        return sum(point.examples for point in self._points)

    @property
    def broken_at(self) -> int | None:
        """The first step whose loss was not finite."""
        return self._broken_at

    def curve(self, name: str) -> list[float | None]:
        """A curve of ``CURVES``, a value for each of ``steps``.

        Returns:
            NaN where the measured values were not finite; ``None`` where nothing was measured.

        Raises:
            KeyError: No curve has this name.
        """
        if name == "throughput":
            return [point.examples / point.seconds if point.seconds > 0 else None for point in self._points]
        return [measured.value(name.rpartition("_")[2]) for measured in self._measured(name)]

    def broken(self, name: str) -> list[int]:
        """How many values of a measure were not finite, for each of ``steps``.

        Raises:
            KeyError: No measure has this name.
        """
        return [measured.broken for measured in self._measured(name)]

    def last(self, name: str) -> float | None:
        """The newest point of a curve, or the newest value of an epoch's metric; ``None`` where there is none."""
        if name in CURVES:
            return next(iter(self.curve(name)[-1:]), None)
        return next((epoch.metrics[name] for epoch in reversed(self._epochs) if name in epoch.metrics), None)

    def best(self, metric: str, *, largest: bool = False) -> tuple[int, float] | None:
        """The epoch with the smallest (or largest) finite value of a metric, and that value; the first of equals.

        The evaluation before training does not compete. ``None`` when no epoch has such a value.
        """
        found = [(epoch.epoch, epoch.metrics.get(metric, math.nan)) for epoch in self._epochs if epoch.epoch >= 0]
        found = [(epoch, value) for epoch, value in found if math.isfinite(value)]
        return min(found, key=lambda pair: -pair[1] if largest else pair[1], default=None)

    def state_dict(self) -> State:
        """Everything, as plain lists and numbers without NaN: fit for JSON and for ``torch.load(weights_only=True)``."""
        return {
            "format": _FORMAT,
            "width": self._width,
            **{column: [getattr(point, column) for point in self._points] for column in _COLUMNS},
            "broken_at": self._broken_at,
            "epochs": [_epoch_state(epoch) for epoch in self._epochs],
            **{name: {part: [getattr(one, part) for one in self._measured(name)] for part in _PARTS} for name in MEASURES},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the place of everything kept so far.

        Raises:
            ValueError: The state is not one of ``state_dict``, or of another version; the history stays as it was.
        """
        loaded = History()
        try:
            loaded._load(state)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"This is not the state of a training history: {error!r}.") from error
        self.__dict__.update(loaded.__dict__)

    def to_json(self) -> str:
        """The curves and epochs for other programs to read; what is not finite is ``null``."""
        document = {
            "seconds": self.seconds,
            "examples": self.examples,
            "steps": self.steps,
            "curves": {name: [_finite(value) for value in self.curve(name)] for name in CURVES},
            "epochs": [
                {"epoch": e.epoch, "step": e.step, "metrics": {name: _finite(value) for name, value in e.metrics.items()}}
                for e in self._epochs
            ],
        }
        return json.dumps(document, allow_nan=False)

    def _measured(self, name: str) -> list[_Measured]:
        """A measure at each point."""
        if name not in CURVES or name == "throughput":
            raise KeyError(f"no curve {name!r}; there are {', '.join(CURVES)}.{did_you_mean(name, CURVES)}")
        measure = name.removesuffix("_min").removesuffix("_max")
        return [point.measures[measure] for point in self._points]

    def _open(self, step: int) -> None:
        if len(self._points) >= LIMIT:
            self._width *= 2
            self._points = [one.merged(other) for one, other in zip(self._points[::2], self._points[1::2], strict=True)]
        self._points.append(_Point(step, step))

    def _forget(self, step: int) -> None:
        """Drops everything after a step."""
        del self._points[bisect_right([point.last for point in self._points], step) :]
        if self._broken_at is not None and self._broken_at > step:
            self._broken_at = None
        del self._epochs[bisect_right([epoch.step for epoch in self._epochs], step) :]

    def _load(self, state: Mapping[str, Any]) -> None:
        if state["format"] != _FORMAT:
            raise ValueError(f"The history's state has format {state['format']!r}, not {_FORMAT}: another version wrote it.")
        self._width, self._broken_at = state["width"], state["broken_at"]
        columns = [list(state[column]) for column in _COLUMNS]
        measures = {name: [list(state[name][part]) for part in _PARTS] for name in MEASURES}
        for epoch in state["epochs"]:
            metrics = {str(name): float(value) for name, value in epoch["metrics"].items()}
            self._epochs.append(Epoch(epoch["epoch"], epoch["step"], metrics))
        if len({len(column) for part in (columns, *measures.values()) for column in part}) > 1:
            raise ValueError("This is not the state of a training history: its columns differ in length.")
        self._points = [_Point(*row) for row in zip(*columns, strict=True)]
        for name, parts in measures.items():
            for point, row in zip(self._points, zip(*parts, strict=True), strict=True):
                point.measures[name] = _Measured(*row)


def _epoch_state(epoch: Epoch) -> State:
    # JSON has no NaN; as text it comes back through float().
    metrics = {name: value if math.isfinite(value) else str(value) for name, value in epoch.metrics.items()}
    return {"epoch": epoch.epoch, "step": epoch.step, "metrics": metrics}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
