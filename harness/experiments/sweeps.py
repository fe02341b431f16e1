"""The rows of sweeps."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select, update

from harness.experiments.clock import Now, moment
from harness.experiments.errors import ExperimentError
from harness.experiments.records import Status, SweepRecord
from harness.experiments.tables import sweeps


def begin(connection: Connection, name: str, space: Any) -> int:
    """Writes a new sweep; returns its id."""
    row = insert(sweeps).values(name=name, space=space, status="running", created=Now())
    return int(connection.execute(row.returning(sweeps.c.id)).scalar_one())


def end(connection: Connection, sweep_id: int, status: Status) -> None:
    """Writes how a sweep ended.

    Raises:
        ExperimentError: There is no such sweep.
    """
    read(connection, sweep_id)
    connection.execute(update(sweeps).where(sweeps.c.id == sweep_id).values(status=status, finished=Now()))


def read(connection: Connection, sweep_id: int) -> SweepRecord:
    """A sweep by its id.

    Raises:
        ExperimentError: There is no such sweep.
    """
    row = connection.execute(select(sweeps).where(sweeps.c.id == sweep_id)).first()
    if row is None:
        raise ExperimentError(f"no sweep {sweep_id}")
    finished = None if row.finished is None else moment(row.finished)
    return SweepRecord(row.id, row.name, row.space, row.status, moment(row.created), finished)
