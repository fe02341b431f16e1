"""What belongs to several runs: sweeps, stored comparisons, and runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update

from harness.experiments import metrics, runs
from harness.experiments.documents import flat, to_text
from harness.experiments.errors import ExperimentError
from harness.experiments.records import ComparisonRecord, RunTable, Status, SweepRecord
from harness.experiments.run_parts import read_configs
from harness.experiments.tables import Now, comparisons, moment, sweeps


def begin_sweep(connection: Connection, name: str, space: Any) -> int:
    """Writes a new sweep; returns its id."""
    row = insert(sweeps).values(name=name, space=space, status="running", created=Now())
    return int(connection.execute(row.returning(sweeps.c.id)).scalar_one())


def end_sweep(connection: Connection, sweep_id: int, status: Status) -> None:
    """Writes how a sweep ended.

    Raises:
        ExperimentError: There is no such sweep.
    """
    read_sweep(connection, sweep_id)
    connection.execute(update(sweeps).where(sweeps.c.id == sweep_id).values(status=status, finished=Now()))


def read_sweep(connection: Connection, sweep_id: int) -> SweepRecord:
    """A sweep by its id.

    Raises:
        ExperimentError: There is no such sweep.
    """
    row = connection.execute(select(sweeps).where(sweeps.c.id == sweep_id)).first()
    if row is None:
        raise ExperimentError(f"no sweep {sweep_id}")
    finished = None if row.finished is None else moment(row.finished)
    return SweepRecord(row.id, row.name, row.space, row.status, moment(row.created), finished)


def write_comparison(connection: Connection, baseline_id: int, candidate_id: int, metric: str, result: Any) -> None:
    """Writes the result of a comparison."""
    row = {"baseline_id": baseline_id, "candidate_id": candidate_id, "metric": metric, "result": result}
    connection.execute(insert(comparisons).values(**row, created=Now()))


def read_comparisons(connection: Connection, run_id: int) -> list[ComparisonRecord]:
    """The comparisons a run is part of, on either side, oldest first."""
    mine = or_(comparisons.c.baseline_id == run_id, comparisons.c.candidate_id == run_id)
    found = connection.execute(select(comparisons).where(mine).order_by(comparisons.c.id))
    return [ComparisonRecord(row.baseline_id, row.candidate_id, row.metric, row.result, moment(row.created)) for row in found]


def side_by_side(connection: Connection, run_ids: Sequence[int], grace: float) -> RunTable:
    """What differs between the configs of runs, and their last metrics."""
    settings = [flat(read_configs(connection, run_id)) for run_id in run_ids]
    last = metrics.read_last(connection, run_ids)
    names = sorted({name for found in last.values() for name in found})
    return RunTable(
        runs=tuple(runs.read(connection, run_id, grace) for run_id in run_ids),
        configs={key: row for key, row in _rows(settings).items() if len(set(map(to_text, row))) > 1},
        metrics={name: tuple(last[run_id].get(name) for run_id in run_ids) for name in names},
    )


def _rows(settings: Sequence[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    keys = sorted({key for setting in settings for key in setting})
    return {key: tuple(setting.get(key) for setting in settings) for key in keys}
