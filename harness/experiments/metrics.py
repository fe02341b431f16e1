"""The rows of metrics: checked, written, read, ranked."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from harness.errors import ExperimentError
from harness.experiments.records import MetricColumns, Mode, RunRecord
from harness.experiments.runs import record_of, status_now
from harness.experiments.tables import metrics, runs

_BIGGEST_STEP = 2**63 - 1


def rows_of(values: Mapping[str, Any], step: int | None, epoch: float | None, time: float) -> list[dict[str, Any]]:
    """Values as rows, or nothing where one of them is wrong.

    Args:
        values: Numbers, or arrays and tensors of one number, by name.
        step: The step they belong to.
        epoch: The epoch they belong to.
        time: Seconds since 1970.

    Raises:
        ExperimentError: A name is no printable text, a value is no number, or a step or epoch is impossible.
    """
    step = None if step is None else _step(step)
    epoch = None if epoch is None else _epoch(epoch)
    return [
        {"name": _name(name), "step": step, "epoch": epoch, "value": _value(name, value), "time": time}
        for name, value in values.items()
    ]


def write(connection: Connection, run_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows made by ``rows_of``."""
    connection.execute(insert(metrics), [{"run_id": run_id, **row} for row in rows])


def read(connection: Connection, run_id: int, name: str | None) -> MetricColumns:
    """A run's rows, of one metric or of all."""
    import numpy as np

    columns = (metrics.c.name, metrics.c.step, metrics.c.epoch, metrics.c.value, metrics.c.time)
    query = select(*columns).where(metrics.c.run_id == run_id).order_by(metrics.c.id)
    if name is not None:
        query = query.where(metrics.c.name == name)
    found = connection.execute(query).all()
    names, steps, epochs, values, times = map(list, zip(*found, strict=True)) if found else ([], [], [], [], [])
    return MetricColumns(names, steps, epochs, np.array(values, np.float64), np.array(times, np.float64))


def read_last(connection: Connection, run_ids: Sequence[int], name: str | None = None) -> dict[int, dict[str, float]]:
    """The last value of every metric, or of one, by run."""
    newest = select(func.max(metrics.c.id)).where(metrics.c.run_id.in_(run_ids)).group_by(metrics.c.run_id, metrics.c.name)
    if name is not None:
        newest = newest.where(metrics.c.name == name)
    query = select(metrics.c.run_id, metrics.c.name, metrics.c.value).where(metrics.c.id.in_(newest)).order_by(metrics.c.name)
    found: dict[int, dict[str, float]] = {run_id: {} for run_id in run_ids}
    for row in connection.execute(query):
        found[row.run_id][row.name] = row.value
    return found


def best_run(connection: Connection, metric: str, mode: Mode, task: str | None, grace: float) -> RunRecord | None:
    """The finished run whose last value of a metric is best; the older one of two equals."""
    newest = (
        select(func.max(metrics.c.id)).where(metrics.c.run_id == runs.c.id, metrics.c.name == metric).correlate(runs)
    ).scalar_subquery()
    biggest = sys.float_info.max
    query = (
        select(runs, status_now(grace).label("status_now"))
        .join(metrics, metrics.c.id == newest)
        .where(runs.c.status == "finished", metrics.c.value.between(-biggest, biggest))  # NaN and infinities are never best
        .order_by(metrics.c.value.asc() if mode == "min" else metrics.c.value.desc(), runs.c.id)
        .limit(1)
    )
    if task is not None:
        query = query.where(runs.c.task == task)
    found = connection.execute(query).first()
    return record_of(found) if found else None


def _name(name: object) -> str:
    if not (isinstance(name, str) and name.strip() and name.isprintable()):
        raise ExperimentError(f"a metric's name is printable text, not {name!r}")
    return name


def _value(name: str, value: Any) -> float:
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # torch raises RuntimeError for several elements
        raise ExperimentError(f"metric {name!r}: expected one number, got {_short(value)}") from error


def _step(step: Any) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        raise ExperimentError(f"a step is a whole number, not {_short(step)}") from None
    if abs(number) > _BIGGEST_STEP:
        raise ExperimentError(f"a step has at most 64 bits, {_short(step)} has more")
    return number


def _epoch(epoch: Any) -> float:
    number = _value("epoch", epoch)
    if not math.isfinite(number):
        raise ExperimentError(f"an epoch is a finite number, not {_short(epoch)}")
    return number


def _short(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}".replace("\n", " ")
