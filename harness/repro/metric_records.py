"""The metrics of a run: the last value of each, and all the values before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.repro.recorded import RecordedRun


@dataclass(frozen=True)
class Curve:
    """The values of one metric in the order in which they were logged.

    Attributes:
        steps: Steps; ``None`` where none was given.
        epochs: Epochs; ``None`` where none was given.
        values: The values, NaN and infinities too.
    """

    steps: list[int | None] = field(default_factory=list)
    epochs: list[float | None] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """The largest finite magnitude; 0 where there is none."""
        return max((abs(value) for value in self.values if math.isfinite(value)), default=0.0)


@dataclass(frozen=True)
class MetricRecords:
    """The metrics of a run.

    Attributes:
        last: The last value of each metric.
        history: The curves, of those metrics that have one.
    """

    last: dict[str, float]
    history: dict[str, Curve] = field(default_factory=dict)

    @staticmethod
    def of_run(recorded: RecordedRun) -> MetricRecords:
        """What a database holds of a run."""
        columns = recorded.history
        history: dict[str, Curve] = {}
        for name, step, epoch, value in zip(columns.name, columns.step, columns.epoch, columns.value.tolist(), strict=True):
            curve = history.setdefault(name, Curve())
            curve.steps.append(step)
            curve.epochs.append(epoch)
            curve.values.append(value)
        return MetricRecords(dict(recorded.last), history)

    @staticmethod
    def of_results(results: Mapping[str, Any]) -> MetricRecords:
        """The numbers of a training's ``eval_summary``; those of a group inside it have dotted names."""
        return MetricRecords(dict(_numbers(results.get("eval_summary"), "")))

    def to_json(self) -> dict[str, Any]:
        """Strict JSON values: NaN and infinities are text, and every number comes back to the last bit."""
        history = {
            name: {"step": curve.steps, "epoch": curve.epochs, "value": [strict(value) for value in curve.values]}
            for name, curve in sorted(self.history.items())
        }
        return {"last": {name: strict(value) for name, value in sorted(self.last.items())}, "history": history}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> MetricRecords:
        """The inverse of ``to_json``.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: It is something else.
        """
        history = {
            str(name): Curve(list(curve["step"]), list(curve["epoch"]), [float(value) for value in curve["value"]])
            for name, curve in data["history"].items()
        }
        return MetricRecords({str(name): float(value) for name, value in data["last"].items()}, history)


def strict(value: float | None) -> float | str | None:
    """A number as strict JSON has it: NaN and infinities are text."""
    return str(value) if value is not None and not math.isfinite(value) else value


def _numbers(value: Any, name: str) -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        groups = (_numbers(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items())
        return [pair for group in groups for pair in group]
    if value is None or isinstance(value, (str, bytes, list, tuple)):
        return []
    try:
        return [(name, float(value))]
    except (TypeError, ValueError, RuntimeError):  # torch raises RuntimeError for several elements
        return []
