"""What a training measured, step by step and epoch by epoch, in bounded memory."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, TypeAlias

from harness.errors import did_you_mean
from harness.training.events import Epoch, Listener, Plan, Step

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


class _Measure:
    """A quantity, point by point: sum and number of its finite values, their ends, and how many were not finite."""

    __slots__ = _COLUMNS = ("sums", "counts", "lows", "highs", "broken")

    def __init__(self) -> None:
        self.sums: list[float] = []
        self.counts: list[int] = []
        self.lows: list[float] = []
        self.highs: list[float] = []
        self.broken: list[int] = []

    def open(self) -> None:
        self.sums.append(0.0)
        self.counts.append(0)
        self.lows.append(0.0)
        self.highs.append(0.0)
        self.broken.append(0)

    def add(self, value: float) -> bool:
        """Adds to the newest point; ``False`` when the value is not finite."""
        if not -_HUGE < value < _HUGE:
            self.broken[-1] += 1
            return False
        if not self.counts[-1]:
            self.lows[-1] = self.highs[-1] = value
        elif value < self.lows[-1]:
            self.lows[-1] = value
        elif value > self.highs[-1]:
            self.highs[-1] = value
        self.sums[-1] += value
        self.counts[-1] += 1
        return True

    def halve(self) -> None:
        ends = [_ends(self, index) for index in range(0, len(self.sums), 2)]
        self.lows, self.highs = [low for low, _ in ends], [high for _, high in ends]
        self.sums, self.counts, self.broken = _pairs(self.sums), _pairs(self.counts), _pairs(self.broken)

    def cut(self, length: int) -> None:
        for column in self._COLUMNS:
            del getattr(self, column)[length:]

    def values(self, end: str) -> list[float | None]:
        """Means, or the ``min`` or ``max``; NaN where nothing was finite, ``None`` where nothing was measured."""
        found = {"min": self.lows, "max": self.highs}.get(end)
        return [
            (found[index] if found else self.sums[index] / count) if count else math.nan if self.broken[index] else None
            for index, count in enumerate(self.counts)
        ]

    def state(self) -> State:
        return {column: list(getattr(self, column)) for column in self._COLUMNS}


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
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._filled: list[int] = []
        self._examples: list[int] = []
        self._seconds: list[float] = []
        self._measures = {name: _Measure() for name in MEASURES}
        self._broken_at: int | None = None
        self._epochs: list[Epoch] = []

    def on_start(self, plan: Plan) -> None:
        """Drops what lies beyond the step the run is resumed from."""
        self._forget(plan.start)

    def on_step(self, step: Step) -> None:
        """Adds a step to the newest point, or to a new one when that is full."""
        if self._lasts and step.step <= self._lasts[-1]:
            self._forget(step.step - 1)
        if not self._filled or self._filled[-1] >= self._width:
            self._open(step.step)
        self._lasts[-1] = step.step
        self._filled[-1] += 1
        self._examples[-1] += step.examples
        self._seconds[-1] += step.seconds
        measures = self._measures
        if not measures["loss"].add(float(step.loss)) and self._broken_at is None:
            self._broken_at = step.step
        measures["learning_rate"].add(float(step.learning_rate))
        if step.grad_norm is not None:
            measures["grad_norm"].add(float(step.grad_norm))

    def on_epoch(self, epoch: Epoch) -> None:
        """Keeps an epoch; one that comes a second time takes the place of the first and of all after it."""
        self._epochs = [known for known in self._epochs if known.epoch < epoch.epoch]
        self._epochs.append(Epoch(epoch.epoch, epoch.step, {name: float(value) for name, value in epoch.metrics.items()}))

    @property
    def steps(self) -> list[int]:
        """The last step of each point."""
        return list(self._lasts)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The first and last step of each point; the same step until points were merged."""
        return list(zip(self._firsts, self._lasts, strict=True))

    @property
    def epochs(self) -> list[Epoch]:
        """The epochs so far, the evaluation before training (epoch -1) included."""
        return list(self._epochs)

    @property
    def seconds(self) -> float:
        """Time spent in the steps, without the evaluations between them."""
        return math.fsum(self._seconds)

    @property
    def examples(self) -> int:
        """Rows trained on."""
        return sum(self._examples)

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
            return [rows / time if time > 0 else None for rows, time in zip(self._examples, self._seconds, strict=True)]
        return self._measure(name).values(name.rpartition("_")[2])

    def broken(self, name: str) -> list[int]:
        """How many values of a measure were not finite, for each of ``steps``.

        Raises:
            KeyError: No measure has this name.
        """
        return list(self._measure(name).broken)

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
            "first": list(self._firsts),
            "last": list(self._lasts),
            "filled": list(self._filled),
            "examples": list(self._examples),
            "seconds": list(self._seconds),
            "broken_at": self._broken_at,
            "epochs": [_epoch_state(epoch) for epoch in self._epochs],
            **{name: measure.state() for name, measure in self._measures.items()},
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
            "steps": self._lasts,
            "curves": {name: [_finite(value) for value in self.curve(name)] for name in CURVES},
            "epochs": [
                {"epoch": e.epoch, "step": e.step, "metrics": {name: _finite(value) for name, value in e.metrics.items()}}
                for e in self._epochs
            ],
        }
        return json.dumps(document, allow_nan=False)

    def _measure(self, name: str) -> _Measure:
        if name not in CURVES or name == "throughput":
            raise KeyError(f"no curve {name!r}; there are {', '.join(CURVES)}.{did_you_mean(name, CURVES)}")
        return self._measures[name.removesuffix("_min").removesuffix("_max")]

    def _open(self, step: int) -> None:
        if len(self._lasts) >= LIMIT:
            self._halve()
        self._firsts.append(step)
        self._lasts.append(step)
        self._filled.append(0)
        self._examples.append(0)
        self._seconds.append(0.0)
        for measure in self._measures.values():
            measure.open()

    def _halve(self) -> None:
        self._width *= 2
        self._firsts, self._lasts = self._firsts[::2], self._lasts[1::2]
        self._filled, self._examples, self._seconds = _pairs(self._filled), _pairs(self._examples), _pairs(self._seconds)
        for measure in self._measures.values():
            measure.halve()

    def _forget(self, step: int) -> None:
        """Drops everything after a step."""
        length = bisect_right(self._lasts, step)
        for column in (self._firsts, self._lasts, self._filled, self._examples, self._seconds):
            del column[length:]
        for measure in self._measures.values():
            measure.cut(length)
        if self._broken_at is not None and self._broken_at > step:
            self._broken_at = None
        del self._epochs[bisect_right([epoch.step for epoch in self._epochs], step) :]

    def _load(self, state: Mapping[str, Any]) -> None:
        if state["format"] != _FORMAT:
            raise ValueError(f"The history's state has format {state['format']!r}, not {_FORMAT}: another version wrote it.")
        self._width, self._broken_at = state["width"], state["broken_at"]
        self._firsts, self._lasts, self._filled = list(state["first"]), list(state["last"]), list(state["filled"])
        self._examples, self._seconds = list(state["examples"]), list(state["seconds"])
        for name, measure in self._measures.items():
            for column in _Measure._COLUMNS:
                setattr(measure, column, list(state[name][column]))
        for epoch in state["epochs"]:
            metrics = {str(name): float(value) for name, value in epoch["metrics"].items()}
            self._epochs.append(Epoch(epoch["epoch"], epoch["step"], metrics))
        columns: list[list[Any]] = [self._firsts, self._filled, self._examples, self._seconds]
        columns += [getattr(measure, column) for measure in self._measures.values() for column in _Measure._COLUMNS]
        if any(len(column) != len(self._lasts) for column in columns):
            raise ValueError("This is not the state of a training history: its columns differ in length.")


def _pairs(values: list[Any]) -> list[Any]:
    return [first + second for first, second in zip(values[::2], values[1::2], strict=True)]


def _ends(measure: _Measure, index: int) -> tuple[float, float]:
    """The least and largest finite value of a point and the next; zeros, which nobody reads, when there is none."""
    full = [at for at in (index, index + 1) if measure.counts[at]]
    return min((measure.lows[at] for at in full), default=0.0), max((measure.highs[at] for at in full), default=0.0)


def _epoch_state(epoch: Epoch) -> State:
    # JSON has no NaN; as text it comes back through float().
    metrics = {name: value if math.isfinite(value) else str(value) for name, value in epoch.metrics.items()}
    return {"epoch": epoch.epoch, "step": epoch.step, "metrics": metrics}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
